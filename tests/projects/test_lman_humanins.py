import json
import sys
from collections import defaultdict

import lman_humanins
import make_humanins
import numpy as np
import pytest
from lman_humanins import READERS, Caps, ImageRecord, PersonRecord, Source, build_instructions, register_reader
from lman_readers import CIHP_PARTS, LIP_PARTS, outline_of, pair_pictures
from PIL import Image

from lumen.codecs import BoxCodec
from lumen.data.image import read_image
from lumen.data.text import QuestionsDataset
from lumen.errors import ConfigError, DataError


def read(name, path, images=None, names=()):
    """Return the records of a source, and what was skipped."""
    report = defaultdict(list)
    return list(READERS[name](Source(path, images or path, names), report)), dict(report)


def picture(path, size_hw=(20, 30)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size_hw[::-1], (90, 60, 30)).save(path)


def texts(record, form, **options):
    return [(q["question"], q["answer"]) for q in build_instructions([record], forms=[form], **options)["questions"]]


def test_boxes_are_capped_shuffled_and_written():
    boxes = [(0.0, 0.0, 1.0 + place, 10.0) for place in range(5)]
    record = ImageRecord("a.jpg", (40, 40), tuple(PersonRecord(box) for box in boxes), count=5)
    ((_, answer),) = texts(record, "boxes", caps=Caps(boxes=2))
    # The two largest; 40 pixels in 40 bins, read at the middle of a bin.
    assert sorted(place.values[2] for place in BoxCodec("bins", bins=40).decode(answer, (40, 40)).places) == [4.5, 5.5]
    assert texts(ImageRecord("a.jpg", (40, 40), count=0), "boxes")[0][1] == "none"
    assert texts(ImageRecord("a.jpg", (40, 40)), "boxes") == []


def test_keypoints_are_asked_all_or_some_and_what_is_absent_has_a_fixed_answer():
    person = PersonRecord((0.0, 0.0, 9.0, 9.0), {f"joint {n}": (float(n), 2.0) for n in range(8)}, absent=("left ear",))
    record = ImageRecord("a.jpg", (40, 40), (person,))
    ((asked, answer),) = texts(record, "points", caps=Caps(subset=0.0, negatives=1.0))
    assert answer.startswith("joint 0 0,2; joint 1 1,2; ") and answer.endswith("joint 7 7,2; left ear is not in view")
    assert "left ear" in asked
    for seed in range(5):
        ((_, answer),) = texts(record, "points", caps=Caps(subset=1.0, subset_size=3, negatives=0.0), seed=seed)
        assert 1 <= answer.count("joint") <= 3
    # Among several persons, the box tells which one.
    several = ImageRecord("a.jpg", (40, 40), (person, PersonRecord((1.0, 1.0, 2.0, 2.0))))
    assert "the person at 0,0,9,9" in texts(several, "points")[0][0]


def test_outlines_are_left_out_until_the_answer_fits():
    parts = {f"part {n}": tuple(float(value) for value in range(12)) for n in range(5)}
    record = ImageRecord("a.jpg", (40, 40), (PersonRecord(parts=parts),))
    ((_, answer),) = texts(record, "polygons", caps=Caps(coordinates=30))
    assert answer.count("part") == 2
    assert texts(record, "polygons", caps=Caps(coordinates=5)) == []


def test_yes_and_no_are_asked_equally_often():
    person = PersonRecord(attributes={"hat": True, "boots": False, "scarf": False, "skirt": False})
    answers = [texts(ImageRecord("a.jpg", (9, 9), (person,)), "attributes", seed=seed)[0] for seed in range(60)]
    assert 20 <= sum(answer == "yes" for _, answer in answers) <= 40
    assert all(("hat" in asked) == (answer == "yes") for asked, answer in answers)
    # Several of one person are different ones, as many as there are.
    several = texts(ImageRecord("a.jpg", (9, 9), (person,)), "attributes", caps=Caps(questions=9, attributes=6))
    names = [asked.split(": ")[1].rstrip("?") for asked, _ in several]
    assert sorted(names) == sorted(person.attributes) and [answer for _, answer in several].count("yes") == 1


def test_images_keep_the_numbers_that_their_source_gives_them():
    persons = (PersonRecord((0.0, 0.0, 9.0, 9.0)),)
    numbers = (None, 70)
    records = [ImageRecord("a.jpg", (40, 40), persons, count=1, image_id=number) for number in numbers]
    content = build_instructions(records, forms=["number"])
    assert [image["id"] for image in content["images"]] == [1, 70]
    assert [question["image_id"] for question in content["questions"]] == [1, 70]


def test_a_file_of_instructions_is_read_as_questions(tmp_path):
    records = [
        ImageRecord("a.jpg", (40, 40), (PersonRecord((0.0, 0.0, 9.0, 9.0), attributes={"hat": True}),), count=1),
        ImageRecord("nothing.jpg", (40, 40)),
        ImageRecord("pair.jpg", (40, 80), same=False),
    ]
    content = build_instructions(records, seed=3)
    assert content == build_instructions(records, seed=3)
    assert [image["file_name"] for image in content["images"]] == ["a.jpg", "pair.jpg"]
    (tmp_path / "questions.json").write_text(json.dumps(content))
    dataset = QuestionsDataset(ann_file="questions.json", data_root=str(tmp_path))
    forms = [question["form"] for number in range(2) for question in dataset.get_data_info(number)["questions"]]
    assert forms == ["boxes", "attributes", "number", "same"]
    assert len(build_instructions(records, caps=Caps(questions=1))["questions"]) == 2
    with pytest.raises(ConfigError, match="forms name some of"):
        build_instructions(records, forms=["riddles"])
    with pytest.raises(ConfigError, match="a reader 'lip' already"):
        register_reader("lip")(lambda source, report: iter(()))
    assert lman_humanins.READERS is READERS


def test_crowdhuman(tmp_path):
    picture(tmp_path / "images/one.jpg")
    boxes = [
        {"tag": "person", "fbox": [-5, 2, 10, 30], "vbox": [0, 2, 5, 18], "extra": {"box_id": 0}},
        {"tag": "person", "fbox": [10, 2, 4, 8], "extra": {"ignore": 1}},
        {"tag": "mask", "fbox": [1, 1, 2, 2], "extra": {"ignore": 1}},
    ]
    lines = [{"ID": "one", "gtboxes": boxes}, {"ID": "one", "gtboxes": boxes[:1]}, {"ID": "lost", "gtboxes": boxes}]
    (tmp_path / "a.odgt").write_text("\n".join(map(json.dumps, lines)))
    (record, certain), report = read("crowdhuman", tmp_path / "a.odgt", tmp_path / "images")
    assert record.persons == (PersonRecord((0.0, 2.0, 5.0, 20.0)),) and record.count is None
    assert certain.count == 1
    assert report == {"image is missing or cannot be read": ["lost.jpg"]}
    (tmp_path / "bad.odgt").write_text('{"ID": "one"}')
    with pytest.raises(DataError, match="line 1"):
        read("crowdhuman", tmp_path / "bad.odgt", tmp_path / "images")


def test_coco_persons(tmp_path):
    category = {"id": 7, "name": "person", "keypoints": ["nose", "left_eye"]}
    rows = [
        {"id": 1, "image_id": 1, "category_id": 7, "bbox": [1, 2, 3, 4], "keypoints": [2, 3, 2, 0, 0, 0]},
        {"id": 2, "image_id": 1, "category_id": 7, "bbox": [1, 2, 3, 4], "iscrowd": 1},
        {"id": 3, "image_id": 1, "category_id": 8, "bbox": [1, 2, 3, 4]},
    ]
    images = [{"id": number, "file_name": f"{number}.jpg", "height": 20, "width": 30} for number in (1, 2)]
    content = {"images": images, "annotations": rows, "categories": [category, {"id": 8, "name": "dog"}]}
    (tmp_path / "a.json").write_text(json.dumps(content))
    (record, empty), report = read("coco_persons", tmp_path / "a.json")
    (person,) = record.persons
    assert person.keypoints == {"nose": (2, 3)} and person.absent == ("left eye",) and record.count is None
    assert empty.count == 0 and report == {"crowd, or box without extent": ["1.jpg"]}
    (tmp_path / "a.json").write_text(json.dumps(content | {"categories": [{"id": 8, "name": "dog"}]}))
    with pytest.raises(DataError, match="'person'"):
        read("coco_persons", tmp_path / "a.json")


def test_label_maps_of_lip_and_cihp(tmp_path):
    labels = np.zeros((10, 12), np.uint8)
    labels[1:3, 2:6], labels[3:9, 2:6], labels[1:3, 8:10] = LIP_PARTS.index("hat"), LIP_PARTS.index("coat"), 13
    for name in ("lip", "Category_ids"):
        (tmp_path / name).mkdir()
        Image.fromarray(labels).save(tmp_path / name / "a.png")
    (record,), _ = read("lip", tmp_path / "lip")
    assert record.image == "a.jpg" and record.size_hw == (10, 12)
    (person,) = record.persons
    assert person.box == (2, 1, 10, 9) and set(person.parts) == {"hat", "coat", "face"}
    assert person.parts["hat"] == (2, 1, 2, 3, 6, 3, 6, 1) and "skirt" in person.absent
    with pytest.raises(DataError, match="Human_ids"):
        read("cihp", tmp_path)
    (tmp_path / "Human_ids").mkdir()
    Image.fromarray((labels > 0) * np.where(np.arange(12) < 7, 1, 2).astype(np.uint8)).save(
        tmp_path / "Human_ids/a.png"
    )
    (record,), _ = read("cihp", tmp_path)
    assert [set(person.parts) for person in record.persons] == [{"hat", "coat"}, {"face"}] and record.count == 2
    assert CIHP_PARTS[10] == "torso skin"
    with pytest.raises(DataError, match="holds part 13"):
        read("lip", tmp_path / "lip", names=("background", "hat"))
    assert outline_of(np.zeros((3, 3), bool)) is None


def test_market1501_and_pairs(tmp_path):
    names = ["0002_c1s1_000451_03.jpg", "0002_c2s1_000001_01.jpg", "0007_c1s1_000002_01.jpg"]
    for name in (*names, "0000_c1s1_000003_01.jpg", "-1_c1s1_000004_01.jpg", "other.jpg"):
        picture(tmp_path / "in" / name, (16, 8))
    records, report = read("market1501", tmp_path / "in")
    assert [(r.persons[0].identity, r.persons[0].camera) for r in records] == [(2, 1), (2, 2), (7, 1)]
    assert sorted(map(len, report.values())) == [1, 2]
    (tmp_path / "out").mkdir()
    pairs = list(pair_pictures(records, tmp_path / "in", tmp_path / "out", number=4))
    assert [pair.same for pair in pairs] == [True, False, True, False]
    assert read_image(str(tmp_path / "out" / pairs[0].image), root=str(tmp_path)).shape == (16, 16, 3)
    with pytest.raises(DataError, match="no pairs can be made"):
        list(pair_pictures(records[1:], tmp_path / "in", tmp_path / "out", number=1))


def test_matlab_files(tmp_path):
    scipy_io = pytest.importorskip("scipy.io")

    def cells(*values):
        table = np.empty((len(values), 1), dtype=object)
        table[:, 0] = values
        return table

    picture(tmp_path / "images/000001.jpg", (40, 20))
    tables = {"attributes": cells("Female", "Hat"), "train_images_name": cells("000001.jpg", "000002.jpg")}
    scipy_io.savemat(tmp_path / "annotation.mat", tables | {"train_label": np.array([[1, 0], [0, 1]], np.uint8)})
    (record,), report = read("pa100k", tmp_path / "annotation.mat", tmp_path / "images")
    assert record.persons[0].attributes == {"Female": True, "Hat": False}
    assert record.persons[0].box == (0, 0, 20, 40) and report["image is missing or cannot be read"] == ["000002.jpg"]
    picture(tmp_path / "images/IMG_1.jpg")
    info = np.zeros((1, 1), dtype=[("location", object), ("number", object)])
    info[0, 0] = (np.array([[3.5, 4.5], [10.0, 2.0]]), np.array([[2]]))
    (tmp_path / "truth").mkdir()
    scipy_io.savemat(tmp_path / "truth/GT_IMG_1.mat", {"image_info": cells(info).reshape(1, 1)})
    (record,), _ = read("shanghaitech", tmp_path / "truth", tmp_path / "images")
    assert record.count == 2 and record.persons[0].keypoints == {"head": (3.5, 4.5)}
    (tmp_path / "broken.mat").write_bytes(b"not a table" * 40)
    with pytest.raises(DataError, match="cannot be read as a MATLAB file"):
        read("pa100k", tmp_path / "broken.mat", tmp_path / "images")
    with pytest.raises(DataError, match="lacks"):
        read("pa100k", tmp_path / "truth/GT_IMG_1.mat", tmp_path / "images")


def test_the_tool_writes_a_file(tiny_persons, tmp_path, monkeypatch, capsys):
    out = tmp_path / "out.json"
    source = ["coco_persons", str(tiny_persons / "annotations/portraits_train.json")]
    options = ["--images", str(tiny_persons / "portraits/train"), "--out", str(out), "--questions", "9"]
    monkeypatch.setattr(sys, "argv", ["make_humanins.py", *source, *options])
    make_humanins.main()
    content = json.loads(out.read_text())
    assert {question["form"] for question in content["questions"]} == {"boxes", "points", "attributes", "number"}
    assert "12 images" in capsys.readouterr().out
    monkeypatch.setattr(sys, "argv", ["make_humanins.py", "lip", str(tmp_path), *options])
    with pytest.raises(SystemExit, match=r"error: .* holds no file"):
        make_humanins.main()

import errno
import json
import os
import subprocess
import sys
import tracemalloc

import numpy as np
import pytest
from PIL import Image

from lumen.data.coco import CocoDataset
from lumen.errors import ConfigError, DataError, PromptError
from lumen.inference.labelling import job as jobs
from lumen.inference.labelling.formats import FORMATS
from lumen.inference.labelling.job import Job, Survey, hold_part_of_job, part_path, survey
from lumen.inference.labelling.merge import merge_parts
from lumen.inference.labelling.on_ray import PartLabeller, rows_of_parts
from lumen.inference.labelling.pictures import Picture, list_pictures
from lumen.inference.labelling.progress import pace_of
from lumen.inference.labelling.records import table_of
from lumen.inference.labelling.run import Effort, describe_predictor, label_pictures, missing_parts
from lumen.inference.labelling.start import ModelChoice, label_source, make_job
from lumen.inference.reports import Request
from lumen.inference.sources import ExportedModel
from lumen.ops.masks import decode_masks, read_label_map
from lumen.serialization.atomic import TEMPORARY

NAMES = ("star", "red ring")
REQUEST = Request(NAMES, "detection", 0.0)


@pytest.fixture
def start(exported, photos, tmp_path):
    """Return a function that labels the photos into a folder and returns the counts."""

    def run(out="out", *, source=photos, request=REQUEST, part_size=3, images=None, **options):
        choice = ModelChoice(ExportedModel(exported), "cpu")
        options = {"effort": Effort(batch_size=2, workers=2), "part_size": part_size} | options
        return label_source((source, images), request, choice, tmp_path / out, **options)

    return run


def contents(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*.*") if path.is_file()}


def test_labels_are_the_answers_of_the_predictor(start, predictor, photos, tmp_path):
    assert start()["pictures"] == 7
    merge_parts(tmp_path / "out", ["coco"])
    content = json.loads((tmp_path / "out" / "coco.json").read_text())
    assert [image["id"] for image in content["images"]] == [1, 2, 3, 4, 5, 6, 7]
    assert content["categories"] == [{"id": 1, "name": "star"}, {"id": 2, "name": "red ring"}]
    for image in content["images"]:
        predictor.set_image(photos / image["file_name"])
        expected = predictor.predict(NAMES, score_threshold=0.0)
        found = [entry for entry in content["annotations"] if entry["image_id"] == image["id"]]
        assert [entry["category_id"] for entry in found] == (expected.labels + 1).tolist()
        boxes = np.array([entry["bbox"] for entry in found])
        boxes[:, 2:] += boxes[:, :2]
        np.testing.assert_allclose(boxes, expected.bboxes, atol=0.02)
        np.testing.assert_allclose([entry["score"] for entry in found], expected.scores, atol=1e-4)


def test_the_coco_file_is_one_that_lumen_trains_on(start, photos, tmp_path):
    start()
    merge_parts(tmp_path / "out", ["coco"])
    dataset = CocoDataset(data_root=str(tmp_path), ann_file="out/coco.json", data_prefix={"img": str(photos)})
    assert len(dataset) == 7 and dataset.metainfo["classes"] == NAMES


def test_tasks_of_an_array_make_what_one_process_makes(start, tmp_path):
    start("whole")
    counts = [start("array", part=(number, 2)) for number in (2, 1)]
    assert [each["pictures"] for each in counts] == [3, 4]
    for out in ("whole", "array"):
        merge_parts(tmp_path / out, ["coco", "parquet"])
    whole, array = contents(tmp_path / "whole"), contents(tmp_path / "array")
    assert {name for name in whole if not name.startswith(".")} == {name for name in array if not name.startswith(".")}
    assert all(whole[name] == array[name] for name in whole if not name.startswith("."))


def test_a_worker_makes_the_parts_of_one_process_even_twice(start, exported, photos, tmp_path):
    start()
    job, effort = jobs.read_job(tmp_path / "out"), Effort(batch_size=2, workers=2)
    jobs.open_job(tmp_path / "ray", job)
    labeller = PartLabeller(ExportedModel(exported), "cpu", None, job=job, folder=tmp_path / "ray", effort=effort)
    missing = missing_parts(list_pictures(photos), job, tmp_path / "ray", (1, 1), lambda number: None)
    for item in [item for item in rows_of_parts(missing) for _ in range(2)]:
        counts = labeller({key: np.array([value]) for key, value in item.items()})
        number = item["number"]
        assert part_path(tmp_path / "ray", number).read_bytes() == part_path(tmp_path / "out", number).read_bytes()
        assert counts["pictures"] == [3 if number < 2 else 1]


def test_merging_waits_for_all_parts(start, tmp_path):
    start(part=(1, 2))
    with pytest.raises(DataError, match=r"1 of 3 parts in .* are missing \(1\)"):
        merge_parts(tmp_path / "out", ["coco"])
    assert not (tmp_path / "out" / "coco.json").exists()


def test_parts_that_are_cut_exchanged_or_no_files_are_refused(start, tmp_path):
    start()
    merge_parts(tmp_path / "out", ["coco"])
    first, second, last = (part_path(tmp_path / "out", number) for number in range(3))
    contents = [path.read_bytes() for path in (first, second)]
    first.write_bytes(b"".join(contents[0].splitlines(keepends=True)[:2]))  # counts and one answer of three
    with pytest.raises(DataError, match=r"000000\.jsonl.* 1 answers, expected 3"):
        merge_parts(tmp_path / "out", ["coco"])
    first.write_bytes(contents[1])
    with pytest.raises(DataError, match="not those of the pictures"):
        merge_parts(tmp_path / "out", ["coco"])
    assert not (tmp_path / "out" / "summary.json").exists()
    first.write_bytes(contents[0])
    assert merge_parts(tmp_path / "out", ["coco"])["pictures"] == 7
    last.unlink()
    os.mkfifo(last)
    with pytest.raises(DataError, match="not a file"):
        start()


def test_what_is_done_is_not_done_again(start, tmp_path, monkeypatch):
    first = start()
    part_path(tmp_path / "out", 1).unlink()
    kept = {number: part_path(tmp_path / "out", number).stat().st_mtime_ns for number in (0, 2)}
    asked = []
    monkeypatch.setattr(Picture, "read", lambda self, read=Picture.read: asked.append(self.name) or read(self))
    assert start() == first
    assert sorted(asked) == ["sub/a.png", "sub/b.png", "x.png"]
    assert {number: part_path(tmp_path / "out", number).stat().st_mtime_ns for number in (0, 2)} == kept


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"request": Request(("star",), "detection", 0.0)}, "names: .*'red ring'.* there"),
        ({"request": Request(NAMES, "segmentation", 0.0)}, "task: detection there, segmentation here"),
        ({"request": Request(NAMES, "detection", 0.5)}, "threshold: 0.0 there, 0.5 here"),
        ({"part_size": 4}, "part_size: 3 there, 4 here"),
    ],
)
def test_another_job_is_refused_and_what_differs_is_named(start, tmp_path, change, message):
    jobs.open_job(tmp_path / "out", _job_of(start, tmp_path))
    with pytest.raises(ConfigError, match=f"holds the labels of another job.*{message}"):
        start(**change)


def _job_of(start, tmp_path):
    start("first")
    return jobs.read_job(tmp_path / "first")


def test_a_source_that_changed_is_refused_and_one_that_moved_is_not(start, photos, tmp_path):
    start()
    photos.rename(tmp_path / "moved")
    assert start(source=tmp_path / "moved")["pictures"] == 7
    (tmp_path / "moved" / "y.png").unlink()
    with pytest.raises(ConfigError, match=r"pictures\.num_pictures: 7 there, 6 here"):
        start(source=tmp_path / "moved")


def test_bad_input_is_refused_before_anything_is_written(start, photos, tmp_path):
    for request, kind, message in (
        (Request(("star", "star"), "detection"), ConfigError, "twice: .*star"),
        (Request(NAMES, "caption"), ConfigError, "labels are boxes and masks"),
        (Request(NAMES, "grounding"), PromptError, "no decoder"),
    ):
        with pytest.raises(kind, match=message):
            start(request=request)
    for formats, message in ((["xml"], "'xml' is not an accepted value"), (["masks"], "gives no masks")):
        with pytest.raises(ConfigError, match=message):
            start(formats=formats)
    with pytest.raises(ConfigError, match="lies in"):
        start(photos.name + "/labels")
    (photos / "a.jpg").write_bytes((photos / "b.jpg").read_bytes())
    with pytest.raises(ConfigError, match=r"'a\.png' differs from another picture in its ending alone"):
        start(formats=["yolo"])
    assert not (tmp_path / "out").exists()


def test_a_folder_with_other_files_is_left_alone(start, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "coco.json").write_text("mine")
    with pytest.raises(ConfigError, match=r"holds other files, such as 'coco\.json'"):
        start()
    assert (tmp_path / "out" / "coco.json").read_text() == "mine"


def test_pictures_that_cannot_be_read_are_listed_and_counted(start, photos, tmp_path):
    (photos / "c.png").write_bytes(b"no picture")
    assert start()["faulty"] == 1
    summary = merge_parts(tmp_path / "out", ["coco"])
    assert (summary["pictures"], summary["faulty"]) == (7, 1)
    name, reason = (tmp_path / "out" / "faults.txt").read_text().rstrip("\n").split("\t")
    assert name == "c.png" and "cannot be read as an image" in reason
    images = json.loads((tmp_path / "out" / "coco.json").read_text())["images"]
    assert [image["id"] for image in images] == [1, 2, 4, 5, 6, 7], "it does not count as a picture without objects"


def test_too_many_pictures_that_cannot_be_read_end_the_job(start, photos):
    for name in ("c.png", "sub/a.png"):
        (photos / name).unlink()
        (photos / name).mkdir()  # a folder called like a picture
    with pytest.raises(DataError, match=r"2 of 7 pictures cannot be read, --skip-budget allows 1\.00%"):
        start()
    with pytest.raises(DataError, match="2 of 7"):
        start()
    assert start(effort=Effort(batch_size=2, skip_budget=0.5))["faulty"] == 2


def test_a_list_with_a_missing_file_is_labelled_but_for_that(start, photos, tmp_path):
    (tmp_path / "list.txt").write_text("a.png\ngone.png\n")
    assert start(source=tmp_path / "list.txt", images=photos) | {"objects": 0} == {
        "pictures": 2, "faulty": 1, "objects": 0,
    }  # fmt: skip
    merge_parts(tmp_path / "out", ["coco"])
    assert "gone.png\t" in (tmp_path / "out" / "faults.txt").read_text()


def test_a_full_disk_leaves_nothing_half_written(start, tmp_path, monkeypatch):
    start("whole")

    def full(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space left"):
            start("out")
        with pytest.raises(OSError, match="No space left"):
            merge_parts(tmp_path / "whole", ["coco", "parquet"])
    left = [name for out in ("out", "whole") for name in contents(tmp_path / out) if TEMPORARY in name]
    assert left == [] and not (tmp_path / "whole" / "coco.json").exists()
    assert start("out")["pictures"] == 7


def test_one_process_labels_a_part_at_a_time(tmp_path):
    script = (
        "import pathlib, sys; from lumen.serialization.lock import held_file\n"
        "with held_file(pathlib.Path(sys.argv[1]), complaint='', remedy=''): print('held', flush=True); input()"
    )
    words = [sys.executable, "-c", script, str(tmp_path / ".label-1-of-1.lock")]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout.readline() == b"held\n"
        message = rf"another process labels part 1/1 into .*: process {other.pid} on"
        with pytest.raises(ConfigError, match=message), hold_part_of_job(tmp_path, 1, 1):
            pass
        other.communicate(b"\n")
    with hold_part_of_job(tmp_path, 1, 1):
        pass


# ---- formats


@pytest.fixture
def masked(start, tmp_path):
    """Label with masks in every format and return the folder."""
    start(request=Request(NAMES, "segmentation", 0.0), formats=list(FORMATS))
    merge_parts(tmp_path / "out", list(FORMATS))
    return tmp_path / "out"


def test_every_format_holds_the_same_objects(masked, photos):
    supervision = pytest.importorskip("supervision")
    parquet = pytest.importorskip("pyarrow.parquet")
    coco = json.loads((masked / "coco.json").read_text())
    table = parquet.read_table(masked / "labels.parquet")
    job, rows = jobs.read_job(masked), table.to_pylist()
    assert json.loads(table.schema.metadata[b"names"]) == list(NAMES)
    assert [row["file"] for row in rows] == [image["file_name"] for image in coco["images"]]
    assert sum(len(row["labels"]) for row in rows) == len(coco["annotations"]) > 0
    flat = {"images_directory_path": str(photos), "annotations_directory_path": str(masked / "yolo" / "labels")}
    yolo = supervision.DetectionDataset.from_yolo(**flat, data_yaml_path=str(masked / "yolo" / "data.yaml"))
    assert tuple(yolo.classes) == NAMES and len(yolo) == 5, "pictures of the folder itself"
    for row in rows:
        found = [
            entry for entry in coco["annotations"] if coco["images"][entry["image_id"] - 1]["file_name"] == row["file"]
        ]
        assert [entry["category_id"] - 1 for entry in found] == row["labels"]
        assert [entry["segmentation"]["counts"] for entry in found] == row["masks"]
        answer = table_of(row, job)
        expected = np.zeros((row["height"], row["width"]), dtype=np.int64) - 1
        for place in answer.scores.argsort(stable=True).tolist():
            expected[decode_masks([answer.masks[place]], expected.shape)[0].numpy()] = row["labels"][place]
        name = row["file"].rpartition(".")[0]
        np.testing.assert_array_equal(read_label_map(masked / f"masks/{name}.png", reduce_zero_label=True), expected)
        assert (masked / f"voc/{name}.xml").read_text().count("<object>") >= len({*row["labels"]})


def test_boxes_of_yolo_are_those_of_coco(start, photos, tmp_path):
    supervision = pytest.importorskip("supervision")
    start(formats=["yolo", "voc"])
    merge_parts(tmp_path / "out", ["coco", "yolo", "voc"])
    coco = json.loads((tmp_path / "out" / "coco.json").read_text())
    flat = {"images_directory_path": str(photos), "annotations_directory_path": str(tmp_path / "out/yolo/labels")}
    yolo = supervision.DetectionDataset.from_yolo(**flat, data_yaml_path=str(tmp_path / "out/yolo/data.yaml"))
    voc = supervision.DetectionDataset.from_pascal_voc(str(photos), str(tmp_path / "out/voc"))
    for image in coco["images"][:3]:
        boxes = np.array([entry["bbox"] for entry in coco["annotations"] if entry["image_id"] == image["id"]])
        boxes[:, 2:] += boxes[:, :2]
        path = str(photos / image["file_name"])
        np.testing.assert_allclose(yolo.annotations[path].xyxy, boxes, atol=0.01)
        np.testing.assert_allclose(voc.annotations[path].xyxy, boxes, atol=1.0)  # whole pixels


def test_a_picture_without_objects_has_an_empty_label(start, tmp_path):
    start(request=Request(NAMES, "detection", 1.0), formats=["yolo", "parquet"])
    summary = merge_parts(tmp_path / "out", ["coco", "yolo", "parquet"])
    assert summary["objects"] == {"star": 0, "red ring": 0}
    assert (tmp_path / "out" / "yolo" / "labels" / "a.txt").read_bytes() == b""
    assert json.loads((tmp_path / "out" / "coco.json").read_text())["annotations"] == []


# ---- bounds


def test_memory_does_not_grow_with_the_number_of_pictures(predictor, tmp_path, monkeypatch):
    drawn = predictor.draw(np.zeros((40, 50, 3), dtype=np.uint8))
    table = predictor.predict_drawn([drawn], NAMES, score_threshold=0.0)
    monkeypatch.setattr(predictor, "predict_drawn", lambda images, *_, **__: table * len(images))
    pixels = np.zeros((40, 50, 3), dtype=np.uint8)
    monkeypatch.setattr(Picture, "read", lambda self: pixels)
    monkeypatch.setattr(predictor, "draw", lambda image: drawn)

    def peak(count):
        def generated():
            return (Picture(f"{number:06d}.png", "") for number in range(count))

        folder = tmp_path / str(count)
        tracemalloc.start()
        job = make_job(predictor, REQUEST, survey(generated, "it"), "it", part_size=50)
        jobs.open_job(folder, job)
        label_pictures(predictor, generated(), job, folder, effort=Effort(batch_size=16, workers=2))
        merge_parts(folder, ["coco"])
        largest = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return largest

    peak(100)  # what is made once
    small, large = peak(300), peak(1500)
    assert large - small < 100 * 1200, "100 bytes for each picture"


def test_a_part_of_an_array_knows_its_size():
    pictures = Survey(10, "", None)
    job = Job("", pictures, NAMES, "detection", None, {}, False, 3)
    assert job.num_parts == 4
    assert [job.num_pictures_of((number, 3)) for number in (1, 2, 3)] == [4, 3, 3]
    assert job.num_pictures_of((5, 5)) == 0


def test_the_pace_is_that_of_this_run():
    assert pace_of(0, 10, 5.0) == ""
    assert pace_of(100, 7300, 10.0) == "10.0 images/s, 0:12:10 left"


def test_the_description_of_a_predictor_names_its_weights(predictor):
    found = describe_predictor(predictor, "detection")
    assert found["dtype"] == "torch.float32"
    assert found["decoder_digest"] != describe_predictor(predictor, "segmentation")["decoder_digest"]


def test_effort_is_checked():
    for options in ({"batch_size": 0}, {"workers": 0}, {"skip_budget": 2.0}, {"batch_size": 10**28}):
        with pytest.raises(ConfigError):
            Effort(**options)


def test_a_picture_that_is_a_photo_of_another_mode_is_read(start, photos):
    Image.new("L", (50, 40)).save(photos / "a.png")
    assert start()["faulty"] == 0


def test_pictures_are_listed_again_in_the_same_order(photos):
    assert list(list_pictures(photos)) == list(list_pictures(photos))

"""Which files are trained on and judged by, in the layouts that labelling tools write."""

import json

import pytest
from tuning_cases import NAMES, coco_content, write_photos

from lumen.errors import DataError
from lumen.tuning.splits import find_splits, split_of


def find(data, *, task="detection", images=None, val_share=None, seed=0):
    return find_splits(data, data.parent / "work", task=task, images=images, val_share=val_share, seed=seed)


def numbers(split):
    return [image["id"] for image in split.content["images"]]


def write_json(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("folders", "stem", "split"),
    [
        (["annotations"], "instances_train2017", "train"),
        (["valid"], "_annotations.coco", "val"),
        (["Test"], "", "test"),
        ([], "labels", "all"),
        (["train_stations"], "photo", "all"),
        (["train"], "val", "val"),
    ],
)
def test_the_split_that_names_tell(folders, stem, split):
    assert split_of(folders, stem) == split


@pytest.mark.parametrize("as_file", [False, True])
def test_without_a_validation_split_images_are_held_out(photos, as_file):
    splits = find(photos / "labels.json" if as_file else photos)
    assert len(numbers(splits.train)) == 8 and len(numbers(splits.val)) == 2 and splits.test is None
    assert sorted(numbers(splits.train) + numbers(splits.val)) == list(range(10))
    for split in (splits.train, splits.val):
        assert {row["image_id"] for row in split.content["annotations"]} == set(numbers(split))
        assert split.images == photos / "images" and split.is_new and not split.ann_file.exists()
    assert "2 of 10 images are held out" in splits.notes[0]
    assert numbers(find(photos).val) == numbers(splits.val)
    assert numbers(find(photos, seed=1).val) != numbers(splits.val)


def test_the_only_image_of_a_class_is_trained_on(photos):
    content = coco_content(range(10))
    for row in content["annotations"]:
        row["category_id"] = 2 if row["image_id"] == 3 else 1
    write_json(photos / "labels.json", content)
    assert all(3 in numbers(find(photos, val_share=0.9, seed=seed).train) for seed in range(3))


@pytest.mark.parametrize("num_images", [1, 2])
def test_too_few_images_to_hold_one_out(tmp_path, num_images):
    write_photos(tmp_path / "photos", range(num_images))
    write_json(tmp_path / "photos/a.json", coco_content(range(num_images)))
    with pytest.raises(DataError, match="none can be held out"):
        find(tmp_path / "photos")


def test_splits_of_coco_have_their_own_folders_and_files_of_the_same_names(tmp_path):
    for name in ("train", "val", "test"):
        write_photos(tmp_path / f"set/{name}2017", range(2))
        write_json(tmp_path / f"set/annotations/instances_{name}2017.json", coco_content(range(2)))
        write_json(tmp_path / f"set/annotations/captions_{name}2017.json", {"images": [], "annotations": []})
        write_json(tmp_path / f"set/annotations/person_keypoints_{name}2017.json", coco_content(range(2)))
    with pytest.raises(DataError, match=r"has a validation split, .*val2017.*leave --val-share out"):
        find(tmp_path / "set", val_share=0.1)
    splits = find(tmp_path / "set")
    for name, split in (("train", splits.train), ("val", splits.val), ("test", splits.test)):
        assert split.images == tmp_path / f"set/{name}2017" and not split.is_new
        assert split.ann_file.name == f"instances_{name}2017.json"
    assert find(tmp_path / "set", task="pose").train.ann_file.name == "person_keypoints_train2017.json"


def test_splits_that_lie_beside_their_images(tmp_path):
    for name in ("train", "valid"):
        write_photos(tmp_path / "set" / name, range(2))
        write_json(tmp_path / "set" / name / "_annotations.coco.json", coco_content(range(2)))
    splits = find(tmp_path / "set")
    assert (splits.train.images.name, splits.val.images.name) == ("train", "valid")


YOLO = {
    "images and labels": ("images/{}", "labels/{}"),
    "splits outside": ("{}/images", "{}/labels"),
    "side by side": ("{}", "{}"),
}


@pytest.mark.parametrize(("images", "labels"), YOLO.values(), ids=YOLO.keys())
def test_layouts_of_yolo(tmp_path, images, labels):
    pytest.importorskip("supervision")
    for name, held in (("train", range(3)), ("val", range(2))):
        write_photos(tmp_path / "set" / images.format(name), held)
        for number in held:
            place = tmp_path / "set" / labels.format(name) / f"{number:02}.txt"
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_text(f"{number % 2} 0.5 0.5 0.5 0.5\n")
    (tmp_path / "set/data.yaml").write_text(f"names: {list(NAMES)}\n")
    splits = find(tmp_path / "set")
    assert [len(split.content["images"]) for split in (splits.train, splits.val)] == [3, 2]
    assert splits.train.content["annotations"][1]["bbox"] == [12, 12, 24, 24]
    assert [category["name"] for category in splits.val.content["categories"]] == list(NAMES)


def test_an_image_without_a_label_file_is_not_one_without_objects(tmp_path):
    pytest.importorskip("supervision")
    write_photos(tmp_path / "photos", range(6))
    (tmp_path / "labels").mkdir()
    for number in range(5):
        (tmp_path / f"labels/{number:02}.txt").write_text("0 0.5 0.5 0.5 0.5\n" if number else "")
    (tmp_path / "labels/classes.txt").write_text("cat\n")
    splits = find(tmp_path / "labels", images=tmp_path / "photos")
    assert len(splits.train.content["images"]) + len(splits.val.content["images"]) == 5
    assert any(note.startswith("1 images without a label file are left out") for note in splits.notes)


def test_names_of_voc_are_those_of_all_splits(tmp_path):
    pytest.importorskip("supervision")
    box = "<bndbox><xmin>9</xmin><ymin>11</ymin><xmax>28</xmax><ymax>32</ymax></bndbox>"
    for name, label in (("train", "dog"), ("val", "cat")):
        write_photos(tmp_path / "set/JPEGImages" / name, range(2))
        for number in range(2):
            place = tmp_path / "set/Annotations" / name / f"{number:02}.xml"
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_text(f"<annotation><object><name>{label}</name>{box}</object></annotation>")
    splits = find(tmp_path / "set")
    for split, label in ((splits.train, 2), (splits.val, 1)):
        assert [category["name"] for category in split.content["categories"]] == ["cat", "dog"]
        assert [row["category_id"] for row in split.content["annotations"]] == [label, label]
        assert split.content["annotations"][0]["bbox"] == [8, 10, 20, 22]


def test_data_that_cannot_be_found_is_named(tmp_path, photos):
    with pytest.raises(DataError, match="there is no data"):
        find(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no labels that are known"):
        find(tmp_path / "empty")
    with pytest.raises(DataError, match="--images names the folder"):
        find(photos, images=tmp_path / "nowhere")
    with pytest.raises(DataError, match=r"no folder in .* holds the images"):
        find(photos, images=tmp_path / "empty")
    write_json(photos / "more.json", coco_content(range(2)))
    with pytest.raises(DataError, match="several files for the split 'all'"):
        find(photos)


def test_a_test_split_alone_is_not_trained_on(tmp_path):
    for name in ("val", "test"):
        write_photos(tmp_path / "set" / name, range(2))
        write_json(tmp_path / f"set/{name}.json", coco_content(range(2)))
    with pytest.raises(DataError, match="none to train on"):
        find(tmp_path / "set")

import json
import os
import random
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from test_annotations import JUNK, mutate

from lumen.data.check import check_coco, class_difference
from lumen.errors import DataError

POINTS = {"keypoints": [3, 4, 2, 0, 0, 0], "num_keypoints": 1}


def row(number, **changes):
    return {"id": number, "image_id": 1, "category_id": 1, "bbox": [2, 3, 10, 5]} | changes


def image(number, name, **changes):
    return {"id": number, "file_name": name, "width": 40, "height": 20} | changes


@pytest.fixture
def check(tmp_path):
    """Return a function that writes a data set of one image and checks it with its images."""
    (tmp_path / "img").mkdir()
    Image.fromarray(np.zeros((20, 40, 3), np.uint8)).save(tmp_path / "img" / "a.png")

    def run(*, images=(), annotations=(), categories=()):
        content = {
            "images": [image(1, "a.png"), *images],
            "annotations": [row(1), *annotations],
            "categories": [{"id": 1, "name": "cat", "keypoints": ["nose", "tail"]}, *categories],
        }
        (tmp_path / "a.json").write_text(json.dumps(content))
        return check_coco(tmp_path / "a.json", tmp_path / "img")

    return run


def test_a_sound_set_has_an_empty_report(check):
    assert check() == {}
    mask = {"segmentation": [[2, 3, 12, 3, 12, 8]]}
    assert check(annotations=[row(2, **POINTS, **mask), row(3, segmentation=[], iscrowd=1)]) == {}


def test_names_that_cannot_be_asked_for_are_found(check):
    names = ["[LOC]", "<image>", "<|im_end|> a", " cat ", "a < b > c"]
    report = check(categories=[{"id": 2 + place, "name": name} for place, name in enumerate(names)])
    assert report.pop("class without any usable annotation") == ["[LOC]", "<image>", "<|im_end|> a", "a < b > c"]
    assert report == {
        "name of a category cannot be asked for: it is empty or holds a special token": [2],
        "name of a category holds a word in angle brackets, a special token of many LMMs": [3, 4],
        "a category id or name occurs twice; merge or rename them": [4],
    }


def test_everything_is_found_in_one_pass(check, tmp_path):
    (tmp_path / "img" / "broken.png").write_bytes(b"no image")
    Image.fromarray(np.zeros((5, 6, 3), np.uint8)).save(tmp_path / "img" / "small.png")
    (tmp_path / "outside.png").write_bytes(b"")
    (tmp_path / "img" / "link.png").symlink_to(tmp_path / "outside.png")
    report = check(
        images=[
            image(2, "gone.png"),
            image(3, "broken.png"),
            image(4, "small.png"),
            image(5, "link.png"),
            image(6, "../b.png"),
            image(7, "a.png"),
            image(1, "b.png"),
        ],
        annotations=[
            row(2, bbox=[1, 2, 0, 4]),
            row(3, image_id=99),
            row(4, segmentation=[[1, 2]]),
            row(5, segmentation={"size": [5, 5], "counts": [25]}),
            row(6, keypoints=[3, 4, 2]),
            row(7, keypoints=[3, 4, 3, 0, 0, 0]),
            row(8, keypoints=[3, 4, 2, 0, 0, 0], num_keypoints=2),
            row(9, keypoints=[3, None, 2, 0, 0, 0]),
            row(10, category_id=3, keypoints=[]),
            row(11, bbox=[30, 3, 30, 5]),
            row(1),
        ],
        categories=[{"id": 2, "name": "dog"}, {"id": 3, "name": "cow"}, {"id": 1, "name": "bird"}, {"id": 5}],
    )
    assert report == {
        "a category id or name occurs twice; merge or rename them": [3],
        "a category needs an integer id and a name of 1 to 512 printable characters": [4],
        "file_name leaves the image folder": [6],
        "image id occurs twice": [1],
        "annotation of an unknown or skipped image": [3],
        "annotation id occurs twice": [1],
        "box without area": [2],
        "box clipped to the image": [11],
        "segmentation is broken or of another size than its image": [4, 5],
        "keypoints are not three numbers for each keypoint of the category": [6],
        "visibility of a keypoint is none of 0, 1, 2": [7],
        "num_keypoints is not the number of labelled keypoints": [8],
        "keypoints are not finite numbers": [9],
        "keypoints of a category that names none": [10],
        "class without any usable annotation": ["dog"],
        "image file is missing": [2],
        "image file cannot be read": [3],
        "image file has another size than its entry": [4],
        "image file leaves the image folder": [5],
        "image file named by an earlier image too": [7],
    }


def test_images_are_left_out_where_no_folder_is_given(check, tmp_path):
    assert "image file is missing" in check(images=[image(2, "gone.png")])
    assert check_coco(tmp_path / "a.json") == {}


def test_verified_classes_are_checked_where_a_file_has_them(check):
    lists = {"neg_category_ids": [8], "not_exhaustive_category_ids": []}
    report = check(images=[image(2, "a.png", **lists)])
    assert report["neg_category_ids is missing or not a list of known category ids"] == [1, 2]


def test_progress_is_told_every_image(check, tmp_path):
    check()
    seen = []
    check_coco(
        tmp_path / "a.json", tmp_path / "img", progress=lambda items: (seen.append(i["img_id"]) or i for i in items)
    )
    assert seen == [1]


def test_a_file_that_is_no_coco_file_is_an_error(tmp_path):
    (tmp_path / "a.json").write_text("[1]")
    with pytest.raises(DataError, match="holds a dict"):
        check_coco(tmp_path / "a.json")
    (tmp_path / "a.json").write_text('{"images": [], "annotations": [], "categories": [{"id": 1}]}')
    with pytest.raises(DataError, match="no usable category"):
        check_coco(tmp_path / "a.json")


@settings(max_examples=150, deadline=None)
@given(junks=st.lists(JUNK, min_size=1, max_size=4), seed=st.integers(0, 2**32))
def test_mutated_files_give_a_data_error_or_a_report(tmp_path_factory, junks, seed):
    rng = random.Random(seed)
    path = tmp_path_factory.getbasetemp() / "check_fuzz.json"
    content = {
        "images": [image(1, "a.png", neg_category_ids=[2], not_exhaustive_category_ids=[1]), image(2, "b.png")],
        "annotations": [row(at, segmentation=[[2, 3, 12, 3, 12, 8]], **POINTS) for at in range(3)],
        "categories": [{"id": 1, "name": "cat", "keypoints": ["nose", "tail"]}, {"id": 2, "name": "dog"}],
    }
    for junk in junks:
        content = mutate(content, junk, rng)
    path.write_text(json.dumps(content))
    try:
        report = check_coco(path, path.parent)
    except DataError:
        return
    assert report and all(ids and all(type(item) in (int, str) for item in ids) for ids in report.values())


@pytest.mark.skipif("LUMEN_DATA" not in os.environ, reason="set LUMEN_DATA to a folder with bccd and tiny_coco")
@pytest.mark.parametrize(
    ("ann_file", "images"),
    [
        ("bccd/annotations/instances_test.json", "bccd/images"),
        ("tiny_coco/annotations/person_keypoints_val2017.json", "tiny_coco/val2017"),
    ],
)
def test_real_sets_are_sound(ann_file, images):
    root = Path(os.environ["LUMEN_DATA"])
    assert check_coco(root / ann_file, root / images) == {}


def named(*classes):
    return SimpleNamespace(metainfo={"classes": classes})


def test_class_names_that_differ_are_told_in_both_directions():
    assert class_difference(named("cat", "dog"), named("dog", "cat")) is None
    told = class_difference(named("cat", "dogs"), named("cat", "dog"))
    assert "in validation alone: ['dog'] (1)" in told and "in training alone: ['dogs'] (1)" in told


def test_a_mixture_trains_the_classes_of_all_its_sets():
    mixture = SimpleNamespace(datasets=[named("cat"), SimpleNamespace(dataset=named("dog")), named()])
    wrapped = SimpleNamespace(dataset=mixture)
    assert class_difference(wrapped, named("dog")) is None
    assert "in training" not in class_difference(wrapped, named("dog", "bird"))
    assert class_difference(named(), named("dog")) is None, "texts have no classes"

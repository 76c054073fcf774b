"""What is found in a data set, and what is refused before anything is trained."""

import json

import pytest
from tuning_cases import coco_content

from lumen.errors import ConfigError, DataError
from lumen.tuning.splits import find_splits
from lumen.tuning.survey import check_task, survey


@pytest.fixture
def look(photos):
    """Return a function that writes a COCO file for the pictures and looks at it."""

    def look(content, task="detection", skip_budget=0.01):
        (photos / "labels.json").write_text(json.dumps(content))
        splits = find_splits(photos, photos.parent / "work", task=task, images=None, val_share=0.2, seed=0)
        return survey(splits, task, skip_budget=skip_budget)

    return look


def test_what_is_found_is_told(look):
    found = look(coco_content(range(10)))
    assert found.names == ("cat", "red cup") and found.num_train == 8 and found.size_hw == (48, 48)
    lines = found.text.splitlines()
    assert lines[0] == "train: 8 images, 8 with objects, 8 objects"
    counts = [int(line.split(": ")[1]) for line in lines if line.startswith("  ")]
    assert sum(counts[:2]) == 8 and sum(counts[2:]) == 2
    assert "images are held out" in lines[-1] and "48 x 48 (median)" in lines[-2]


def without_boxes(content):
    content["annotations"] = []


def same_names(content):
    content["categories"][1]["name"] = "Cat"


def twice_the_same(content):
    content["categories"][1]["name"] = "cat"


def a_special_token(content):
    content["categories"][1]["name"] = "[LOC]"


def missing_files(content):
    for image in content["images"][5:]:
        image["file_name"] = f"gone_{image['id']}.png"


def broken_boxes(content):
    for row in content["annotations"]:
        row["bbox"] = [1, 2, 0, 0]


def federated(content):
    for image in content["images"]:
        image["neg_category_ids"] = [2]


def no_annotation(content):
    content["annotations"].append(None)


def a_list_as_number(content):
    content["images"][0]["id"] = [1]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (no_annotation, r"cannot be told apart \(AttributeError.*see lumen check-data .*labels\.json"),
        (a_list_as_number, r"cannot be told apart \(TypeError"),
        (without_boxes, "no image has a box"),
        (same_names, r"names occur twice: \['cat', 'Cat'\]"),
        (twice_the_same, "names occur twice"),
        (a_special_token, "cannot be asked"),
        (missing_files, r"image files cannot be used, the budget is 1\.0%"),
        (broken_boxes, "would be skipped, the budget is"),
        (federated, "as LVIS does"),
    ],
)
def test_what_cannot_be_trained_on_is_refused(look, damage, message):
    content = coco_content(range(10))
    damage(content)
    with pytest.raises(DataError, match=message):
        look(content)


def test_faults_within_the_budget_are_listed(look):
    content = coco_content(range(10))
    content["annotations"].append({**content["annotations"][0], "id": 99, "bbox": [1, 2, 0, 0]})
    found = look(content, skip_budget=0.5)
    assert "faults, which are left out" in found.text and "box without area" in found.text


def test_masks_and_keypoints_are_asked_for_where_the_task_needs_them(look):
    content = coco_content(range(10))
    assert look(content, "segmentation").num_train == 8
    for row in content["annotations"]:
        del row["segmentation"]
    with pytest.raises(DataError, match="segmentation is missing"):
        look(content, "segmentation")
    with pytest.raises(DataError, match="no category with keypoints"):
        look(content, "pose")


@pytest.mark.parametrize(("task", "remedy"), [("vqa", "start from configs/multitask"), ("boxes", "correct --task")])
def test_a_task_without_a_recipe_is_refused(task, remedy):
    with pytest.raises(ConfigError, match=remedy):
        check_task(task)

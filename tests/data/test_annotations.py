import json
import os
import random
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lumen.data.annotations import CLIPPED, format_report, read_coco
from lumen.errors import DataError
from lumen.ops.masks import decode_masks

IMAGE = {"id": 1, "file_name": "a.png", "width": 40, "height": 20}
BOX = {"id": 1, "image_id": 1, "category_id": 7, "bbox": [2, 3, 10, 5]}
CATEGORY = {"id": 7, "name": "cat"}


def read(tmp_path, *, images=(IMAGE,), annotations=(BOX,), categories=(CATEGORY,), **kwargs):
    content = {"images": list(images), "annotations": list(annotations), "categories": list(categories)}
    (tmp_path / "a.json").write_text(json.dumps(content))
    return read_coco(tmp_path / "a.json", **({"skip_budget": 1.0} | kwargs))


def test_names_ids_and_labels_come_from_one_list(make_coco):
    content = read_coco(make_coco() / "ann.json", image_root="img")
    assert content.classes == ("dog", "cat", "bird")
    assert content.cat_ids == (90, 7, 16)
    first, second, third = content.records
    assert (first["img_id"], first["img_path"], first["ori_hw"]) == (1, os.path.join("img", "a.png"), (20, 40))
    assert first["instances"]["labels"].tolist() == [0, 1, 2]
    assert first["instances"]["is_ignored"].tolist() == [False, False, True]
    assert first["instances"]["ann_ids"].tolist() == [10, 11, 12]
    np.testing.assert_array_equal(first["instances"]["bboxes"][1], np.float32([20, 3, 30.5, 8]))
    assert second["instances"]["bboxes"].shape == (0, 4)
    assert third["instances"]["labels"].tolist() == [1, 1]
    assert content.report == {}


def test_asked_classes_set_the_order_and_leave_out_the_others(make_coco):
    content = read_coco(make_coco() / "ann.json", classes=["cat", "dog"])
    assert (content.classes, content.cat_ids) == (("cat", "dog"), (7, 90))
    assert content.records[0]["instances"]["labels"].tolist() == [1, 0]
    assert content.report == {}


@pytest.mark.parametrize("classes", [["cat", "cow"], ["cow"], [], ["cat", "cat"], ["Cat"]])
def test_a_class_that_the_file_lacks_is_an_error_that_lists_the_names(make_coco, classes):
    with pytest.raises(DataError, match=r"the file has: \['dog', 'cat', 'bird'\]"):
        read_coco(make_coco() / "ann.json", classes=classes)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"id": None}, "id is missing"),
        ({"id": "1"}, "id is missing"),
        ({"id": True}, "id is missing"),
        ({"id": 2**60}, "id is missing"),
        ({"file_name": 3}, "not a file name"),
        ({"file_name": ""}, "not a file name"),
        ({"file_name": "a\0b"}, "not a file name"),
        ({"file_name": "\ud800"}, "not a file name"),
        ({"file_name": "../../etc/passwd"}, "leaves the image folder"),
        ({"file_name": "a\\..\\..\\b"}, "leaves the image folder"),
        ({"file_name": "/etc/passwd"}, "leaves the image folder"),
        ({"width": 0}, "width or height"),
        ({"width": None}, "width or height"),
        ({"height": 10**9}, "width or height"),
        ({"height": 10**400}, "width or height"),
        ({"height": float("nan")}, "width or height"),
        ({"height": 2.5}, "width or height"),
    ],
)
def test_bad_images_are_skipped_with_a_reason(tmp_path, change, reason):
    content = read(tmp_path, images=[IMAGE | {"id": 2, "file_name": "sub/b.png"}, IMAGE | change])
    assert [record["img_id"] for record in content.records] == [2]
    assert any(reason in name for name in content.report)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"id": None}, "id is missing"),
        ({"image_id": 99}, "unknown or skipped image"),
        ({"image_id": [1]}, "unknown or skipped image"),
        ({"category_id": 8}, "unknown category"),
        ({"category_id": {}}, "unknown category"),
        ({"bbox": None}, "four finite numbers"),
        ({"bbox": [1, 2, 3]}, "four finite numbers"),
        ({"bbox": [1, 2, 3, "4"]}, "four finite numbers"),
        ({"bbox": [1, 2, 3, float("inf")]}, "four finite numbers"),
        ({"bbox": [1, 2, 3, float("nan")]}, "four finite numbers"),
        ({"bbox": [1, 2, 3, 10**400]}, "four finite numbers"),
        ({"bbox": [5, 5, 0, 5]}, "without area"),
        ({"bbox": [5, 5, 5, -2]}, "without area"),
        ({"bbox": [40, 0, 5, 5]}, "outside its image"),
        ({"bbox": [-9, 0, 5, 5]}, "outside its image"),
        ({"bbox": [20, 5, 1e-9, 5]}, "outside its image"),
        ({"iscrowd": "0"}, "neither 0 nor 1"),
        ({"ignore": 2}, "neither 0 nor 1"),
    ],
)
def test_bad_annotations_are_skipped_with_a_reason(tmp_path, change, reason):
    content = read(tmp_path, annotations=[BOX, BOX | {"id": 2} | change])
    assert content.records[0]["instances"]["ann_ids"].tolist() == [1]
    assert [reason in name for name in content.report] == [True]
    assert list(content.report.values()) == [[1 if "id" in change else 2]]


VERIFIED = {"neg_category_ids": [9], "not_exhaustive_category_ids": [7]}
TRIANGLE = {"segmentation": [[2, 3, 12, 3, 2, 8]]}


def test_masks_are_kept_as_run_lengths_in_line_with_the_boxes(tmp_path):
    rows = [BOX | TRIANGLE, BOX | {"id": 2}, BOX | {"id": 3, "bbox": [30, 3, 4, 5], "segmentation": [[30, 3, 34, 3]]}]
    last = BOX | {"id": 4, "segmentation": {"size": [20, 40], "counts": [43, 2, 755]}}
    content = read(tmp_path, annotations=[*rows, last], with_masks=True)
    table = content.records[0]["instances"]
    assert table["ann_ids"].tolist() == [1, 4]
    assert decode_masks(list(table["segmentations"]), (20, 40))[1].nonzero().tolist() == [[3, 2], [4, 2]]
    assert content.report == {"segmentation is missing, broken or of another size": [2, 3]}
    assert "segmentations" not in read(tmp_path, annotations=rows).records[0]["instances"]


def test_broken_masks_count_against_the_budget(tmp_path):
    with pytest.raises(DataError, match=r"1 of 2 would be skipped[\s\S]*segmentation is missing"):
        read(tmp_path, annotations=[BOX | TRIANGLE, BOX | {"id": 2}], with_masks=True, skip_budget=0.4)


def test_an_image_without_objects_has_no_masks(tmp_path):
    content = read(tmp_path, annotations=[], with_masks=True)
    assert content.records[0]["instances"]["segmentations"].shape == (0,)


def test_what_is_no_dict_or_occurs_twice_is_skipped(tmp_path):
    content = read(tmp_path, images=[IMAGE, IMAGE, 3], annotations=[BOX, BOX, None])
    assert len(content.records) == 1
    assert content.report == {
        "image id occurs twice": [1],
        "image entry is not a dict": [2],
        "annotation id occurs twice": [1],
        "annotation is not a dict": [2],
    }


def test_boxes_over_the_border_are_clipped_and_listed(tmp_path):
    content = read(tmp_path, annotations=[BOX | {"bbox": [-5, 3, 60, 30]}], skip_budget=0.0)
    assert content.records[0]["instances"]["bboxes"].tolist() == [[0, 3, 40, 20]]
    assert content.report == {CLIPPED: [1]}


def test_ignored_and_crowd_boxes_are_marked(tmp_path):
    rows = [BOX, BOX | {"id": 2, "ignore": 1}, BOX | {"id": 3, "iscrowd": 1}, BOX | {"id": 4, "ignore": False}]
    assert read(tmp_path, annotations=rows).records[0]["instances"]["is_ignored"].tolist() == [False, True, True, False]


def test_boxes_of_interleaved_images_find_their_image(tmp_path):
    images = [IMAGE | {"id": i, "file_name": f"{i}.png"} for i in (3, 1, 2)]
    rows = [BOX | {"id": 10 * n + i, "image_id": i} for n in (1, 2) for i in (1, 2, 3)]
    records = read(tmp_path, images=images, annotations=rows).records
    assert {r["img_id"]: r["instances"]["ann_ids"].tolist() for r in records} == {1: [11, 21], 2: [12, 22], 3: [13, 23]}


def test_the_budget_turns_skips_into_an_error_with_a_table(tmp_path):
    rows = [BOX, BOX | {"id": 2, "bbox": [0, 0, 0, 0]}]
    assert read(tmp_path, annotations=rows, skip_budget=0.5).report == {"box without area": [2]}
    with pytest.raises(DataError, match=r"1 of 2 would be skipped(?s:.*)box without area: 2"):
        read(tmp_path, annotations=rows, skip_budget=0.4)
    with pytest.raises(DataError, match="images: 1 of 1"):
        read(tmp_path, images=[IMAGE | {"width": 0}], skip_budget=0.5)


@pytest.mark.parametrize(
    "categories",
    [
        [],
        [3],
        [{"id": 1}],
        [{"name": "cat"}],
        [{"id": 1, "name": ""}],
        [{"id": 1, "name": " "}],
        [{"id": 1, "name": 5}],
        [{"id": 1, "name": "x" * 513}],
        [{"id": 1, "name": "a\nb"}],
        [{"id": 1, "name": "a"}, {"id": 1, "name": "b"}],
        [{"id": 1, "name": "a"}, {"id": 2, "name": "a"}],
    ],
)
def test_broken_categories_are_an_error(tmp_path, categories):
    with pytest.raises(DataError, match=r"a\.json"):
        read(tmp_path, categories=categories)


@pytest.mark.parametrize("text", ["", "{", "[]", "3", "{}", '{"images": {}}', "[" * 100_000, '{"images": [1e999]}'])
def test_what_is_no_coco_file_is_an_error(tmp_path, text):
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(DataError, match=r"a\.json"):
        read_coco(tmp_path / "a.json")
    with pytest.raises(DataError, match="cannot be read"):
        read_coco(tmp_path / "missing.json")
    (tmp_path / "a.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match="cannot be read"):
        read_coco(tmp_path / "a.json")


def test_long_reports_are_cut():
    assert format_report({"odd": list(range(9))}, num_shown=2) == "        9  odd: 0, 1, ..."


JUNK = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(),
        st.integers(-3, 60),
        st.floats(),
        st.just(10**400),
        st.text(max_size=8),
        st.sampled_from(["../x", "/etc/passwd", "a.png", "cat", "\ud800"]),
    ),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)


def mutate(value, junk, rng):
    """Replace one random node of a json tree."""
    if isinstance(value, (dict, list)) and value and rng.random() < 0.85:
        key = rng.choice(list(value)) if isinstance(value, dict) else rng.randrange(len(value))
        if rng.random() < 0.15:
            del value[key]
        else:
            value[key] = mutate(value[key], junk, rng)
        return value
    return junk


@pytest.fixture(scope="module")
def fuzz_path(tmp_path_factory):
    return tmp_path_factory.mktemp("fuzz") / "a.json"


@settings(max_examples=int(os.environ.get("LUMEN_FUZZ", "300")), deadline=None)
@given(
    junks=st.lists(JUNK, min_size=1, max_size=4),
    seed=st.integers(0, 2**32),
    budget=st.sampled_from([0.0, 0.5, 1.0]),
    federated=st.booleans(),
)
def test_mutated_files_give_a_data_error_or_sound_records(fuzz_path, junks, seed, budget, federated):
    rng = random.Random(seed)
    content = {
        "images": [VERIFIED | IMAGE, VERIFIED | IMAGE | {"id": 2, "file_name": "b.png"}],
        "annotations": [
            BOX | TRIANGLE | {"id": i, "bbox": [2.5, 3, 10, 5], "iscrowd": 0, "image_id": 1 + i % 2} for i in range(4)
        ],
        "categories": [dict(CATEGORY), {"id": 9, "name": "dog"}],
    }
    for junk in junks:
        content = mutate(content, junk, rng)
    fuzz_path.write_text(json.dumps(content))
    try:
        found = read_coco(fuzz_path, image_root="root", skip_budget=budget, with_masks=True, federated=federated)
    except DataError:
        return
    entries = json.loads(fuzz_path.read_text())
    known = {a["id"] for a in entries["annotations"] if isinstance(a, dict) and type(a.get("id")) is int}
    for record in found.records:
        assert Path(os.path.normpath(record["img_path"])).parts[0] == "root"
        table, (height, width) = record["instances"], record["ori_hw"]
        boxes = table["bboxes"]
        assert boxes.dtype == np.float32 and boxes.shape == (len(table["labels"]), 4) and np.isfinite(boxes).all()
        assert (boxes >= 0).all() and (boxes[:, 2:] > boxes[:, :2]).all()
        assert (boxes[:, [0, 2]] <= width).all() and (boxes[:, [1, 3]] <= height).all()
        assert ((table["labels"] >= 0) & (table["labels"] < len(found.classes))).all()
        assert set(table["ann_ids"].tolist()) <= known | ({-1} if federated else set())
        assert decode_masks(list(table["segmentations"]), record["ori_hw"]).shape == (len(boxes), height, width)
    if federated:
        return
    num_kept = sum(len(record["instances"]["labels"]) for record in found.records)
    num_skipped = sum(len(ids) for reason, ids in found.report.items() if reason != CLIPPED)
    assert num_kept + num_skipped + len(found.records) == len(entries["annotations"]) + len(entries["images"])

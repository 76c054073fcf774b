"""Files that were made to break a reader: each is read, or refused by an error of Lumen, in little memory and time."""

import copy
import json
import pickle
import time
import tracemalloc
from contextlib import contextmanager

import pytest

from lumen.data.check import check_coco
from lumen.data.coco import CocoDataset
from lumen.data.refer_files import load_plain_pickle, read_refer
from lumen.errors import DataError

IMAGES = [
    {"id": 1, "file_name": "a.jpg", "height": 8, "width": 8},
    {"id": 2, "file_name": "b.jpg", "height": 8, "width": 8},
]
KEYPOINTS = {
    "images": IMAGES,
    "categories": [{"id": 3, "name": "star", "keypoints": ["top", "left"], "skeleton": [[1, 2]], "sigmas": [0.1, 0.1]}],
    "annotations": [
        {"id": 5, "image_id": 1, "category_id": 3, "bbox": [1, 1, 4, 4], "keypoints": [2, 2, 2, 3, 3, 1], "iscrowd": 0,
         "num_keypoints": 2, "area": 16, "segmentation": [[1, 1, 5, 1, 5, 5]]},
        {"id": 6, "image_id": 2, "category_id": 3, "bbox": [1, 1, 4, 4], "keypoints": [2, 2, 2, 3, 3, 0]},
    ],
}  # fmt: skip


@contextmanager
def little_memory_and_time():
    """Bounds on what a block may allocate at one time, as Python and NumPy count it, and on its CPU seconds."""
    start = time.process_time()
    tracemalloc.start()
    try:
        yield
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 200 * 1024**2
    assert time.process_time() - start < 2


def test_a_pickle_of_nine_bytes_takes_no_gigabytes(tmp_path):
    path = tmp_path / "refs.p"
    for content in (
        b"\x80\x02Kar\xff\xff\xff\x1f.",
        b"\x80\x05\x96\x00\x00\x00\x40\x01\x00\x00\x00.",
        b"Kap999999999\n.",
    ):
        path.write_bytes(content)
        with little_memory_and_time(), pytest.raises(DataError, match="pickle"):
            load_plain_pickle(path)
    shared = [{"sent": "a"}] * 3000
    path.write_bytes(pickle.dumps([{"split": "val", "sentences": shared}] * 3000))
    with little_memory_and_time(), pytest.raises(DataError, match="9000000 sentences"):
        read_refer(str(path), layout="refer", split="val", instances_file="gone")


def test_a_large_image_that_is_only_stated_takes_no_memory(tmp_path):
    path = tmp_path / "lvis.json"
    for side, is_read in ((46_000, True), (100_000, False)):
        image = {"id": 1, "file_name": "a.jpg", "height": side, "width": side}
        image |= {"neg_category_ids": [], "not_exhaustive_category_ids": [1]}
        content = {"images": [image], "annotations": [], "categories": [{"id": 1, "name": "a"}]}
        path.write_text(json.dumps(content))
        with little_memory_and_time():
            dataset = CocoDataset(ann_file=str(path), federated=True, skip_budget=1.0) if is_read else None
            if not is_read:
                with pytest.raises(DataError, match="2\\^31 pixels"):
                    CocoDataset(ann_file=str(path), federated=True, skip_budget=0.0)
        assert dataset is None or len(dataset) == 1


def test_many_categories_are_read_in_linear_time(tmp_path):
    path = tmp_path / "many.json"
    categories = [{"id": number, "name": f"name {number}"} for number in range(20_000)]
    path.write_text(json.dumps({"images": IMAGES, "annotations": [], "categories": categories}))
    start = time.process_time()
    assert len(CocoDataset(ann_file=str(path)).metainfo["classes"]) == 20_000
    assert time.process_time() - start < 2


def test_names_that_no_phrase_may_have_are_found(tmp_path):
    path = tmp_path / "ann.json"
    content = copy.deepcopy(KEYPOINTS)
    content["categories"] += [{"id": 9, "name": "the [LOC] mark"}]
    path.write_text(json.dumps(content))
    reasons = check_coco(path)
    assert reasons["name of a category cannot be asked for: it is empty or holds a special token"] == [9]

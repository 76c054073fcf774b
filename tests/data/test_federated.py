"""A small file in the layout of LVIS v1: no file names but addresses, and lists of verified classes per image."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from lumen.data.coco import CocoDataset
from lumen.data.transforms import AskClasses, LoadImage, PackSample, ResizeToInput
from lumen.errors import DataError

CATEGORIES = [
    {"id": 1, "name": "aerosol_can", "frequency": "c", "synset": "aerosol.n.02", "image_count": 1},
    {"id": 3, "name": "airplane", "frequency": "f", "synset": "airplane.n.01", "image_count": 1},
    {"id": 12, "name": "apple", "frequency": "f", "synset": "apple.n.01", "image_count": 1},
    {"id": 45, "name": "ball", "frequency": "f", "synset": "ball.n.06", "image_count": 1},
]
IMAGE = {
    "id": 397133,
    "coco_url": "http://images.cocodataset.org/val2017/000000397133.jpg",
    "height": 20,
    "width": 40,
    "neg_category_ids": [1],
    "not_exhaustive_category_ids": [12],
}
ROW = {"id": 1, "image_id": 397133, "area": 50.0, "segmentation": [[2, 3, 12, 3, 12, 8, 2, 8]], "bbox": [2, 3, 10, 5]}
ROWS = [ROW | {"category_id": 3}, ROW | {"id": 2, "category_id": 12}]


def build(root, image=IMAGE, *, ask=None, **kwargs):
    (root / "val2017").mkdir(exist_ok=True)
    Image.fromarray(np.zeros((20, 40, 3), dtype=np.uint8)).save(root / "val2017" / "000000397133.jpg")
    (root / "lvis.json").write_text(json.dumps({"images": [image], "annotations": ROWS, "categories": CATEGORIES}))
    pipeline = [LoadImage(), ResizeToInput(input_hw=(20, 40)), AskClasses(**(ask or {})), PackSample()]
    return CocoDataset(ann_file="lvis.json", data_root=str(root), pipeline=pipeline, federated=True, **kwargs)


def texts(sample, index=None):
    asked = range(len(sample.prompts)) if index is None else index.tolist()
    return sorted(sample.prompts[at].text for at in asked)


def test_only_verified_classes_are_asked(tmp_path):
    # The ball was not looked for: it is neither present nor absent.
    for seed in range(5):
        np.random.seed(seed)
        assert texts(build(tmp_path)[0]["data_samples"]) == ["aerosol_can", "airplane", "apple"]


@pytest.mark.parametrize("with_masks", [False, True])
def test_an_incompletely_annotated_class_has_no_background(tmp_path, with_masks):
    sample = build(tmp_path, with_masks=with_masks)[0]["data_samples"]
    assert texts(sample, sample.gt_instances.prompt_index) == ["airplane", "apple"]
    ignored = sample.ignored_instances
    assert texts(sample, ignored.prompt_index) == ["apple"]
    assert ignored.bboxes.tolist() == [[0, 0, 40, 20]]
    if with_masks:
        assert ignored.masks.all() and ignored.masks.shape == (1, 20, 40)


def test_the_region_moves_with_the_image(tmp_path):
    dataset = build(tmp_path)
    dataset.pipeline.transforms[1] = ResizeToInput(input_hw=(20, 20), flip_probability=1.0)
    torch.testing.assert_close(
        dataset[0]["data_samples"].ignored_instances.bboxes, torch.tensor([[0.0, 0.0, 20.0, 10.0]])
    )


def test_chosen_classes_keep_their_verification(tmp_path):
    record = build(tmp_path, classes=["ball", "aerosol_can"]).get_data_info(0)
    assert record["absent_labels"] == [1]
    assert record["instances"]["labels"].tolist() == []
    assert build(tmp_path, classes=["apple"]).get_data_info(0)["absent_labels"] == []


@pytest.mark.parametrize("bad", [{"neg_category_ids": None}, {"not_exhaustive_category_ids": [99]}])
def test_an_image_without_verification_is_an_error(tmp_path, bad):
    with pytest.raises(DataError, match=f"{next(iter(bad))} is missing or not a list of known category ids: 397133"):
        build(tmp_path, IMAGE | bad)


def test_an_address_may_not_leave_the_folder(tmp_path):
    with pytest.raises(DataError, match="leaves the image folder"):
        build(tmp_path, IMAGE | {"coco_url": "http://x/../passwd"})

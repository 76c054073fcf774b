import importlib.util
import sys

import numpy as np
import pytest
import torch
from mmengine.structures import InstanceData

from lumen.errors import ConfigError, DataError
from lumen.interop.supervision import to_supervision
from lumen.ops.masks import encode_masks

needs_supervision = pytest.mark.skipif(
    importlib.util.find_spec("supervision") is None, reason="supervision is not installed"
)


def rows(number, **fields):
    return InstanceData(
        scores=torch.linspace(0.9, 0.5, number),
        labels=torch.arange(number),
        phrases=["star", "ring"][:number],
        **fields,
    )


def some_masks(number):
    masks = torch.zeros(number, 8, 10, dtype=torch.bool)
    masks[:1, 2:4, 3:7] = True
    return encode_masks(masks)


@needs_supervision
@pytest.mark.parametrize("number", [0, 2])
def test_boxes_become_detections(number):
    boxes = torch.arange(number * 4).float().reshape(-1, 4)
    found = to_supervision(rows(number, bboxes=boxes, peak_scores=torch.ones(number)))
    assert len(found) == number
    np.testing.assert_array_equal(found.xyxy, boxes.numpy())
    assert found.class_id.tolist() == list(range(number))
    assert found.confidence.tolist() == pytest.approx([0.9, 0.5][:number])
    assert found.data["class_name"].tolist() == ["star", "ring"][:number]
    assert found.data["peak_scores"].tolist() == [1.0] * number


@needs_supervision
@pytest.mark.parametrize("number", [0, 2])
def test_masks_without_boxes_get_the_boxes_around_them(number):
    found = to_supervision(rows(number, masks=some_masks(number)))
    assert found.xyxy.tolist() == [[3, 2, 7, 4], [0, 0, 0, 0]][:number]
    if number:
        assert found.mask.shape == (2, 8, 10) and found.mask.dtype == bool
        assert found.mask.sum((1, 2)).tolist() == [8, 0]


@needs_supervision
def test_keypoints_travel_in_the_data():
    points = torch.arange(12).float().reshape(2, 3, 2)
    found = to_supervision(rows(2, bboxes=torch.zeros(2, 4), keypoints=points))
    np.testing.assert_array_equal(found.data["keypoints"], points.numpy())
    assert len(found[found.class_id == 1].data["keypoints"]) == 1


@needs_supervision
def test_a_table_without_places_is_refused():
    with pytest.raises(DataError, match="need bboxes or masks"):
        to_supervision(rows(2, counts=torch.zeros(2)))


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "supervision", None)
    with pytest.raises(ConfigError, match=r"lumen-perception\[supervision\]"):
        to_supervision(rows(2, bboxes=torch.zeros(2, 4)))

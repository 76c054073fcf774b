"""Declared fields on their way through the transforms."""

import numpy as np
import pytest
import torch

from lumen.data.fields import fields_to_input
from lumen.data.keypoint_transforms import CropInstance
from lumen.data.refer import AskSentences
from lumen.data.transforms import AskClasses, PackSample, ResizeToInput
from lumen.errors import ConfigError, DataError
from lumen.ops.geometry import InputTransform
from lumen.structures import Field

FIELDS = {"tips": Field("points"), "heading": Field("directions"), "turn": Field("angles"), "size": Field("classes")}


def record(**changes):
    """Return two objects in an image of 40 x 80 pixels (height, width); the second one lies at the right end."""
    instances = {
        "bboxes": np.array([[10, 10, 20, 20], [70, 0, 80, 20]], np.float32),
        "labels": np.array([0, 1]),
        "is_ignored": np.array([False, False]),
        "ann_ids": np.array([5, 6]),
        "tips": np.array([[12.0, 10.0], [75.0, 0.0]]),
        "heading": np.array([[1.0, 0.0], [0.6, 0.8]]),
        "turn": np.array([0.0, np.pi / 2]),
        "size": np.array([2, 0]),
    }
    return {
        "image": np.zeros((40, 80, 3), np.uint8),
        "ori_hw": (40, 80),
        "classes": ("star", "ring"),
        "instances": instances | changes,
        "fields": FIELDS,
        **{"img_id": 1, "img_path": "a.png"},
    }


def test_a_flip_and_a_resize_move_each_kind():
    seen = ResizeToInput(input_hw=(20, 40), flip_probability=1.0)(record())
    asked = AskClasses(num_prompts=None, shuffle=False)(seen)
    sample = PackSample()(asked)["data_samples"]
    targets = sample.gt_instances
    # half as large, then x -> 40 - x
    torch.testing.assert_close(targets.bboxes, torch.tensor([[30.0, 5, 35, 10], [0, 0, 5, 10]]))
    torch.testing.assert_close(targets.tips, torch.tensor([[34.0, 5.0], [2.5, 0.0]]))
    torch.testing.assert_close(targets.heading, torch.tensor([[-1.0, 0.0], [-0.6, 0.8]]))
    torch.testing.assert_close(targets.turn, torch.tensor([np.pi, np.pi / 2], dtype=torch.float32))
    assert targets.size.tolist() == [2, 0] and targets.size.dtype == torch.int64
    assert sample.fields == {"tips": "points", "heading": "directions", "turn": "angles", "size": "classes"}
    assert sample.ignored_instances.heading.shape == (0, 2)


def test_an_object_that_leaves_the_view_takes_its_values_along():
    np.random.seed(3)
    transform = ResizeToInput(input_hw=(40, 80), scale_range=(2.0, 2.0))
    for _ in range(20):
        instances = transform(record())["instances"]
        kept = instances["ann_ids"].tolist()
        assert instances["size"].tolist() == [{5: 2, 6: 0}[number] for number in kept]
        assert instances["heading"].shape == (len(kept), 2)


def test_a_crop_moves_them_too():
    made = record() | {
        "box": (10.0, 10.0, 20.0, 20.0),
        "keypoints": np.array([[12.0, 12.0, 2.0]], np.float32),
        "keypoint_names": ("tip",),
    }
    seen = CropInstance(input_hw=(20, 20), padding=1.0, flip_probability=1.0)(made)
    torch.testing.assert_close(seen["instances"]["tips"][0], torch.tensor([16.0, 0.0]))  # twice as large, mirrored
    torch.testing.assert_close(seen["instances"]["heading"][0], torch.tensor([-1.0, 0.0]))


def test_sentences_pass_them_on():
    seen = ResizeToInput(input_hw=(40, 80))(record())
    seen["refs"] = ({"sentence": "the ring", "ann_ids": np.array([6]), "ref_id": 1, "kind": ""},)
    targets = AskSentences(shuffle=False)(seen)["gt_instances"]
    assert targets["size"].tolist() == [0] and targets["heading"].shape == (1, 2)


def test_an_undeclared_field_is_an_error_that_shows_what_to_write():
    with pytest.raises(ConfigError, match=r"instances hold \['speed'\].*fields = \{\"speed\": Field\(\"numbers\"\)\}"):
        ResizeToInput(input_hw=(40, 80))(record(speed=np.zeros(2)))


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        (
            {"heading": np.zeros((2, 3))},
            DataError,
            r"of shape \(2,\) per object, its array has shape \(2, 3\)",
        ),
        ({"size": np.zeros(2)}, DataError, "classes, which are integers, its array has float64"),
        ({"turn": np.array(["left", "right"])}, DataError, "type <U5"),
    ],
)
def test_values_that_are_not_as_declared_are_refused(changes, error, message):
    with pytest.raises(error, match=message):
        ResizeToInput(input_hw=(40, 80))(record(**changes))


def test_a_declared_field_that_is_missing_is_named():
    instances = {"bboxes": np.zeros((0, 4), np.float32)}
    frame = InputTransform.stretch((4, 4), (4, 4))
    with pytest.raises(ConfigError, match=r"declares the fields \['size'\]"):
        fields_to_input(instances, frame, {"size": Field("classes")})
    empty = fields_to_input({"size": np.zeros(0, np.int64)}, frame, {"size": Field("classes")})
    assert empty["size"].shape == (0,)

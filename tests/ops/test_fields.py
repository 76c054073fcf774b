"""Fields between original and input pixels: what each kind does, worked out by hand."""

import math

import pytest
import torch
from helpers import make_sample
from mmengine.structures import InstanceData

from lumen.errors import ConfigError
from lumen.ops.fields import answer_to_input, answer_to_original, check_fields, to_input
from lumen.ops.geometry import InputTransform
from lumen.structures import Field, TaskSpec

HALF = InputTransform.letterbox((100, 200), (50, 100))  # half the size
WIDE = InputTransform.stretch((100, 100), (100, 300))  # three times as wide
FRAMES = {
    "half": HALF,
    "wide": WIDE,
    "mirrored": HALF.flip_horizontal(),
    "upside down": HALF.flip_vertical(),
    "both": WIDE.flip_horizontal().flip_vertical(),
    "crop": InputTransform.crop((100, 200), (50, 20, 90, 60), (80, 80)).flip_horizontal(),
}


@pytest.mark.parametrize(
    ("frame", "kind", "value", "wanted"),
    [
        ("half", "points", [20.0, 40.0], [10.0, 20.0]),
        ("mirrored", "points", [20.0, 40.0], [90.0, 20.0]),
        ("upside down", "points", [20.0, 40.0], [10.0, 30.0]),
        ("crop", "points", [50.0, 20.0], [80.0, 0.0]),  # twice as large, its corner at the right edge
        ("half", "directions", [3.0, 4.0], [3.0, 4.0]),
        ("mirrored", "directions", [3.0, 4.0], [-3.0, 4.0]),
        ("upside down", "directions", [3.0, 4.0], [3.0, -4.0]),
        ("wide", "directions", [4.0, 12.0], [12.64911064 / math.sqrt(2), 12.64911064 / math.sqrt(2)]),  # (12, 12)
        ("mirrored", "directions", [0.0, 0.0], [0.0, 0.0]),
        ("half", "angles", 0.5, 0.5),
        ("mirrored", "angles", 0.5, math.pi - 0.5),
        ("mirrored", "angles", math.pi, 0.0),
        ("upside down", "angles", 0.5, -0.5),
        ("upside down", "angles", math.pi, math.pi),
        ("wide", "angles", math.atan2(3, 1), math.pi / 4),
        ("both", "angles", math.atan2(3, 1), -3 * math.pi / 4),
        ("mirrored", "numbers", 7.0, 7.0),
    ],
)
def test_values_move_as_worked_out_by_hand(frame, kind, value, wanted):
    moved = to_input(torch.tensor([value]), kind, FRAMES[frame])
    torch.testing.assert_close(moved, torch.tensor([wanted]), rtol=1e-5, atol=1e-5)


def test_classes_stay_integers():
    labels = torch.tensor([3, 0])
    assert to_input(labels, "classes", FRAMES["both"]) is labels


@pytest.mark.parametrize("frame", FRAMES.values(), ids=FRAMES)
def test_answers_come_back(frame):
    """Two rows of everything, and none."""
    kinds = {"ends": "points", "heading": "directions", "turn": "angles", "colours": "classes", "weight": "numbers"}
    whole = InstanceData(
        bboxes=torch.tensor([[60.0, 30.0, 80.0, 50.0], [55.0, 25.0, 60.0, 90.0]]),
        ends=torch.tensor([[[60.0, 30.0], [70.0, 40.0]], [[1.0, 2.0], [3.0, 4.0]]]),
        heading=torch.tensor([[0.6, 0.8], [-5.0, 0.0]]),
        turn=torch.tensor([0.3, -3.0]),
        colours=torch.tensor([2, 5]),
        weight=torch.tensor([1.5, 2.5]),
        scores=torch.tensor([0.9, 0.8]),
    )
    for answer in (whole, whole[:0]):
        seen = answer_to_input(answer, frame, kinds)
        back = answer_to_original(seen, frame, kinds)
        assert set(back.keys()) == set(answer.keys())
        for name in answer.keys():  # noqa: SIM118 - it is not a dict
            torch.testing.assert_close(back[name], answer[name], rtol=1e-5, atol=1e-4)


def test_standard_fields_are_known_without_a_declaration():
    frame = InputTransform.letterbox((100, 200), (64, 64))
    answer = InstanceData(
        bboxes=torch.tensor([[3.2, 6.4, 32.0, 12.8]]), points=torch.tensor([[32.0, 16.0]]), scores=torch.tensor([0.5])
    )
    mapped = answer_to_original(answer, frame, {})
    torch.testing.assert_close(mapped.bboxes, torch.tensor([[10.0, 20.0, 100.0, 40.0]]))
    torch.testing.assert_close(mapped.points, torch.tensor([[100.0, 50.0]]))
    assert mapped.scores.tolist() == [0.5]


def spec_of(**fields):
    return TaskSpec("heading", frozenset(fields), frozenset(), "heading/error", {}, fields=fields)


def test_a_target_that_the_data_set_does_not_declare_is_refused_with_the_line_to_add():
    sample = make_sample(["cat"])
    with pytest.raises(ConfigError, match=r"but the data set does not.*\"heading\": Field\(\"directions\"\)"):
        check_fields(spec_of(heading=Field("directions")), sample)
    sample.set_metainfo({"fields": {"heading": "numbers"}})
    with pytest.raises(ConfigError, match="declares it as numbers"):
        check_fields(spec_of(heading=Field("directions")), sample)
    sample.set_metainfo({"fields": {"heading": "directions"}})
    check_fields(spec_of(heading=Field("directions")), sample)


def test_classes_of_a_sample_made_by_hand_need_no_declaration():
    check_fields(spec_of(colours=Field("classes")), make_sample(["cat"]))

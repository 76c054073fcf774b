import pickle

import pytest
import torch
from helpers import content_of
from hypothesis import given, settings
from hypothesis import strategies as st

from lumen.ops.geometry import (
    InputTransform,
    box_area,
    box_iou,
    box_means,
    clip_boxes,
    cxcywh_to_xyxy,
    giou,
    nms,
    sine_positions,
    xywh_to_xyxy,
)

sizes = st.tuples(st.integers(1, 4000), st.integers(1, 4000))


KINDS = {
    "stretch": lambda ori_hw, box, input_hw: InputTransform.stretch(ori_hw, input_hw),
    "letterbox": lambda ori_hw, box, input_hw: InputTransform.letterbox(ori_hw, input_hw),
    "crop": InputTransform.crop,
}


@st.composite
def frame_arguments(draw):
    height, width = draw(sizes)
    x1, y1 = draw(st.floats(-50, width - 0.5)), draw(st.floats(-50, height - 0.5))
    x2, y2 = max(x1, 0) + draw(st.floats(0.5, 4000)), max(y1, 0) + draw(st.floats(0.5, 4000))
    return (height, width), (x1, y1, x2, y2), draw(sizes)


def make_frame(kind, arguments, is_flipped):
    frame = KINDS[kind](*arguments)
    return frame.flip_horizontal() if is_flipped else frame


@settings(deadline=None)
@given(
    kind=st.sampled_from(list(KINDS)),
    arguments=frame_arguments(),
    is_flipped=st.booleans(),
    fraction=st.tuples(st.floats(0, 1), st.floats(0, 1)),
)
def test_visible_points_come_back(kind, arguments, is_flipped, fraction):
    frame = make_frame(kind, arguments, is_flipped)
    content = torch.tensor(content_of(frame), dtype=torch.float64)
    inside = content[:2] + torch.tensor(fraction, dtype=torch.float64) * (content[2:] - content[:2])
    points = frame.points_to_original(inside).float()
    # float32 cannot tell input pixels closer than this apart: 5e-4 original pixels at 4000, where nothing is shifted
    step = inside.abs() * torch.finfo(torch.float32).eps / torch.tensor(frame.scale_xy).abs()
    back = frame.points_to_original(frame.points_to_input(points))
    assert ((back - points).abs() <= 5e-4 + step).all()


@settings(deadline=None)
@given(
    kind=st.sampled_from(["stretch", "letterbox"]),
    arguments=frame_arguments(),
    fraction=st.tuples(st.floats(0, 1), st.floats(0, 1)),
)
def test_points_of_a_whole_image_come_back_within_a_thousandth_of_a_pixel(kind, arguments, fraction):
    frame = make_frame(kind, arguments, is_flipped=False)
    points = torch.tensor(fraction) * torch.tensor([frame.ori_hw[1], frame.ori_hw[0]])
    back = frame.points_to_original(frame.points_to_input(points))
    assert torch.allclose(back, points, rtol=0, atol=1e-3)


@settings(deadline=None)
@given(
    kind=st.sampled_from(list(KINDS)),
    arguments=frame_arguments(),
    is_flipped=st.booleans(),
    fraction=st.tuples(*[st.floats(0, 1)] * 4),
)
def test_boxes_stay_in_order_and_come_back(kind, arguments, is_flipped, fraction):
    frame = make_frame(kind, arguments, is_flipped)
    x1, y1, x2, y2 = fraction
    boxes = torch.tensor([[min(x1, x2), min(y1, y2), max(x1, x2), max(y1, y2)]], dtype=torch.float64)
    boxes = boxes * torch.tensor([frame.ori_hw[1], frame.ori_hw[0]] * 2)
    there = frame.boxes_to_input(boxes)
    assert (there[:, :2] <= there[:, 2:]).all()
    assert torch.allclose(frame.boxes_to_original(there, clip=False), boxes, rtol=0, atol=1e-6)


def test_stretch_scales_each_axis_by_itself():
    frame = InputTransform.stretch((100, 200), (50, 50))
    assert frame.points_to_input(torch.tensor([200.0, 100.0])).tolist() == [50.0, 50.0]
    assert content_of(frame) == (0, 0, 50, 50)


def test_letterbox_keeps_the_ratio_and_pads_right_or_below():
    assert content_of(InputTransform.letterbox((100, 200), (50, 50))) == (0, 0, 50, 25)
    assert content_of(InputTransform.letterbox((200, 100), (50, 50))) == (0, 0, 25, 50)


def test_a_crop_lies_in_the_middle_with_its_surroundings():
    frame = InputTransform.crop((100, 200), (50, 20, 70, 60), (80, 80))
    assert frame.boxes_to_input(torch.tensor([[50.0, 20.0, 70.0, 60.0]])).tolist() == [[20, 0, 60, 80]]
    assert content_of(frame) == (0, 0, 80, 80)


def test_a_crop_over_the_border_shows_padding():
    frame = InputTransform.crop((100, 200), (-10, 0, 30, 40), (80, 80))
    assert content_of(frame) == (20, 0, 80, 80)


def test_a_flip_mirrors_the_input_and_keeps_boxes_in_order():
    frame = InputTransform.letterbox((100, 200), (50, 50)).flip_horizontal()
    assert frame.is_flipped
    assert frame.boxes_to_input(torch.tensor([[0.0, 0.0, 40.0, 100.0]])).tolist() == [[40, 0, 50, 25]]
    assert content_of(InputTransform.letterbox((200, 100), (50, 50)).flip_horizontal()) == (25, 0, 50, 50)


def test_two_flips_cancel():
    frame = InputTransform.crop((100, 200), (50, 20, 70, 60), (80, 64))
    assert frame.flip_horizontal().flip_horizontal() == frame


def test_restored_boxes_are_cut_at_the_image():
    frame = InputTransform.stretch((100, 200), (50, 50))
    boxes = torch.tensor([[-5.0, -5.0, 60.0, 60.0]])
    assert frame.boxes_to_original(boxes).tolist() == [[0, 0, 200, 100]]
    assert frame.boxes_to_original(boxes, clip=False).tolist() == [[-20, -10, 240, 120]]


def test_a_frame_accepts_no_boxes_and_keeps_the_shape_of_points():
    frame = InputTransform.stretch((100, 200), (50, 50)).flip_horizontal()
    assert frame.boxes_to_input(torch.zeros(0, 4)).shape == (0, 4)
    assert frame.boxes_to_original(torch.zeros(0, 4)).shape == (0, 4)
    assert frame.points_to_input(torch.zeros(3, 17, 2)).shape == (3, 17, 2)


def test_vertical_flips_keep_boxes_in_order():
    frame = InputTransform.stretch((10, 20), (20, 40)).flip_vertical()
    boxes = torch.tensor([[2.0, 2.0, 8.0, 6.0]])
    assert frame.boxes_to_input(boxes).tolist() == [[4, 8, 16, 16]]
    assert torch.equal(frame.boxes_to_original(frame.boxes_to_input(boxes)), boxes)


def test_a_frame_survives_pickling():
    frame = InputTransform.letterbox((100, 200), (50, 50))
    assert pickle.loads(pickle.dumps(frame)) == frame


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: InputTransform.stretch((0, 5), (5, 5)), "ori_hw must be a positive"),
        (lambda: InputTransform.letterbox((5, 0), (5, 5)), "ori_hw must be a positive"),
        (lambda: InputTransform.stretch((5, 5), (5, -1)), "input_hw must be a positive"),
        (lambda: InputTransform.crop((5, 5), (2, 2, 2, 4), (5, 5)), "must hold a part"),
        (lambda: InputTransform.crop((5, 5), (6, 0, 9, 4), (5, 5)), "must hold a part"),
        (lambda: InputTransform.crop((5, 5), (0, 0, float("nan"), 4), (5, 5)), "must hold a part"),
        (lambda: InputTransform((5, 5), (5, 5), (0.0, 1.0), (0.0, 0.0)), "scales other than 0"),
        (lambda: InputTransform((5, 5), (5, 5), (1.0, 1.0), (float("inf"), 0.0)), "expected finite numbers"),
    ],
)
def test_an_impossible_frame_is_an_error(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_box_formats_become_corners():
    corners = [[10.0, 20.0, 30.0, 60.0]]
    assert cxcywh_to_xyxy(torch.tensor([[20.0, 40.0, 20.0, 40.0]])).tolist() == corners
    assert xywh_to_xyxy(torch.tensor([[10.0, 20.0, 20.0, 40.0]])).tolist() == corners


def test_clipping_keeps_boxes_inside():
    boxes = torch.tensor([[-5.0, 2.0, 30.0, 60.0], [50.0, 50.0, 60.0, 60.0]])
    assert clip_boxes(boxes, (40, 20)).tolist() == [[0, 2, 20, 40], [20, 40, 20, 40]]


def test_area_of_swapped_corners_is_zero():
    assert box_area(torch.tensor([[0.0, 0.0, 3.0, 4.0], [3.0, 4.0, 0.0, 0.0]])).tolist() == [12, 0]


def test_overlaps_by_hand():
    a = torch.tensor([[0.0, 0.0, 2.0, 2.0]])
    b = torch.tensor([[0.0, 0.0, 2.0, 2.0], [1.0, 0.0, 3.0, 2.0], [4.0, 0.0, 6.0, 2.0]])
    assert torch.allclose(box_iou(a, b), torch.tensor([[1, 1 / 3, 0]]))
    # the last two lie apart: hull 12, union 8
    assert torch.allclose(giou(a.expand(3, 4), b), torch.tensor([1, 1 / 3, -4 / 12]))


def test_empty_boxes_overlap_nothing_and_stay_finite():
    empty = torch.zeros(1, 4, requires_grad=True)
    assert box_iou(empty.detach(), empty.detach()).item() == 0
    value = giou(empty, torch.zeros(1, 4)).sum()
    value.backward()
    assert value.isfinite() and empty.grad.isfinite().all()
    assert box_iou(torch.zeros(0, 4), torch.zeros(3, 4)).shape == (0, 3)


def test_giou_has_the_right_gradient():
    generator = torch.Generator().manual_seed(0)
    a, b = (cxcywh_to_xyxy(torch.rand(4, 4, generator=generator, dtype=torch.float64)) for _ in range(2))
    assert torch.autograd.gradcheck(giou, (a.requires_grad_(), b))


def greedy_nms(boxes, scores, groups, threshold):
    kept = []
    overlap = box_iou(boxes, boxes)
    for i in sorted(range(len(boxes)), key=lambda i: (-scores[i].item(), i)):
        if not any(groups[i] == groups[j] and overlap[i, j] > threshold for j in kept):
            kept.append(i)
    return kept


def random_boxes(n, seed):
    generator = torch.Generator().manual_seed(seed)
    boxes = torch.rand(n, 4, generator=generator) * torch.tensor([40.0, 40.0, 20.0, 20.0]) + 1
    return cxcywh_to_xyxy(boxes), generator


@settings(deadline=None, max_examples=60)
@given(n=st.integers(0, 60), seed=st.integers(0, 10**6), num_groups=st.integers(1, 4), levels=st.integers(1, 50))
def test_nms_is_the_greedy_algorithm(n, seed, num_groups, levels):
    boxes, generator = random_boxes(n, seed)
    scores = torch.randint(levels, (n,), generator=generator).float()
    groups = torch.randint(num_groups, (n,), generator=generator)
    assert nms(boxes, scores, groups, 0.3).tolist() == greedy_nms(boxes, scores, groups, 0.3)


@pytest.mark.parametrize("num_groups", [1, 3])
def test_nms_is_the_greedy_algorithm_over_several_blocks(num_groups, monkeypatch):
    monkeypatch.setattr("lumen.ops.geometry._NMS_BLOCK", 16)
    boxes, generator = random_boxes(150, seed=1)
    scores = torch.randint(30, (150,), generator=generator).float()
    groups = torch.randint(num_groups, (150,), generator=generator)
    assert nms(boxes, scores, groups, 0.2).tolist() == greedy_nms(boxes, scores, groups, 0.2)


def test_a_suppressed_box_suppresses_nothing():
    boxes = torch.tensor([[0.0, 0.0, 10.0, 10.0], [4.0, 0.0, 14.0, 10.0], [8.0, 0.0, 18.0, 10.0]])
    groups = torch.zeros(3, dtype=torch.long)
    assert nms(boxes, torch.tensor([0.9, 0.8, 0.7]), groups, 0.3).tolist() == [0, 2]


def test_of_equal_boxes_with_equal_scores_the_first_of_each_group_stays():
    boxes = torch.tensor([[0.0, 0.0, 10.0, 10.0]]).repeat(700, 1)
    assert nms(boxes, torch.ones(700), torch.arange(700) % 2, 0.5).tolist() == [0, 1]


def test_nms_of_nothing_is_nothing():
    empty = torch.zeros(0, dtype=torch.long)
    assert nms(torch.zeros(0, 4), torch.zeros(0), empty, 0.5).tolist() == []


def test_nms_equals_mmcv():
    ops = pytest.importorskip("mmcv.ops")
    boxes, generator = random_boxes(300, seed=2)
    scores, groups = torch.rand(300, generator=generator), torch.randint(5, (300,), generator=generator)
    _, expected = ops.batched_nms(boxes, scores, groups, {"type": "nms", "iou_threshold": 0.4})
    assert nms(boxes, scores, groups, 0.4).tolist() == expected.tolist()


def test_the_mean_over_a_box_counts_cells_by_what_is_covered():
    maps = torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]])
    boxes = torch.tensor([[[0.0, 0.0, 1.0, 1.0], [0.0, 0.0, 0.5, 0.5], [0.25, 0.0, 0.75, 0.5], [0.4, 0.4, 0.7, 0.6]]])
    # The last box covers a third of its width in the left column, and half of its height in each row.
    wanted = [2.5, 1.0, 1.5, (1 + 3) / 2 / 3 + (2 + 4) / 2 * 2 / 3]
    torch.testing.assert_close(box_means(maps, boxes)[0, :, 0], torch.tensor(wanted))
    assert box_means(maps, boxes[:, :0]).shape == (1, 0, 1)


def test_positions_over_another_grid_are_those_of_the_centres_of_cells():
    like = torch.zeros(())
    coarse = sine_positions(2, 3, 8, like=like)
    assert torch.equal(sine_positions(2, 3, 8, like=like, over=(2, 3)), coarse)
    # Of 3 x 3 cells the middle one has the centre of the cell that they divide.
    fine = sine_positions(6, 9, 8, like=like, over=(2, 3)).unflatten(0, (6, 9))
    torch.testing.assert_close(fine[1::3, 1::3].flatten(0, 1), coarse)
    assert not torch.allclose(sine_positions(6, 9, 8, like=like).unflatten(0, (6, 9)), fine)

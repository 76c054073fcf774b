import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lumen.ops.geometry import clip_boxes, cxcywh_to_xyxy
from lumen.ops.heatmap import (
    detection_targets,
    elliptic_targets,
    find_peaks,
    gaussian_focal_loss,
    gaussian_radius,
    ignore_weight,
    paint_gaussians,
    refine_peaks,
)

SIZE_HW, STRIDE = (4, 6), 4


def paint(centers, sigma=1.0, pairs=None, num_pairs=1, truncate=None):
    centers = torch.tensor(centers, dtype=torch.float32).reshape(-1, 2)
    pairs = torch.tensor(pairs if pairs is not None else [0] * len(centers), dtype=torch.long)
    sigmas = torch.full((len(centers), 2), sigma)
    return paint_gaussians(centers, sigmas, pairs, num_pairs, SIZE_HW, stride=STRIDE, truncate=truncate)


def random_boxes(n, seed, side):
    generator = torch.Generator().manual_seed(seed)
    centers = torch.rand(n, 2, generator=generator) * (side - 2) + 1
    boxes = torch.cat([centers, torch.rand(n, 2, generator=generator) * side * 0.8 + 1], 1)
    return clip_boxes(cxcywh_to_xyxy(boxes), (side, side))


def test_the_value_falls_with_the_distance_in_cells():
    heat = paint([[9.0, 6.0]])[0]  # cell (1, 2)
    assert heat[1, 2] == 1
    assert heat[1, 3].item() == pytest.approx(math.exp(-0.5), abs=1e-6)
    assert heat[3, 4].item() == pytest.approx(math.exp(-(4 + 4) / 2), abs=1e-6)


@pytest.mark.parametrize(
    ("center", "cell"),
    [((0, 0), (0, 0)), ((23.9, 15.9), (3, 5)), ((4, 3.99), (0, 1)), ((0, 15), (3, 0))],
)
def test_the_cell_that_holds_the_centre_is_exactly_one(center, cell):
    heat = paint([center])[0]
    assert heat[cell] == 1
    assert (heat == 1).sum() == 1


def test_every_axis_has_its_own_sigma():
    pairs = torch.zeros(1, dtype=torch.long)
    heat = paint_gaussians(torch.tensor([[10.0, 10.0]]), torch.tensor([[2.0, 0.5]]), pairs, 1, (6, 6), stride=4)[0]
    assert heat[2, 3].item() == pytest.approx(math.exp(-1 / 8), abs=1e-6)
    assert heat[3, 2].item() == pytest.approx(math.exp(-2), abs=1e-6)


def test_where_bumps_overlap_the_larger_value_stays():
    both, first, second = paint([[2, 2], [14, 10]]), paint([[2, 2]]), paint([[14, 10]])
    assert torch.equal(both, torch.maximum(first, second))


def test_two_objects_in_one_cell_are_one_bump():
    assert torch.equal(paint([[5, 5], [6, 6]]), paint([[5, 5]]))


def test_objects_are_painted_into_the_map_of_their_pair():
    heat = paint([[2, 2], [14, 10]], pairs=[2, 0], num_pairs=3)
    assert torch.equal(heat[2], paint([[2, 2]])[0])
    assert torch.equal(heat[0], paint([[14, 10]])[0])
    assert not heat[1].any()


def test_no_objects_give_zeros():
    assert torch.equal(paint([], num_pairs=2), torch.zeros(2, 4, 6))
    assert paint([], num_pairs=0).shape == (0, 4, 6)


def test_a_truncated_bump_ends_at_its_radius():
    heat = paint([[10, 6]], sigma=5.0, truncate=torch.tensor([1]))[0]
    assert heat.count_nonzero() == 9
    assert heat[0:3, 1:4].all()


def test_an_untruncated_bump_equals_the_whole_gaussian():
    generator = torch.Generator().manual_seed(0)
    centers, sigmas = torch.rand(5, 2, generator=generator) * 80, torch.rand(5, 2, generator=generator) * 4 + 0.1
    heat = paint_gaussians(centers, sigmas, torch.zeros(5, dtype=torch.long), 1, (20, 20), stride=4)[0]
    cells, axis = (centers / 4).floor(), torch.arange(20)
    across = ((axis - cells[:, :1]) / sigmas[:, :1]) ** 2
    down = ((axis - cells[:, 1:]) / sigmas[:, 1:]) ** 2
    whole = torch.exp(-(down[:, :, None] + across[:, None]) / 2).amax(0)
    assert torch.allclose(heat, whole, rtol=0, atol=1e-6)


def test_windows_are_painted_in_chunks_with_the_same_result(monkeypatch):
    boxes, pairs = random_boxes(40, 0, 128), torch.arange(40) % 3
    targets = [detection_targets(boxes, pairs, 3, (32, 32), stride=4)]
    weights = [ignore_weight(boxes[:6], pairs[:6], 3, (32, 32), stride=4)]
    monkeypatch.setattr("lumen.ops.heatmap._CELLS_AT_ONCE", 50)
    targets.append(detection_targets(boxes, pairs, 3, (32, 32), stride=4))
    weights.append(ignore_weight(boxes[:6], pairs[:6], 3, (32, 32), stride=4))
    assert torch.equal(*targets)
    assert torch.equal(*weights)


@pytest.mark.parametrize("center", [(-0.1, 2), (24, 2), (2, 16), (math.nan, 2)])
def test_a_centre_outside_is_an_error(center):
    with pytest.raises(ValueError, match="inside 24 x 16"):
        paint([center])


def test_a_sigma_of_zero_is_an_error():
    with pytest.raises(ValueError, match="sigmas must be above 0"):
        paint([[2, 2]], sigma=0.0)


@pytest.mark.parametrize("pair", [-1, 2])
def test_an_unknown_pair_is_an_error(pair):
    with pytest.raises(ValueError, match="pair_index must lie in"):
        paint([[2, 2]], pairs=[pair], num_pairs=2)
    with pytest.raises(ValueError, match="pair_index must lie in"):
        ignore_weight(torch.ones(1, 4), torch.tensor([pair]), 2, SIZE_HW, stride=STRIDE)


def loop_radius(width, height, overlap):
    """One box at a time, straight from the three quadratics."""
    total, area = width + height, width * height
    one = (total - math.sqrt(max(total**2 - 4 * area * (1 - overlap) / (1 + overlap), 0))) / 2
    two = (2 * total - math.sqrt(max(4 * total**2 - 16 * (1 - overlap) * area, 0))) / 8
    linear = -2 * overlap * total
    three = (linear + math.sqrt(linear**2 + 16 * overlap * (1 - overlap) * area)) / (8 * overlap)
    return min(one, two, three)


@settings(deadline=None)
@given(width=st.floats(0, 300), height=st.floats(0, 300), overlap=st.floats(0.05, 0.95))
def test_the_radius_equals_the_formula(width, height, overlap):
    radius = gaussian_radius(torch.tensor([[width, height]], dtype=torch.float64), overlap)
    assert radius.item() == pytest.approx(loop_radius(width, height, overlap), abs=1e-6)


@pytest.mark.parametrize("overlap", [0.0, 1.0])
def test_an_impossible_overlap_is_an_error(overlap):
    with pytest.raises(ValueError, match="between 0 and 1"):
        gaussian_radius(torch.ones(1, 2), overlap)


def test_detection_targets_equal_a_loop_over_boxes():
    boxes, pairs = random_boxes(30, 1, 256), torch.arange(30) % 4
    expected = torch.zeros(4, 64, 64)
    grid_y, grid_x = torch.meshgrid(torch.arange(64), torch.arange(64), indexing="ij")
    for (x1, y1, x2, y2), pair in zip(boxes.tolist(), pairs.tolist(), strict=True):
        radius = int(loop_radius((x2 - x1) / 4, (y2 - y1) / 4, 0.3))
        away_x, away_y = grid_x - int((x1 + x2) / 8), grid_y - int((y1 + y2) / 8)
        bump = torch.exp(-(away_x**2 + away_y**2) / (2 * ((2 * radius + 1) / 6) ** 2))
        bump[(away_x.abs() > radius) | (away_y.abs() > radius)] = 0
        expected[pair] = torch.maximum(expected[pair], bump)
    assert torch.allclose(detection_targets(boxes, pairs, 4, (64, 64), stride=4), expected, rtol=0, atol=1e-6)


def test_detection_targets_equal_mmdet():
    pytest.importorskip("mmcv.ops")
    utils = pytest.importorskip("mmdet.models.utils")
    boxes, pairs = random_boxes(30, 2, 256), torch.arange(30) % 4
    expected = torch.zeros(4, 64, 64)
    for (x1, y1, x2, y2), pair in zip(boxes.tolist(), pairs.tolist(), strict=True):
        radius = max(0, int(utils.gaussian_radius([(y2 - y1) / 4, (x2 - x1) / 4], min_overlap=0.3)))
        utils.gen_gaussian_target(expected[pair], [int((x1 + x2) / 8), int((y1 + y2) / 8)], radius)
    assert torch.allclose(detection_targets(boxes, pairs, 4, (64, 64), stride=4), expected, rtol=0, atol=1e-6)


def test_elliptic_targets_follow_the_shape_of_the_box():
    boxes = torch.tensor([[0.0, 40.0, 128.0, 72.0]])  # 32 x 8 cells at stride 4
    heat = elliptic_targets(boxes, torch.zeros(1, dtype=torch.long), 1, (32, 32), stride=4)[0]
    assert heat[14, 16] == 1
    assert heat[14, 20].item() == pytest.approx(math.exp(-0.5 * (4 / (0.54 * 32 / 6)) ** 2), abs=1e-6)
    assert heat[16, 16].item() == pytest.approx(math.exp(-0.5 * (2 / (0.54 * 8 / 6)) ** 2), abs=1e-6)


def test_a_tiny_object_still_reaches_its_neighbours():
    boxes = torch.tensor([[40.0, 40.0, 41.0, 41.0]])
    heat = elliptic_targets(boxes, torch.zeros(1, dtype=torch.long), 1, (32, 32), stride=4)[0]
    assert heat[10, 11].item() == pytest.approx(math.exp(-2), abs=1e-6)


def test_every_cell_that_an_ignored_box_touches_has_no_weight():
    boxes = torch.tensor([[3.0, 4.0, 9.0, 8.0], [-5.0, 12.0, 100.0, 100.0]])
    weight = ignore_weight(boxes, torch.tensor([0, 1]), 3, SIZE_HW, stride=STRIDE)
    assert weight[0].tolist() == [[1] * 6, [0, 0, 0, 1, 1, 1], [1] * 6, [1] * 6]
    assert weight[1].tolist() == [[1] * 6] * 3 + [[0] * 6]
    assert weight[2].all()


def test_ignored_boxes_outside_the_map_and_no_boxes_leave_full_weight():
    outside = torch.tensor([[100.0, 100.0, 120.0, 120.0], [-20.0, -20.0, -4.0, -4.0]])
    assert ignore_weight(outside, torch.tensor([0, 1]), 2, SIZE_HW, stride=STRIDE).all()
    assert ignore_weight(torch.zeros(0, 4), torch.zeros(0, dtype=torch.long), 2, SIZE_HW, stride=STRIDE).all()


def test_the_focal_loss_equals_the_plain_formula():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(3, 5, 5, generator=generator)
    target = torch.rand(3, 5, 5, generator=generator)
    target[0, 1, 1] = target[1, 2, 3] = 1
    p, t = logits.double().sigmoid(), target.double()
    plain = torch.where(t == 1, -((1 - p) ** 2) * p.log(), -((1 - t) ** 4) * p**2 * (1 - p).log()).sum()
    assert gaussian_focal_loss(logits, target).item() == pytest.approx(plain.item(), rel=1e-6)


def test_weight_silences_negative_cells_only():
    logits, target = torch.tensor([[2.0, 2.0, 2.0]]), torch.tensor([[1.0, 0.0, 0.0]])
    weighted = gaussian_focal_loss(logits, target, weight=torch.tensor([[0.0, 0.0, 1.0]]))
    assert weighted.item() == pytest.approx(gaussian_focal_loss(logits[:, :2], target[:, :2]).item(), rel=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("logit", [-100.0, -20.0, 20.0, 100.0])
@pytest.mark.parametrize("target", [0.0, 0.5, 1.0])
def test_extreme_logits_stay_finite(dtype, logit, target):
    logits = torch.full((1, 2, 2), logit, dtype=dtype, requires_grad=True)
    value = gaussian_focal_loss(logits, torch.full((1, 2, 2), target))
    value.backward()
    assert value.isfinite() and value >= 0 and value.dtype == torch.float32
    assert logits.grad.isfinite().all()


def test_the_focal_loss_has_the_right_gradient():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(1, 4, 4, generator=generator, dtype=torch.float64, requires_grad=True)
    target = torch.rand(1, 4, 4, generator=generator, dtype=torch.float64)
    target[0, 1, 2] = 1
    assert torch.autograd.gradcheck(lambda x: gaussian_focal_loss(x, target), logits)


def test_no_maps_give_a_connected_focal_loss_of_zero():
    logits = torch.zeros(0, 4, 4, requires_grad=True)
    value = gaussian_focal_loss(logits, torch.zeros(0, 4, 4))
    value.backward()
    assert value == 0


def test_peaks_come_by_falling_score():
    heat = torch.zeros(1, 5, 7)
    heat[0, 1, 5], heat[0, 4, 0], heat[0, 4, 1] = 0.5, 0.9, 0.8
    peaks = find_peaks(heat, 4)
    assert peaks.cells_xy[0, :2].tolist() == [[0, 4], [5, 1]]
    assert peaks.scores[0].tolist() == pytest.approx([0.9, 0.5, 0, 0])
    assert peaks.is_peak[0, :2].all()


@pytest.mark.parametrize("level", [0.0, 1.0])
def test_a_flat_map_has_one_peak(level):
    peaks = find_peaks(torch.full((2, 4, 4), level), 5)
    assert peaks.is_peak.sum(1).tolist() == [1, 1]
    assert peaks.scores[:, 1:].tolist() == [[0] * 4] * 2


@pytest.mark.parametrize("cells", [((2, 2), (2, 3)), ((2, 2), (3, 2)), ((2, 2), (3, 3)), ((2, 2), (3, 1))])
def test_a_peak_shared_by_two_cells_is_found_once(cells):
    heat = torch.zeros(1, 6, 6)
    for cell in cells:
        heat[0][cell] = 0.7
    peaks = find_peaks(heat, 10)
    assert (peaks.scores > 0).sum() == 1
    assert peaks.cells_xy[0, 0].tolist() == [2, 2]


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 10**6), size=st.tuples(st.integers(1, 9), st.integers(1, 9)))
def test_without_ties_peaks_are_strictly_greater_than_all_neighbours(seed, size):
    generator = torch.Generator().manual_seed(seed)
    heat = torch.randperm(size[0] * size[1], generator=generator).view(size) / 100 + 0.1
    around = torch.nn.functional.pad(heat, (1, 1, 1, 1), value=-1).unfold(0, 3, 1).unfold(1, 3, 1).flatten(2)
    others = torch.cat([around[..., :4], around[..., 5:]], -1)
    expected = {(col, row) for row, col in (heat > others.amax(-1)).nonzero().tolist()}
    peaks = find_peaks(heat[None], 100)
    assert {tuple(cell) for cell in peaks.cells_xy[peaks.is_peak].tolist()} == expected
    assert (peaks.scores.diff() <= 0).all()


def test_there_are_no_more_peaks_than_cells():
    assert find_peaks(torch.rand(2, 2, 3), 100).scores.shape == (2, 6)


def test_no_maps_have_no_peaks():
    assert find_peaks(torch.zeros(0, 4, 4), 3).cells_xy.shape == (0, 3, 2)


def test_painted_centres_are_found_again_within_a_cell():
    centers = torch.tensor([[10.0, 6.0], [50.0, 30.0], [90.0, 63.0]])
    heat = paint_gaussians(centers, torch.ones(3, 2), torch.arange(3), 3, (16, 24), stride=4)
    found = refine_peaks(heat, find_peaks(heat, 1))[:, 0] * 4
    assert ((found - centers).abs() <= 2).all()


def test_refining_finds_the_top_of_a_gaussian_between_cells():
    axis = torch.arange(9) + 0.5
    top = torch.tensor([4.3, 5.8])
    heat = torch.exp(-((axis[None] - top[0]) ** 2 + (axis[:, None] - top[1]) ** 2) / 4)[None]
    assert torch.allclose(refine_peaks(heat, find_peaks(heat, 1))[0, 0], top, atol=1e-4)


def test_refining_stays_in_the_middle_on_the_border_and_on_flat_maps():
    heat = torch.zeros(2, 4, 4)
    heat[0, 0, 0], heat[0, 0, 1] = 0.9, 0.5
    assert refine_peaks(heat, find_peaks(heat, 1))[:, 0].tolist() == [[0.5, 0.5], [0.5, 0.5]]


@pytest.mark.parametrize("paint", [detection_targets, elliptic_targets])
def test_a_target_without_extent_is_a_point_of_its_own_width(paint):
    boxes = torch.tensor([[20.0, 20.0, 20.0, 20.0]])
    heat = paint(boxes, torch.tensor([0]), 1, (8, 8), stride=8, point_sigma=2.0)
    assert heat[0, 2, 2] == 1
    assert heat[0, 2, 3].item() == pytest.approx(math.exp(-1 / 8))

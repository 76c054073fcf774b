"""Heatmaps: paint targets, compare them with logits, read peaks back out of predictions.

Points and boxes are in pixels of the network input, with (0, 0) at the top-left corner of the first pixel.
Cell (row, col) of a heatmap covers the square of ``stride`` pixels whose corner is (col * stride, row * stride).
All objects of all pairs come in one flat table; ``pair_index`` names the pair, and so the map, of each.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

_CELLS_AT_ONCE = 2**22
_REACH = 1
_SIGMAS_TO_NOTHING = math.sqrt(-2 * math.log(torch.finfo(torch.float32).eps))  # 5.6: beyond, a bump is below 1.2e-7


def gaussian_radius(wh: Float[Tensor, "n 2"], min_overlap: float = 0.3) -> Float[Tensor, " n"]:
    """Return how far both corners of a box may move, in cells, before its IoU can fall below ``min_overlap``.

    Args:
        wh: Width and height of the boxes, in cells.
        min_overlap: IoU to keep, between 0 and 1, both excluded.

    Raises:
        ValueError: If ``min_overlap`` is not between 0 and 1.

    Source:
        Law and Deng, "CornerNet" (2018), section 3.2, as mmdet's ``gaussian_radius`` (Apache-2.0) evaluates it: the
        least of three quadratic solutions, for corners moved both inwards, both outwards, or one each way.
    """
    if not 0 < min_overlap < 1:
        raise ValueError(f"min_overlap must lie between 0 and 1, both excluded, got {min_overlap}")
    total, area = wh.double().sum(-1), wh.double().prod(-1)
    # One corner inwards and one outwards: the box moves.
    shifted = _smaller_root(1.0, total, area * (1 - min_overlap) / (1 + min_overlap))
    # Both corners inwards: the box shrinks.
    inside = _smaller_root(4.0, 2 * total, area * (1 - min_overlap))
    # Both corners outwards: the positive root, with mmdet's divisor.
    linear = 2 * min_overlap * total
    outside = ((linear**2 + 16 * min_overlap * (1 - min_overlap) * area).sqrt() - linear) / (8 * min_overlap)
    return torch.minimum(torch.minimum(shifted, inside), outside).to(wh.dtype)


def _smaller_root(a: float, b: Tensor, c: Tensor) -> Tensor:
    """Solve ``a r^2 - b r + c = 0``; rounding may push the discriminant of a square box below zero."""
    return (b - (b**2 - 4 * a * c).clamp(min=0).sqrt()) / (2 * a)


def paint_gaussians(
    centers_xy: Float[Tensor, "n 2"],
    sigmas: Float[Tensor, "n 2"],
    pair_index: Int[Tensor, " n"],
    num_pairs: int,
    size_hw: tuple[int, int],
    *,
    stride: int,
    truncate: Int[Tensor, " n"] | None = None,
) -> Float[Tensor, "pairs height width"]:
    """Paint one Gaussian bump per object; where bumps overlap, the larger value stays.

    Args:
        centers_xy: (x, y) in input pixels, inside the map. May be empty.
        sigmas: Standard deviations along x and y, in cells.
        pair_index: The pair of each object.
        num_pairs: How many maps to make.
        size_hw: Height and width of the maps, in cells.
        stride: Input pixels per cell.
        truncate: Cells from the centre beyond which a bump is 0, along both axes. Without it a bump ends where
            it falls below the float32 epsilon, 1.2e-7.

    Returns:
        float32 values in [0, 1]: exactly 1 in a cell that holds a centre, all 0 for a pair without objects.

    Raises:
        ValueError: If a centre lies outside the map, a sigma is not positive, or a pair does not exist.
    """
    height, width = size_hw
    heat = torch.zeros(num_pairs * height * width, device=centers_xy.device)
    cells = (centers_xy / stride).floor().long()
    _check_centers(centers_xy, cells, size_hw, stride)
    _check_pairs(pair_index, num_pairs)
    if not (sigmas > 0).all():
        raise ValueError(f"sigmas must be above 0, got a least value of {sigmas.min().item()}")
    # Each bump is computed in a window around its cell only: most maps are large and most objects small.
    reach = (sigmas * _SIGMAS_TO_NOTHING).ceil().long() if truncate is None else truncate[:, None]
    # Windows end at the border of the map.
    windows = _clip_windows(cells - reach, cells + reach + 1, size_hw)
    center_col, center_row = cells.unbind(1)
    sharp_x, sharp_y = (0.5 / sigmas.float().square()).unbind(1)
    for owner, row, line, col in _cells_of(windows):
        # A Gaussian is separable: the vertical part is computed once per line, the horizontal one per cell.
        across = (col - center_col[owner].index_select(0, line)).square() * sharp_x[owner].index_select(0, line)
        down = ((row - center_row[owner]).square() * sharp_y[owner]).index_select(0, line)
        # Cells of all maps in one flat tensor: overlapping bumps of a map meet in one index and keep the larger value.
        index = col + ((pair_index[owner] * height + row) * width).index_select(0, line)
        heat.scatter_reduce_(0, index, torch.exp(-(across + down)), "amax")
    return heat.view(num_pairs, height, width)


def detection_targets(
    boxes: Float[Tensor, "n 4"],
    pair_index: Int[Tensor, " n"],
    num_pairs: int,
    size_hw: tuple[int, int],
    *,
    stride: int,
    min_overlap: float = 0.3,
    point_sigma: float = 2.0,
) -> Float[Tensor, "pairs height width"]:
    """Paint the centre of each box, as wide as the box may move without losing ``min_overlap``.

    Boxes are in input pixels, with their centres inside the map. A box without extent is a point and gets a bump of
    ``point_sigma`` cells. For the other arguments, the result and the errors see ``paint_gaussians``.

    Source:
        Zhou et al., "Objects as Points" (2019), section 3; equal to the loop of mmdet's ``CenterNetHead`` over
        ``gaussian_radius`` and ``gen_gaussian_target`` (Apache-2.0).
    """
    # float64: the radius is cut to an integer, which must not depend on the last bit.
    radius = gaussian_radius(_sizes(boxes.double()) / stride, min_overlap).clamp(min=0).long()
    is_point = (_sizes(boxes) == 0).all(1)
    # As in CenterNet: the diameter spans six sigmas.
    sigmas = torch.where(is_point, point_sigma, (2 * radius + 1) / 6)[:, None].expand(-1, 2)
    radius = torch.where(is_point, math.ceil(3 * point_sigma), radius)
    return paint_gaussians(_centers(boxes), sigmas, pair_index, num_pairs, size_hw, stride=stride, truncate=radius)


def elliptic_targets(
    boxes: Float[Tensor, "n 4"],
    pair_index: Int[Tensor, " n"],
    num_pairs: int,
    size_hw: tuple[int, int],
    *,
    stride: int,
    alpha: float = 0.54,
    min_sigma: float = 0.5,
    point_sigma: float = 2.0,
) -> Float[Tensor, "pairs height width"]:
    """Paint the centre of each box with a bump of its shape: three sigmas span ``alpha`` times half the box.

    Boxes are in input pixels, with their centres inside the map. Sigmas are at least ``min_sigma`` cells, so that an
    object of one cell still reaches its neighbours (0.14 at the default). A box without extent is a point and gets a
    bump of ``point_sigma`` cells. For the other arguments, the result and the errors see ``paint_gaussians``.

    Source:
        Liu et al., "Training-Time-Friendly Network" (2020), section 3.1, with the lower bound in place of its
        rounding up to odd diameters.
    """
    sizes = _sizes(boxes)
    sigmas = (sizes * (alpha / (6 * stride))).clamp(min=min_sigma)
    sigmas = torch.where((sizes == 0).all(1, keepdim=True), point_sigma, sigmas)
    return paint_gaussians(_centers(boxes), sigmas, pair_index, num_pairs, size_hw, stride=stride)


TARGETS = {"centernet": detection_targets, "ttfnet": elliptic_targets}
"""Ways to paint boxes, by the name that configs use; one signature."""


def cells_around(
    boxes: Float[Tensor, "n 4"], size_hw: Sequence[int], stride: int
) -> tuple[Int[Tensor, " m"], Int[Tensor, "m 2"], Float[Tensor, " m"]]:
    """Return the cells that are trained on each box: its centre cell, and neighbours whose centre is inside the box.

    Returns:
        Box of each cell, the cell (x, y), and a weight; the weights of one box add up to one.
    """
    centre = ((boxes[:, :2] + boxes[:, 2:]) / (2 * stride)).floor().long()
    # All cells up to `_REACH` away from the centre cell, along both axes.
    step = torch.arange(-_REACH, _REACH + 1, device=boxes.device)
    offset = torch.cartesian_prod(step, step)
    cells = centre[:, None] + offset
    points = (cells + 0.5) * stride
    # The centre cell counts always: a box may be smaller than a cell.
    inside = ((points > boxes[:, None, :2]) & (points < boxes[:, None, 2:])).all(-1) | (offset == 0).all(-1)
    limit = torch.tensor([size_hw[1], size_hw[0]], device=boxes.device)
    inside &= ((cells >= 0) & (cells < limit)).all(-1)
    weight = inside / inside.sum(1, keepdim=True).clamp(min=1)
    owner, which = inside.nonzero(as_tuple=True)
    return owner, cells[owner, which], weight[owner, which]


def ignore_weight(
    boxes: Float[Tensor, "n 4"],
    pair_index: Int[Tensor, " n"],
    num_pairs: int,
    size_hw: tuple[int, int],
    *,
    stride: int,
) -> Float[Tensor, "pairs height width"]:
    """Return 0 in every cell that an ignored box touches and 1 elsewhere.

    Boxes are in input pixels and may reach over the border. No object that lies in an ignored box has its centre in
    a cell of weight 1.

    Raises:
        ValueError: If a pair does not exist.
    """
    height, width = size_hw
    _check_pairs(pair_index, num_pairs)
    weight = torch.ones(num_pairs * height * width, device=boxes.device)
    first, last = (boxes[:, :2] / stride).floor().long(), (boxes[:, 2:] / stride).ceil().long()
    for owner, row, line, col in _cells_of(_clip_windows(first, last, size_hw)):
        weight[col + ((pair_index[owner] * height + row) * width).index_select(0, line)] = 0
    return weight.view(num_pairs, height, width)


def gaussian_focal_loss(
    heat_logits: Float[Tensor, "*shape"],
    target: Float[Tensor, "*shape"],
    *,
    weight: Float[Tensor, "*shape"] | None = None,
    alpha: float = 2.0,
    beta: float = 4.0,
) -> Float[Tensor, ""]:
    """Return the focal loss of heatmaps, summed over all cells, in float32 and finite for any finite logit.

    Args:
        heat_logits: Maps before the sigmoid.
        target: Painted maps; positive cells hold exactly 1.
        weight: Factor on the cells that are not positive: 0 where objects may be that are not annotated.
        alpha: Exponent that lowers the loss of cells that are already right.
        beta: Exponent that lowers the loss of cells near a centre.

    Source:
        Law and Deng, "CornerNet" (2018), equation 1; Zhou et al., "Objects as Points" (2019), equation 1.
    """
    logits = heat_logits.to(torch.promote_types(heat_logits.dtype, torch.float32))
    target = target.to(logits.dtype)
    # Powers of probabilities as exponentials of log-sigmoids: finite for any logit, unlike log(sigmoid(x)).
    log_heat, log_cold = F.logsigmoid(logits), F.logsigmoid(-logits)
    positive = torch.exp(alpha * log_cold) * log_heat
    # Cells near a centre count less, by the height of the bump there.
    negative = (1 - target) ** beta * torch.exp(alpha * log_heat) * log_cold
    if weight is not None:
        negative = negative * weight
    return -torch.where(target == 1, positive, negative).sum()


@dataclass(frozen=True, slots=True)
class Peaks:
    """The best peaks of each map, by falling score.

    Args:
        scores: Heat at the peak; 0 in rows without a peak.
        cells_xy: Column and row.
        is_peak: False in the rows that fill up a map with fewer peaks than were asked for.
    """

    scores: Float[Tensor, "pairs k"]
    cells_xy: Int[Tensor, "pairs k 2"]
    is_peak: Bool[Tensor, "pairs k"]


def find_peaks(heat: Float[Tensor, "pairs height width"], num_peaks: int) -> Peaks:
    """Find the cells that beat their eight neighbours, and keep the best ``num_peaks`` of each map.

    The paper asks for strictly greater than all eight, which loses a peak that two cells share. Here a cell must be
    strictly greater than the four neighbours before it in reading order and at least equal to the four after it:
    the same peaks where no two neighbours are equal, the first cell of a plateau (one for each corner that opens
    upwards, in a plateau that is not convex), and one cell in a flat map.

    Args:
        heat: Heat after the sigmoid, in [0, 1].
        num_peaks: Rows wanted per map; the number of cells is the limit.
    """
    height, width = heat.shape[1:]
    left, right = _shift(heat, 0, 1), _shift(heat, 0, -1)
    # The largest of three in a row, looked at one row above and one below, covers six of the eight neighbours.
    line = torch.maximum(torch.maximum(left, right), heat)
    before = torch.maximum(_shift(line, 1, 0), left)
    after = torch.maximum(_shift(line, -1, 0), right)
    is_peak = ((heat > before) & (heat >= after)).flatten(1)
    # Cells that are not peaks sort behind all peaks; they only fill up the rows.
    ranked = heat.flatten(1).masked_fill(~is_peak, -torch.inf)
    scores, index = ranked.topk(min(num_peaks, height * width), dim=1)
    is_peak = is_peak.gather(1, index)
    cells_xy = torch.stack([index % width, index // width], -1)
    return Peaks(scores.masked_fill(~is_peak, 0), cells_xy, is_peak)


def refine_peaks(heat: Float[Tensor, "pairs height width"], peaks: Peaks) -> Float[Tensor, "pairs k 2"]:
    """Move each peak to the top of the parabola through the logarithm of it and its neighbours, axis by axis.

    Returns:
        (x, y) in cells, where the middle of cell 0 is 0.5: times ``stride`` they are input pixels. Offsets are at most
        half a cell, exact for a Gaussian, and 0 on the border of the map and in rows without a peak.

    Source:
        Zhang et al., "Distribution-Aware Coordinate Representation" (2020), section 3.2, without mixed derivatives.
    """
    index = peaks.cells_xy[..., 1] * heat.shape[2] + peaks.cells_xy[..., 0]
    # The logarithm of a Gaussian is a parabola, so the fit to one is exact.
    log_heat = heat.float().clamp(min=1e-10).log()
    offsets = []
    for rows, cols in ((0, 1), (1, 0)):
        before, middle, after = (
            neighbour.flatten(1).gather(1, index)
            for neighbour in (_shift(log_heat, rows, cols), log_heat, _shift(log_heat, -rows, -cols))
        )
        # Minus the second difference. Outside of the map the heat is minus infinity: no finite curve at a border.
        curve = 2 * middle - before - after
        # A curve that is not concave has no maximum.
        is_safe = peaks.is_peak & curve.isfinite() & (curve > 0)
        offset = 0.5 * (after - before) / curve
        offsets.append(torch.where(is_safe, offset, 0).clamp(-0.5, 0.5))
    return peaks.cells_xy + 0.5 + torch.stack(offsets, -1)


def _centers(boxes: Float[Tensor, "n 4"]) -> Float[Tensor, "n 2"]:
    return (boxes[:, :2] + boxes[:, 2:]) / 2


def _sizes(boxes: Float[Tensor, "n 4"]) -> Float[Tensor, "n 2"]:
    return boxes[:, 2:] - boxes[:, :2]


def _clip_windows(first: Int[Tensor, "n 2"], last: Int[Tensor, "n 2"], size_hw: tuple[int, int]) -> Int[Tensor, "n 4"]:
    """Cut windows of columns and rows, ``last`` excluded, at the border of the map; some may end up empty."""
    limit = first.new_tensor([size_hw[1], size_hw[0]])
    first = torch.minimum(first.clamp(min=0), limit)
    return torch.cat([first, torch.maximum(torch.minimum(last, limit), first)], 1)


def _cells_of(windows: Int[Tensor, "n 4"]) -> Iterator[tuple[Tensor, Tensor, Tensor, Tensor]]:
    """List the cells of all windows, in chunks of whole windows that bound the memory.

    Callers spread values of lines over cells by ``index_select``, which is four times faster than indexing on a CPU.

    Yields:
        For each line (one row of one window) its window and its row; for each cell its line and its column.
    """
    left, top, right, bottom = windows.unbind(1)
    # A running count of cells, cut into chunks; a window is never split.
    chunk = ((right - left) * (bottom - top)).cumsum(0) // _CELLS_AT_ONCE
    start = 0
    for size in chunk.unique_consecutive(return_counts=True)[1].tolist():
        some = slice(start, start + size)
        owner, row = _ranges(top[some], bottom[some])
        owner += start
        line, col = _ranges(left[owner], right[owner])
        yield owner, row, line, col
        start += size


def _ranges(first: Int[Tensor, " n"], last: Int[Tensor, " n"]) -> tuple[Int[Tensor, " total"], Int[Tensor, " total"]]:
    """List the integers of n ranges, ``last`` excluded: the range that each is from, and the integer."""
    length = last - first
    owner = torch.repeat_interleave(length)
    # The number of integers in the ranges before each range.
    ahead = length.cumsum(0) - length
    return owner, torch.arange(len(owner), device=first.device) + (first - ahead).index_select(0, owner)


def _shift(values: Float[Tensor, "pairs height width"], rows: int, cols: int) -> Float[Tensor, "pairs height width"]:
    """Move maps down by ``rows`` and right by ``cols``; what comes in is minus infinity."""
    height, width = values.shape[1:]
    # A border of minus infinity: no cell outside the map beats a cell inside it.
    padded = F.pad(values, (1, 1, 1, 1), value=-torch.inf)
    return padded[:, 1 - rows : 1 - rows + height, 1 - cols : 1 - cols + width]


def _check_centers(centers_xy: Tensor, cells: Tensor, size_hw: tuple[int, int], stride: int) -> None:
    height, width = size_hw
    outside = ((cells < 0) | (cells >= cells.new_tensor([width, height]))).any(1)
    if outside.any():
        raise ValueError(
            f"centres must lie inside {width * stride} x {height * stride} (w, h) pixels, "
            f"got {centers_xy[outside].tolist()}; clip boxes to the image and drop empty ones first"
        )


def _check_pairs(pair_index: Tensor, num_pairs: int) -> None:
    if ((pair_index < 0) | (pair_index >= num_pairs)).any():
        raise ValueError(f"pair_index must lie in 0 ... {num_pairs - 1}, got {pair_index.unique().tolist()}")

"""Boxes, points and the one affine between original pixels and input pixels.

Boxes are float32 (x1, y1, x2, y2), absolute. Pixel (row, col) covers the square from (col, row) to (col + 1, row + 1).
"Input" always means pixels of the network input, "original" pixels of the image as stored.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

_NMS_BLOCK = 512


@dataclass(frozen=True, slots=True)
class InputTransform:
    """Where an original image lies in the network input: ``input = original * scale + shift``, per axis.

    A negative scale means that the image is mirrored along that axis. Parts of the input that it does not cover are
    padding. Build one with ``stretch``, ``letterbox`` or ``crop``.

    Args:
        ori_hw: Height and width of the original image, in pixels.
        input_hw: Height and width of the network input, in pixels.
        scale_xy: Input pixels per original pixel.
        shift_xy: Where the original's corner (0, 0) lies, in input pixels.

    Raises:
        ValueError: If a size is not positive or a scale is zero or not finite.
    """

    ori_hw: tuple[int, int]
    input_hw: tuple[int, int]
    scale_xy: tuple[float, float]
    shift_xy: tuple[float, float]

    def __deepcopy__(self, memo: dict) -> "InputTransform":
        """Return itself: it is immutable, and MMEngine copies metainfo deeply at every move of a sample."""
        return self

    def __post_init__(self) -> None:
        _check_size("ori_hw", self.ori_hw)
        _check_size("input_hw", self.input_hw)
        if not all(map(math.isfinite, (*self.scale_xy, *self.shift_xy))) or 0 in self.scale_xy:
            raise ValueError(
                f"expected finite numbers and scales other than 0, "
                f"got scale_xy={self.scale_xy}, shift_xy={self.shift_xy}"
            )

    @classmethod
    def stretch(cls, ori_hw: tuple[int, int], input_hw: tuple[int, int]) -> "InputTransform":
        """Resize the whole image to fill the input; the aspect ratio may change."""
        _check_size("ori_hw", ori_hw)
        scale_xy = (input_hw[1] / ori_hw[1], input_hw[0] / ori_hw[0])
        return cls(ori_hw, input_hw, scale_xy, (0.0, 0.0))

    @classmethod
    def letterbox(cls, ori_hw: tuple[int, int], input_hw: tuple[int, int]) -> "InputTransform":
        """Resize the whole image, keeping its ratio, into the top-left corner; padding is right or below."""
        _check_size("ori_hw", ori_hw)
        scale = min(input_hw[1] / ori_hw[1], input_hw[0] / ori_hw[0])
        return cls(ori_hw, input_hw, (scale, scale), (0.0, 0.0))

    @classmethod
    def crop(
        cls, ori_hw: tuple[int, int], box_xyxy: Sequence[float | int], input_hw: tuple[int, int]
    ) -> "InputTransform":
        """Resize one box of the image, keeping its ratio, to the largest size that fits, in the middle of the input.

        Input pixels beside the box show its surroundings where the image continues, padding where it ends.

        Args:
            ori_hw: Height and width of the original image.
            box_xyxy: The box, in original pixels. It may reach over the border of the image.
            input_hw: Height and width of the network input.

        Raises:
            ValueError: If the box is empty or lies outside the image.
        """
        x1, y1, x2, y2 = (float(value) for value in box_xyxy)
        # The comparison is false for nan as well.
        if not (max(x1, 0.0) < min(x2, ori_hw[1]) and max(y1, 0.0) < min(y2, ori_hw[0])):
            raise ValueError(f"a crop must hold a part of the {ori_hw} (h, w) image, got box {(x1, y1, x2, y2)}")
        scale = min(input_hw[1] / (x2 - x1), input_hw[0] / (y2 - y1))
        # The middle of the box lands in the middle of the input.
        shift_x = (input_hw[1] - (x1 + x2) * scale) / 2
        shift_y = (input_hw[0] - (y1 + y2) * scale) / 2
        return cls(ori_hw, input_hw, (scale, scale), (shift_x, shift_y))

    def flip_horizontal(self) -> "InputTransform":
        """Return the frame of the same input, mirrored left to right."""
        (scale_x, scale_y), (shift_x, shift_y) = self.scale_xy, self.shift_xy
        return replace(self, scale_xy=(-scale_x, scale_y), shift_xy=(self.input_hw[1] - shift_x, shift_y))

    def flip_vertical(self) -> "InputTransform":
        """Return the frame of the same input, mirrored top to bottom."""
        (scale_x, scale_y), (shift_x, shift_y) = self.scale_xy, self.shift_xy
        return replace(self, scale_xy=(scale_x, -scale_y), shift_xy=(shift_x, self.input_hw[0] - shift_y))

    @property
    def is_flipped(self) -> bool:
        """Whether left and right are swapped."""
        return self.scale_xy[0] < 0

    def points_to_input(self, points: Float[Tensor, "*n 2"]) -> Float[Tensor, "*n 2"]:
        """Map (x, y) from original to input pixels; points outside the input are kept."""
        scale, shift = self._affine(points)
        return (points.double() * scale + shift).to(points.dtype)

    def points_to_original(self, points: Float[Tensor, "*n 2"]) -> Float[Tensor, "*n 2"]:
        """Map (x, y) from input to original pixels; points outside the image are kept."""
        scale, shift = self._affine(points)
        return ((points.double() - shift) / scale).to(points.dtype)

    def boxes_to_input(self, boxes: Float[Tensor, "n 4"]) -> Float[Tensor, "n 4"]:
        """Map boxes from original to input pixels, unclipped, with x1 <= x2 under a flip too."""
        return self._in_order(self.points_to_input(boxes.reshape(-1, 2, 2)))

    def boxes_to_original(self, boxes: Float[Tensor, "n 4"], clip: bool = True) -> Float[Tensor, "n 4"]:
        """Map boxes from input to original pixels; ``clip`` cuts them at the border of the image."""
        boxes = self._in_order(self.points_to_original(boxes.reshape(-1, 2, 2)))
        return clip_boxes(boxes, self.ori_hw) if clip else boxes

    def directions_to_input(self, directions: Float[Tensor, "*n 2"]) -> Float[Tensor, "*n 2"]:
        """Turn vectors (x, y) as the image is turned by flips and unequal scales; each keeps its length."""
        return self._turned(directions, self._affine(directions)[0])

    def directions_to_original(self, directions: Float[Tensor, "*n 2"]) -> Float[Tensor, "*n 2"]:
        """Turn vectors (x, y) back; see ``directions_to_input``."""
        return self._turned(directions, 1 / self._affine(directions)[0])

    def angles_to_input(self, angles: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
        """Turn angles, in radians from the x axis towards the y axis, as directions; the result is in (-pi, pi]."""
        return _angle_of(self.directions_to_input(_direction_of(angles))).to(angles.dtype)

    def angles_to_original(self, angles: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
        """Turn angles back; see ``angles_to_input``."""
        return _angle_of(self.directions_to_original(_direction_of(angles))).to(angles.dtype)

    def _turned(self, directions: Float[Tensor, "*n 2"], scale: Float[Tensor, " 2"]) -> Float[Tensor, "*n 2"]:
        scaled = directions.double() * scale
        length = directions.double().norm(dim=-1, keepdim=True)
        # a vector of length 0 has no direction and stays as it is
        factor = length / torch.where(length > 0, scaled.norm(dim=-1, keepdim=True), 1.0)
        return (scaled * factor).to(directions.dtype)

    def _affine(self, like: Tensor) -> tuple[Tensor, Tensor]:
        # float64: a crop far from the corner subtracts two large numbers.
        scale = torch.tensor(self.scale_xy, dtype=torch.float64, device=like.device)
        return scale, torch.tensor(self.shift_xy, dtype=torch.float64, device=like.device)

    def _in_order(self, corners: Float[Tensor, "n 2 2"]) -> Float[Tensor, "n 4"]:
        return torch.cat([corners.amin(1), corners.amax(1)], 1)


def _direction_of(angles: Float[Tensor, "*n"]) -> Float[Tensor, "*n 2"]:
    angles = angles.double()
    return torch.stack([angles.cos(), angles.sin()], -1)


def _angle_of(directions: Float[Tensor, "*n 2"]) -> Float[Tensor, "*n"]:
    angles = torch.atan2(directions[..., 1], directions[..., 0])
    return torch.where(angles <= -math.pi, math.pi, angles)  # atan2 gives -pi for a y of -0.0


def cxcywh_to_xyxy(boxes: Float[Tensor, "*n 4"]) -> Float[Tensor, "*n 4"]:
    """Turn centre and size into corners."""
    center, half = boxes[..., :2], boxes[..., 2:] / 2
    return torch.cat([center - half, center + half], -1)


def xywh_to_xyxy(boxes: Float[Tensor, "*n 4"]) -> Float[Tensor, "*n 4"]:
    """Turn top-left corner and size, as COCO stores boxes, into corners."""
    return torch.cat([boxes[..., :2], boxes[..., :2] + boxes[..., 2:]], -1)


def clip_boxes(boxes: Float[Tensor, "*n 4"], hw: tuple[int, int]) -> Float[Tensor, "*n 4"]:
    """Cut boxes at the border of an image of ``hw``; a box outside becomes an empty one on the border."""
    height, width = hw
    return torch.minimum(boxes.clamp(min=0), boxes.new_tensor([width, height, width, height]))


def box_area(boxes: Float[Tensor, "*n 4"]) -> Float[Tensor, "*n"]:
    """Return areas in square pixels; 0 for a box whose corners are swapped."""
    return (boxes[..., 2:] - boxes[..., :2]).clamp(min=0).prod(-1)


def box_iou(a: Float[Tensor, "n 4"], b: Float[Tensor, "m 4"]) -> Float[Tensor, "n m"]:
    """Return the intersection over union of every box of ``a`` with every box of ``b``; 0 where both are empty."""
    # The lower bound on the union gives 0 instead of nan for two empty boxes.
    intersection = _intersection(a[:, None], b)
    union = box_area(a)[:, None] + box_area(b) - intersection
    return intersection / union.clamp(min=torch.finfo(union.dtype).tiny)


def box_means(
    maps: Float[Tensor, "images channels height width"], boxes: Float[Tensor, "images n 4"]
) -> Float[Tensor, "images n channels"]:
    """Return the mean of maps over boxes, in which a cell weighs as much as the box covers of it.

    Args:
        maps: Constant within each cell.
        boxes: xyxy as shares of the maps, of some extent and within them.
    """

    def covered(low: Tensor, high: Tensor, cells: int) -> Float[Tensor, "images n cells"]:
        edge = torch.arange(cells + 1, dtype=low.dtype, device=low.device) / cells
        return (torch.minimum(high[..., None], edge[1:]) - torch.maximum(low[..., None], edge[:-1])).clamp(min=0)

    # A box covers a cell by the product of what it covers of its row and of its column.
    rows = covered(boxes[..., 1], boxes[..., 3], maps.shape[2])
    columns = covered(boxes[..., 0], boxes[..., 2], maps.shape[3])
    total = torch.einsum("ibh,ichw,ibw->ibc", rows, maps.to(rows.dtype), columns)
    return total / (rows.sum(-1) * columns.sum(-1)).clamp(min=torch.finfo(rows.dtype).tiny)[..., None]


def giou(a: Float[Tensor, "n 4"], b: Float[Tensor, "n 4"]) -> Float[Tensor, " n"]:
    """Return the generalised intersection over union, in [-1, 1], of boxes row by row; differentiable.

    Source:
        Rezatofighi et al., "Generalized Intersection over Union" (2019), algorithm 1.
    """
    tiny = torch.finfo(a.dtype).tiny  # two empty boxes: 0 / tiny, not 0 / 0
    intersection = _intersection(a, b)
    union = box_area(a) + box_area(b) - intersection
    hull = box_area(torch.cat([torch.minimum(a[:, :2], b[:, :2]), torch.maximum(a[:, 2:], b[:, 2:])], -1))
    return intersection / union.clamp(min=tiny) - (hull - union) / hull.clamp(min=tiny)


def nms(
    boxes: Float[Tensor, "n 4"], scores: Float[Tensor, " n"], groups: Int[Tensor, " n"], iou_threshold: float
) -> Int[Tensor, " kept"]:
    """Suppress boxes that overlap a better box of their group: exactly the greedy algorithm, box by box.

    The greedy algorithm looks at one box at a time. Here 512 boxes are decided at once, so that the work is a few
    large tensor operations; memory stays below n * 512 overlaps.

    Args:
        boxes: Boxes in any one frame.
        scores: Higher wins; of equal scores the lower index wins.
        groups: Boxes of different groups never suppress each other.
        iou_threshold: A box is suppressed when its IoU with a kept one is greater than this.

    Returns:
        Indices of the kept boxes, by falling score, then by index.
    """
    # By group, and within a group by falling score: what can suppress a box stands before it, in its own group.
    order = scores.argsort(descending=True, stable=True)
    order = order[groups[order].argsort(stable=True)]
    boxes, groups = boxes[order], groups[order]
    kept = torch.zeros_like(groups, dtype=torch.bool)
    for start in range(0, len(boxes), _NMS_BLOCK):
        block = slice(start, start + _NMS_BLOCK)
        # Only the first group of a block can have begun before it: all other groups start inside.
        before = (kept[:start] & (groups[:start] == groups[start])).nonzero()[:, 0]
        lost = _suppresses(boxes, groups, before, block, iou_threshold).any(0)
        # Within the block a row can suppress later rows only: the upper triangle.
        rows = torch.arange(start, start + len(lost), device=boxes.device)
        kept[block] = _greedy(_suppresses(boxes, groups, rows, block, iou_threshold).triu(1), ~lost)
    # Ascending indices first, so that the stable sort breaks ties by index.
    indices = order[kept].sort().values
    return indices[scores[indices].argsort(descending=True, stable=True)]


def sine_positions(
    height: int, width: int, dim: int, *, like: Tensor, over: tuple[int, int] | None = None
) -> Float[Tensor, "cells dim"]:
    """Return fixed positions of a grid, shape (height * width, dim): sines and cosines of the row and the column.

    Args:
        height: Rows.
        width: Columns.
        dim: Channels of a position, a multiple of 4.
        like: A tensor of the device and the dtype that are wanted.
        over: Height and width of another grid over the same image: a cell gets the position of its centre in that
            grid, between its cells where they differ in size. Rows and columns are counted when left out.

    Source: Vaswani et al., "Attention Is All You Need" (2017), section 3.5, once per axis.
    """
    # A quarter of the channels each for sine and cosine of row and of column.
    quarter = dim // 4
    frequency = 100.0 ** (-torch.arange(quarter, device=like.device) / quarter)
    rows, cols = (
        (torch.arange(number, device=like.device) + 0.5) * (other / number) - 0.5
        for number, other in zip((height, width), over or (height, width), strict=True)
    )
    rows, cols = rows[:, None] * frequency, cols[:, None] * frequency
    rows = torch.cat([rows.sin(), rows.cos()], 1)[:, None].expand(height, width, -1)
    cols = torch.cat([cols.sin(), cols.cos()], 1)[None].expand(height, width, -1)
    return torch.cat([rows, cols], -1).reshape(height * width, -1).to(like.dtype)


def _suppresses(
    boxes: Float[Tensor, "n 4"], groups: Int[Tensor, " n"], rows: Int[Tensor, " m"], block: slice, threshold: float
) -> Bool[Tensor, "m block"]:
    same_group = groups[rows, None] == groups[block]
    return same_group & (box_iou(boxes[rows], boxes[block]) > threshold)


def _greedy(suppresses: Bool[Tensor, "block block"], alive: Bool[Tensor, " block"]) -> Bool[Tensor, " block"]:
    """Solve ``kept = alive and no kept earlier row suppresses it``, whose one solution is the greedy answer.

    Fixed-point iteration: ``suppresses`` is strictly upper triangular, so that row t depends on earlier rows only and
    is final after t rounds. Few rounds are needed in practice: as many as the longest chain of suppressions.
    """
    kept = alive
    while True:
        # A row that is suppressed cannot suppress others; repeat until nothing changes.
        settled = alive & ~suppresses[kept].any(0)
        if torch.equal(settled, kept):
            return kept
        kept = settled


def _intersection(a: Tensor, b: Tensor) -> Tensor:
    first = torch.maximum(a[..., :2], b[..., :2])
    last = torch.minimum(a[..., 2:], b[..., 2:])
    return (last - first).clamp(min=0).prod(-1)


def _check_size(name: str, size_hw: tuple[int, int]) -> None:
    if min(size_hw) <= 0:
        raise ValueError(f"{name} must be a positive height and width in pixels, got {size_hw}")

"""Answers about a large picture: asked as a whole and tile by tile, and joined to one table.

The idea of slices is that of SAHI (Akyon et al., 2022, arXiv 2202.06934); the rule that joins them is our own.
"""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, UInt8
from mmengine.structures import InstanceData
from torch import Tensor

from lumen.data.transforms import ResizeToInput
from lumen.errors import PromptError
from lumen.inference.compute import SharedModel
from lumen.inference.drawn import answer_drawn, draw_image
from lumen.inference.questions import PHRASE_BY_PHRASE, Question
from lumen.inference.tiles import Box, Tiles
from lumen.ops.geometry import box_area
from lumen.ops.masks import Rle, decode_masks, encode_masks, merge_masks
from lumen.structures import TaskSpec

_TILES_AT_ONCE = 8
_AGREE = 0.5
_FIELDS = frozenset({"bboxes", "masks", "scores", "peak_scores", "labels", "prompt_index"})


def require_tileable(spec: TaskSpec) -> None:
    """Raise PromptError unless the answers of a task about parts of a picture are parts of the answer about it."""
    task, found = spec.name, spec.predictions
    if task in PHRASE_BY_PHRASE or "bboxes" not in found or not found <= _FIELDS:
        raise PromptError(
            f"task {task!r} cannot be asked tile by tile: tiles are for boxes and masks of any number of objects, as "
            "in detection and segmentation; what concerns the whole picture, as sentences and counts, is asked without"
        )


def answer_tiles(
    shared: SharedModel,
    image: UInt8[np.ndarray, "height width 3"],
    tiles: Tiles,
    view: ResizeToInput,
    *,
    question: Question,
    whole: InstanceData,
    score_threshold: float | int | None,
) -> InstanceData:
    """Answer a question about each tile of a picture, and join the answers with that about the whole picture.

    Args:
        shared: The model.
        image: The picture.
        tiles: How it is cut.
        view: How tiles are framed.
        question: See ``require_tileable``.
        whole: The answer about the whole picture.
        score_threshold: See ``Question.table``.

    Returns:
        The table, best first.
    """
    size_hw = image.shape[:2]
    boxes, answers = tiles.boxes(size_hw), []
    for start in range(0, len(boxes), _TILES_AT_ONCE):
        some = boxes[start : start + _TILES_AT_ONCE]
        drawn = [draw_image(image[y1:y2, x1:x2], view) for x1, y1, x2, y2 in some]
        answers += answer_drawn(shared, drawn, question, score_threshold)
    moved = [_moved(answer, box, size_hw) for answer, box in zip(answers, boxes, strict=True)]
    # What is not larger than the overlap is whole in some tile, and larger there: the tiles decide about it.
    is_large = (whole.bboxes[:, 2:] - whole.bboxes[:, :2]).amax(1) > tiles.shared
    return join_views([whole[is_large], *moved], [(0, 0, size_hw[1], size_hw[0]), *boxes], size_hw)


def join_views(answers: Sequence[InstanceData], views: Sequence[Box], size_hw: tuple[int, int]) -> InstanceData:
    """Join the answers about overlapping views of a picture, so that an object that several of them show is one row.

    Two rows of different views are one object if they name the same phrase and, cut to what both views show, overlap
    by an IoU of at least 0.5. A row that ends at a border of its view inside the picture is a part of an object. Of the
    rows of an object the best whole one stays; parts that belong to no whole row are joined: the box and the mask
    around all of them, with the best score. Rows of one view are never compared with each other.

    Args:
        answers: Tables with ``bboxes``, ``scores``, ``labels`` and, if any, ``masks``, in pixels of the picture.
        views: The part of the picture that each of them is about, xyxy.
        size_hw: Height and width of the picture.

    Returns:
        The table, best first.
    """
    rows = InstanceData.cat(list(answers))
    view = torch.cat([torch.full((len(answer),), number) for number, answer in enumerate(answers)])
    seen = torch.tensor(views, dtype=rows.bboxes.dtype)[view]
    is_part = _ends_at_border(rows.bboxes, seen, size_hw)
    is_open, kept = torch.ones(len(rows), dtype=torch.bool), []
    best_first = rows.scores.argsort(descending=True, stable=True)
    # 1. Whole rows, best first, with all other rows of the same object.
    for row in best_first[~is_part[best_first]].tolist():
        if is_open[row]:
            is_open &= ~_same_object(row, rows, seen, view)
            is_open[row] = False
            kept.append(rows[row])
    # 2. Chains of the parts that are left.
    for row in best_first[is_part[best_first]].tolist():
        if is_open[row]:
            kept.append(_union(rows[_chain(row, rows, seen, view, is_open)]))
    table = InstanceData.cat(kept) if kept else rows
    return table[table.scores.argsort(descending=True, stable=True)]


def _chain(row: int, rows: InstanceData, seen: Tensor, view: Tensor, is_open: Tensor) -> Int[Tensor, " parts"]:
    """Return a part and all that are connected with it, and close them; the best of them comes first."""
    chain, waiting = [], [row]
    is_open[row] = False
    while waiting:
        chain.append(waiting.pop())
        found = _same_object(chain[-1], rows, seen, view) & is_open
        is_open[found] = False
        waiting += found.nonzero()[:, 0].tolist()
    return torch.tensor(chain)


def _same_object(
    row: int, rows: InstanceData, seen: Float[Tensor, "n 4"], view: Int[Tensor, " n"]
) -> Bool[Tensor, " n"]:
    """Return which rows of other views agree with one in what both views show."""
    mine, theirs = _common(rows.bboxes[row], seen), _common(rows.bboxes, seen[row])
    shared = box_area(_common(mine, theirs))
    union = box_area(mine) + box_area(theirs) - shared
    return (shared > 0) & (shared >= _AGREE * union) & (rows.labels == rows.labels[row]) & (view != view[row])


def _ends_at_border(
    boxes: Float[Tensor, "n 4"], seen: Float[Tensor, "n 4"], size_hw: tuple[int, int]
) -> Bool[Tensor, " n"]:
    """Return which boxes touch a border of their view that is not one of the picture, within 1 % of the view."""
    reach = ((seen[:, 2:] - seen[:, :2]) / 100).clamp(min=2).repeat(1, 2)
    is_inner = torch.cat([seen[:, :2] > 0, seen[:, 2:] < torch.tensor(size_hw).flip(0)], 1)
    return ((boxes - seen).abs() <= reach).logical_and(is_inner).any(1)


def _common(a: Float[Tensor, "... 4"], b: Float[Tensor, "... 4"]) -> Float[Tensor, "... 4"]:
    """Return what two boxes have in common; its corners are swapped where that is nothing."""
    return torch.cat([torch.maximum(a[..., :2], b[..., :2]), torch.minimum(a[..., 2:], b[..., 2:])], -1)


def _union(parts: InstanceData) -> InstanceData:
    """Return the parts of an object as one row: that of the best part, with the box and the mask around all."""
    joined = parts[parts.scores.argmax().item()]
    joined.bboxes = torch.cat([parts.bboxes[:, :2].amin(0), parts.bboxes[:, 2:].amax(0)])[None]
    if "masks" in parts:
        joined.masks = [merge_masks(parts.masks)]
    return joined


def _moved(answer: InstanceData, tile: Box, size_hw: tuple[int, int]) -> InstanceData:
    """Return the answer about a tile in pixels of the picture."""
    moved = answer[:]
    moved.bboxes = answer.bboxes + torch.tensor([*tile[:2], *tile[:2]], dtype=answer.bboxes.dtype)
    if "masks" in answer:
        moved.masks = [_placed(code, tile, size_hw) for code in answer.masks]
    return moved


def _placed(code: Rle, tile: Box, size_hw: tuple[int, int]) -> Rle:
    left, top, right, bottom = tile
    picture = torch.zeros(1, *size_hw, dtype=torch.bool)
    picture[:, top:bottom, left:right] = decode_masks([code], (bottom - top, right - left))
    return encode_masks(picture)[0]

"""Losses of boxes, masks, yes/no answers and names: in float32, without weights or averages.

Who calls them sums the values and divides once by the count of the global batch.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from lumen.ops.geometry import giou
from lumen.structures import LocFeatures, PerceptionSample, targets_per_pair

NOTHING_WEIGHT = 0.05  # a tenth of the cells show something


def giou_loss(pred: Float[Tensor, "n 4"], target: Float[Tensor, "n 4"]) -> Float[Tensor, " n"]:
    """Return ``1 - giou`` of boxes row by row: 0 for equal boxes, at most 2. Both in one frame, xyxy."""
    return 1 - giou(_at_least_float32(pred), _at_least_float32(target))


def dice_loss(
    mask_logits: Float[Tensor, "n height width"], target: Float[Tensor, "n height width"]
) -> Float[Tensor, " n"]:
    """Return one minus the soft Dice overlap of each mask, with 1 added above and below for empty masks.

    Args:
        mask_logits: Masks before the sigmoid.
        target: Masks in [0, 1].

    Source:
        Milletari et al., "V-Net" (2016), section 3, with the sums in the denominator not squared, as in DETR.
    """
    probability = _at_least_float32(mask_logits).sigmoid()
    target = target.to(probability.dtype)
    overlap = (probability * target).sum((1, 2))
    return 1 - (2 * overlap + 1) / (probability.sum((1, 2)) + target.sum((1, 2)) + 1)


def binary_cross_entropy(logits: Float[Tensor, "n ..."], target: Float[Tensor, "n ..."]) -> Float[Tensor, " n"]:
    """Return the cross entropy of each item, averaged over its own elements (pixels of a mask, say)."""
    logits = _at_least_float32(logits)
    values = F.binary_cross_entropy_with_logits(logits, target.to(logits.dtype), reduction="none")
    return values.unsqueeze(-1).flatten(1).mean(1)


def naming_loss(features: LocFeatures, samples: Sequence[PerceptionSample]) -> Float[Tensor, ""]:
    """Return how little the image tokens say the phrases that hold there, summed over objects.

    Of an object count all cells whose centre its box covers, and the one that holds its own centre, evenly. Cells
    outside of all objects say that there is nothing, in images with boxes: those with points show more than is asked.

    Source:
        In place of a tower that was trained on pairs of image and text; after the alignment of words with regions in
        Li et al., "Grounded Language-Image Pre-training" (2022), section 3.1.
    """
    targets, names = targets_per_pair(samples, features), features.names
    ignored = targets_per_pair(samples, features, "ignored_instances")
    stride = features.grid.shape[-1] * features.stride / names.phrases.shape[-1]
    size_hw = tuple(names.phrases.shape[1:])
    inside = _cells_of(targets.bboxes / stride, size_hw)
    share = inside / inside.sum((1, 2), keepdim=True)
    missing = -(names.phrases[targets.pair_index] * share).sum()
    covered = torch.zeros_like(names.nothing)
    for table in (targets, ignored):
        image = features.image_index[table.pair_index]
        covered.index_add_(0, image, _cells_of(table.bboxes / stride, size_hw))
    has_extent = (targets.bboxes[:, 2:] > targets.bboxes[:, :2]).all(1)
    image = features.image_index[targets.pair_index]
    with_boxes = torch.zeros(len(covered), dtype=torch.bool, device=image.device)
    with_boxes[image[has_extent]] = True
    with_boxes[image[~has_extent]] = False
    is_empty = (covered == 0) & with_boxes[:, None, None]
    return missing - NOTHING_WEIGHT * (names.nothing * is_empty).sum()


def _cells_of(boxes: Float[Tensor, "n 4"], size_hw: tuple[int, int]) -> Float[Tensor, "n rows columns"]:
    """Return 1 in each cell whose centre a box covers, and in that of the box's own centre; boxes in cells."""
    spans = []
    for axis, length in enumerate(reversed(size_hw)):
        at = torch.arange(length, device=boxes.device)
        low, high = boxes[:, axis, None], boxes[:, axis + 2, None]
        own = ((low + high) / 2).long().clamp(0, length - 1)
        spans.append((at == own) | ((low <= at + 0.5) & (at + 0.5 < high)))
    return (spans[1][:, :, None] & spans[0][:, None, :]).float()


def _at_least_float32(values: Tensor) -> Tensor:
    return values.to(torch.promote_types(values.dtype, torch.float32))

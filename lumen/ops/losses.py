"""Losses of boxes, masks and yes/no answers: in float32, without weights or averages.

The caller sums the values and divides once by the count of the global batch.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from lumen.ops.geometry import giou


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


def _at_least_float32(values: Tensor) -> Tensor:
    return values.to(torch.promote_types(values.dtype, torch.float32))

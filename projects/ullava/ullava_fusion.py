"""One box out of several: the one regressed from the slot, the tight one around the mask, those of a detector."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from lumen.errors import ConfigError
from lumen.ops.geometry import box_area, box_iou

RULES = ("region", "mask", "agree", "external")
_AGREEMENT = 0.5


def fuse_boxes(
    region: Float[Tensor, "n 4"],
    mask_box: Float[Tensor, "n 4"],
    external: Sequence[Float[Tensor, "m 4"]] | None = None,
    rule: str = "agree",
) -> Float[Tensor, "n 4"]:
    """Return one box per answer; all boxes are xyxy in one frame.

    The paper does not say how its boxes are combined, so ``agree`` is ours. A mask without a pixel has no box, so the
    regressed one stands in for it in every rule.

    Args:
        region: Regressed from the slot.
        mask_box: Tight around the mask; without area where the mask is empty.
        external: For each answer, the boxes of a detector that was asked for its tag; read by ``external``.
        rule: ``region`` and ``mask`` take that box. ``agree`` takes the mean of both where their IoU is at least .5,
            else that of the mask. ``external`` takes the detector's box with the highest IoU with that of the mask,
            or that of the mask where it found none.

    Raises:
        ConfigError: The rule is not an accepted value, or wants boxes of a detector that are not given.

    Source:
        ``external``: Xu et al., "u-LLaVA" (2024), figure 2, and the rule of its first public code.
    """
    if rule not in RULES or (rule == "external" and (external is None or len(external) != len(region))):
        given = None if external is None else len(external)
        raise ConfigError(
            f"rule must be one of {RULES}, with boxes of a detector for each of the {len(region)} answers for "
            f"'external'; got {rule!r} with those of {given}"
        )
    mask_box = torch.where((box_area(mask_box) > 0)[:, None], mask_box, region)
    if rule == "region":
        return region
    if rule == "agree":
        agrees = box_iou(region, mask_box).diagonal() >= _AGREEMENT
        return torch.where(agrees[:, None], (region + mask_box) / 2, mask_box)
    if rule == "external":
        rows = [_closest(found, box) for found, box in zip(external, mask_box, strict=True)]
        return torch.stack(rows) if rows else mask_box
    return mask_box


def _closest(found: Float[Tensor, "m 4"], box: Float[Tensor, " 4"]) -> Float[Tensor, " 4"]:
    return found[box_iou(found, box[None])[:, 0].argmax()] if len(found) else box

"""Boxes that are proposed for an image before anything is asked."""

from dataclasses import dataclass, fields

from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Proposals:
    """Boxes that may hold an object, found in the image alone, and tokens that stand for them.

    Boxes are shares of the width and height of the input.

    Args:
        boxes: xyxy, the most likely first.
        tokens: What stands for each of them.
        centre_logits: Of each cell of a grid: whether the centre of an object lies there.
        cell_boxes: Box of each cell, whether it is a proposal or not.
    """

    boxes: Float[Tensor, "images proposals 4"]
    tokens: Float[Tensor, "images proposals dim"]
    centre_logits: Float[Tensor, "images height width"]
    cell_boxes: Float[Tensor, "images height width 4"]

    def of_image(self, number: int) -> "Proposals":
        """Return a copy of those of one image."""
        return Proposals(*(getattr(self, field.name)[number : number + 1].clone() for field in fields(self)))

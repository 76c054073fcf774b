"""Referring segmentation: the masks of what a sentence means, or none."""

from collections.abc import Mapping, Sequence
from typing import Any

from jaxtyping import Float
from mmengine.structures import InstanceData
from torch import Tensor

from lumen.decoders.base import Decoder
from lumen.decoders.boxes import BoxHead, box_loss
from lumen.decoders.masks import MaskHead, mask_losses, mask_probabilities
from lumen.decoders.peaks import SentenceLimits, best_of_pairs, read_limits
from lumen.registry import DECODERS
from lumen.structures import PerceptionSample, SharedRepresentation, TaskSpec, gather_pairs, targets_per_pair


@DECODERS.register_module()
class ReferringSegmentationDecoder(Decoder):
    """Grounding with a mask: the best peaks of each sentence, with a box and a dynamic mask each.

    Args:
        channels: Width of the shared representation.
        num_maps: Fine feature maps per image that the masks are made from.
        upsample: Cells of a mask per cell of ``dense``, along each axis.
        max_objects: Maximum number of objects per batch whose masks are trained, drawn at random.
        limits: Which boxes are answers, as a dict of the arguments of ``SentenceLimits``.
    """

    spec = TaskSpec(
        name="referring_segmentation",
        targets=frozenset({"bboxes", "masks"}),
        predictions=frozenset({"bboxes", "scores", "labels", "prompt_index", "masks"}),
        headline="referring_segmentation/ciou",
        losses={"loss_box": "objects", "loss_mask": "objects", "loss_dice": "objects"},
    )

    def __init__(
        self,
        channels: int,
        *,
        num_maps: int = 8,
        upsample: int = 4,
        max_objects: int = 64,
        limits: Mapping[str, Any] | SentenceLimits | None = None,
    ) -> None:
        super().__init__(channels)
        self.max_objects = max_objects
        self.limits = read_limits(SentenceLimits, limits)
        self.head = BoxHead(channels)
        self.mask_head = MaskHead(channels, num_maps=num_maps, upsample=upsample)

    def loss(self, shared: SharedRepresentation, samples: Sequence[PerceptionSample]) -> dict[str, Float[Tensor, ""]]:
        """Return the losses of boxes and masks, each a sum over targets."""
        targets = targets_per_pair(samples, shared)
        masks = mask_losses(self.mask_head, targets, shared, max_objects=self.max_objects)
        return {"loss_box": box_loss(self.head(shared), targets, shared), **masks}

    def predict(self, shared: SharedRepresentation, samples: Sequence[PerceptionSample]) -> list[InstanceData]:
        """Return the best boxes of each sentence with their masks, in input pixels: by sentence, the best first."""
        best = best_of_pairs(shared, self.head(shared), self.limits)
        best.masks = mask_probabilities(self.mask_head, shared, best.pair_index, best.bboxes)
        return gather_pairs(best, samples, shared)

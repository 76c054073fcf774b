"""Instance segmentation: boxes as in detection, and a dynamic mask per box."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from mmengine.structures import InstanceData
from torch import Tensor

from lumen.decoders.base import Decoder
from lumen.decoders.boxes import BoxHead, box_loss, boxes_at
from lumen.decoders.masks import MaskHead, mask_losses, mask_probabilities
from lumen.decoders.peaks import BoxLimits, best_boxes, pick_peaks, read_limits
from lumen.registry import DECODERS
from lumen.structures import PerceptionSample, SharedRepresentation, TaskSpec, targets_per_pair


@DECODERS.register_module()
class SegmentationDecoder(Decoder):
    """Peaks give centres and scores, a head on ``dense`` the boxes, and a tiny network per box its mask.

    Args:
        channels: Width of the shared representation.
        num_maps: Fine feature maps per image that the masks are made from.
        upsample: Cells of a mask per cell of ``dense``, along each axis.
        max_objects: Maximum number of objects per batch whose masks are trained, drawn at random.
        limits: Which boxes are answers, as a dict of the arguments of ``BoxLimits``.
    """

    spec = TaskSpec(
        name="segmentation",
        targets=frozenset({"bboxes", "labels", "masks"}),
        predictions=frozenset({"bboxes", "scores", "labels", "prompt_index", "peak_scores", "masks"}),
        headline="coco/segm_mAP",
        losses={"loss_box": "objects", "loss_mask": "objects", "loss_dice": "objects"},
    )

    def __init__(
        self,
        channels: int,
        *,
        num_maps: int = 8,
        upsample: int = 4,
        max_objects: int = 64,
        limits: Mapping[str, Any] | BoxLimits | None = None,
    ) -> None:
        super().__init__(channels)
        self.max_objects = max_objects
        self.limits = read_limits(BoxLimits, limits)
        self.head = BoxHead(channels)
        self.mask_head = MaskHead(channels, num_maps=num_maps, upsample=upsample)

    def loss(self, shared: SharedRepresentation, samples: Sequence[PerceptionSample]) -> dict[str, Float[Tensor, ""]]:
        """Return the losses of boxes and masks, each a sum over objects."""
        targets = targets_per_pair(samples, shared)
        masks = mask_losses(self.mask_head, targets, shared, max_objects=self.max_objects)
        return {"loss_box": box_loss(self.head(shared), targets, shared), **masks}

    def predict(self, shared: SharedRepresentation, samples: Sequence[PerceptionSample]) -> list[InstanceData]:
        """Return boxes and masks in input pixels; ``peak_scores`` are the scores without presence."""
        pair, cells_xy, scores, peak_scores = pick_peaks(
            shared, num_peaks=self.limits.num_peaks, min_score=self.limits.min_score
        )
        boxes = boxes_at(self.head(shared), shared.image_index[pair], cells_xy, shared.stride)
        table = InstanceData(bboxes=boxes, scores=scores, peak_scores=peak_scores, pair_index=pair, pair=pair)
        answers = best_boxes(table, samples, shared, self.limits)
        kept_pairs = torch.cat([answer.pop("pair") for answer in answers])
        kept_boxes = torch.cat([answer.bboxes for answer in answers])
        masks = mask_probabilities(self.mask_head, shared, kept_pairs, kept_boxes)
        for answer, of_answer in zip(answers, masks.split([len(answer) for answer in answers]), strict=True):
            answer.masks = of_answer
        return answers

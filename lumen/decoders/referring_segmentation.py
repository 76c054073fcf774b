"""Referring segmentation: the masks of what a sentence means, or none."""

from collections.abc import Sequence

from jaxtyping import Float
from mmengine.structures import InstanceData
from torch import Tensor

from lumen.decoders.base import Decoder
from lumen.decoders.boxes import BoxHead, box_loss
from lumen.decoders.masks import MaskHead, mask_losses, mask_probabilities
from lumen.decoders.peaks import best_of_pairs
from lumen.registry import DECODERS
from lumen.structures import PerceptionSample, SharedRepresentation, TaskSpec, gather_pairs, targets_per_pair


@DECODERS.register_module()
class ReferringSegmentationDecoder(Decoder):
    """Grounding with a mask: the best peaks of each sentence, with a box and a dynamic mask each.

    With ``min_score`` at 0 every sentence gets an answer, as RefCOCO wants; above 0 a sentence whose best box scores
    less has no target, as in gRefCOCO.

    Args:
        channels: Width of the shared representation.
        num_maps: Fine feature maps per image that the masks are made from.
        upsample: Cells of a mask per cell of ``dense``, along each axis.
        max_objects: Objects that learn their mask in one batch at most, drawn at random.
        num_boxes: Boxes per sentence at most.
        min_score: Boxes below this score are dropped.
        iou_threshold: Overlap above which the weaker box of a sentence goes.
        with_presence: Score a box by presence times peak; otherwise by the peak alone.
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
        num_boxes: int = 1,
        min_score: float = 0.0,
        iou_threshold: float = 0.6,
        with_presence: bool = True,
    ) -> None:
        super().__init__(channels)
        self.max_objects = max_objects
        self.num_boxes = num_boxes
        self.min_score = min_score
        self.iou_threshold = iou_threshold
        self.with_presence = with_presence
        self.head = BoxHead(channels)
        self.mask_head = MaskHead(channels, num_maps=num_maps, upsample=upsample)

    def loss(self, shared: SharedRepresentation, samples: Sequence[PerceptionSample]) -> dict[str, Float[Tensor, ""]]:
        """Return the losses of boxes and masks, each a sum over targets."""
        targets = targets_per_pair(samples, shared)
        masks = mask_losses(self.mask_head, targets, shared, max_objects=self.max_objects)
        return {"loss_box": box_loss(self.head(shared), targets, shared), **masks}

    def predict(self, shared: SharedRepresentation, samples: Sequence[PerceptionSample]) -> list[InstanceData]:
        """Return at most ``num_boxes`` boxes with masks per sentence in input pixels: by sentence, the best first."""
        best = best_of_pairs(
            shared,
            self.head(shared),
            num_boxes=self.num_boxes,
            min_score=self.min_score,
            iou_threshold=self.iou_threshold,
            with_presence=self.with_presence,
        )
        best.masks = mask_probabilities(self.mask_head, shared, best.pair_index, best.bboxes)
        return gather_pairs(best, samples, shared)

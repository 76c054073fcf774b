"""Visual grounding: the box, or the few boxes, that a sentence means, or none."""

from collections.abc import Sequence

from jaxtyping import Float
from mmengine.structures import InstanceData
from torch import Tensor

from lumen.decoders.base import Decoder
from lumen.decoders.boxes import BoxHead, box_loss
from lumen.decoders.peaks import best_of_pairs
from lumen.registry import DECODERS
from lumen.structures import PerceptionSample, SharedRepresentation, TaskSpec, gather_pairs, targets_per_pair


@DECODERS.register_module()
class GroundingDecoder(Decoder):
    """The best peaks of each sentence, with a box each.

    With ``min_score`` at 0 every sentence gets an answer, as RefCOCO wants; above 0 a sentence whose best box scores
    less has no target, as in gRefCOCO.

    Args:
        channels: Width of the shared representation.
        num_boxes: Boxes per sentence at most.
        min_score: Boxes below this score are dropped.
        iou_threshold: Overlap above which the weaker box of a sentence goes.
        with_presence: Score a box by presence times peak; otherwise by the peak alone.
    """

    spec = TaskSpec(
        name="grounding",
        targets=frozenset({"bboxes"}),
        predictions=frozenset({"bboxes", "scores", "labels", "prompt_index"}),
        headline="grounding/accuracy",
        losses={"loss_box": "objects"},
    )

    def __init__(
        self,
        channels: int,
        *,
        num_boxes: int = 1,
        min_score: float = 0.0,
        iou_threshold: float = 0.6,
        with_presence: bool = True,
    ) -> None:
        super().__init__(channels)
        self.num_boxes = num_boxes
        self.min_score = min_score
        self.iou_threshold = iou_threshold
        self.with_presence = with_presence
        self.head = BoxHead(channels)

    def loss(self, shared: SharedRepresentation, samples: Sequence[PerceptionSample]) -> dict[str, Float[Tensor, ""]]:
        """Return the GIoU loss of the cells around each target's centre, weighted to one per target."""
        return {"loss_box": box_loss(self.head(shared), targets_per_pair(samples, shared), shared)}

    def predict(self, shared: SharedRepresentation, samples: Sequence[PerceptionSample]) -> list[InstanceData]:
        """Return at most ``num_boxes`` boxes per sentence in input pixels: by sentence, the best first."""
        best = best_of_pairs(
            shared,
            self.head(shared),
            num_boxes=self.num_boxes,
            min_score=self.min_score,
            iou_threshold=self.iou_threshold,
            with_presence=self.with_presence,
        )
        return gather_pairs(best, samples, shared)

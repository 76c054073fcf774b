"""Detection by distances to the four sides, read at the peaks of the heatmap."""

from collections.abc import Sequence

from jaxtyping import Float
from mmengine.structures import InstanceData
from torch import Tensor

from lumen.decoders.base import Decoder
from lumen.decoders.boxes import BoxHead, box_loss, boxes_at
from lumen.decoders.peaks import best_boxes, pick_peaks
from lumen.registry import DECODERS
from lumen.structures import PerceptionSample, SharedRepresentation, TaskSpec, targets_per_pair


@DECODERS.register_module()
class DetectionDecoder(Decoder):
    """Peaks give centres and scores; a small head on ``dense`` gives the distances (left, top, right, bottom).

    Args:
        channels: Width of the shared representation.
        num_peaks: Peaks per phrase.
        min_score: Peaks below this score are dropped before anything else.
        iou_threshold: Overlap above which the weaker box of a class goes.
        max_per_image: Boxes kept per image over all phrases.

    Source:
        Distances and GIoU after FCOS (Tian et al., 2019) and TTFNet (Liu et al., 2020); the peaks after the paper.
    """

    spec = TaskSpec(
        name="detection",
        targets=frozenset({"bboxes", "labels"}),
        predictions=frozenset({"bboxes", "scores", "labels", "prompt_index", "peak_scores"}),
        headline="coco/bbox_mAP",
        losses={"loss_box": "objects"},
    )

    def __init__(
        self,
        channels: int,
        *,
        num_peaks: int = 100,
        min_score: float = 0.001,
        iou_threshold: float = 0.6,
        max_per_image: int = 100,
    ) -> None:
        super().__init__(channels)
        self.num_peaks = num_peaks
        self.min_score = min_score
        self.iou_threshold = iou_threshold
        self.max_per_image = max_per_image
        self.head = BoxHead(channels)

    def loss(self, shared: SharedRepresentation, samples: Sequence[PerceptionSample]) -> dict[str, Float[Tensor, ""]]:
        """Return the GIoU loss of the cells around each object's centre, weighted to one per object."""
        return {"loss_box": box_loss(self.head(shared), targets_per_pair(samples, shared), shared)}

    def predict(self, shared: SharedRepresentation, samples: Sequence[PerceptionSample]) -> list[InstanceData]:
        """Return boxes in input pixels; ``peak_scores`` are the scores without presence."""
        pair, cells_xy, scores, peak_scores = pick_peaks(shared, num_peaks=self.num_peaks, min_score=self.min_score)
        boxes = boxes_at(self.head(shared), shared.image_index[pair], cells_xy, shared.stride)
        table = InstanceData(bboxes=boxes, scores=scores, peak_scores=peak_scores, pair_index=pair)
        return best_boxes(table, samples, shared, iou_threshold=self.iou_threshold, max_per_image=self.max_per_image)

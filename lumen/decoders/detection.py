"""Detection by distances to the four sides, read at the peaks of the heatmap."""

from collections.abc import Mapping, Sequence
from typing import Any

from jaxtyping import Float
from mmengine.structures import InstanceData
from torch import Tensor

from lumen.decoders.base import Decoder
from lumen.decoders.boxes import BoxHead, box_loss, boxes_at
from lumen.decoders.peaks import BoxLimits, best_boxes, pick_peaks, read_limits
from lumen.registry import DECODERS
from lumen.structures import PerceptionSample, SharedRepresentation, TaskSpec, targets_per_pair


@DECODERS.register_module()
class DetectionDecoder(Decoder):
    """Peaks give centres and scores; a small head on ``dense`` gives the distances (left, top, right, bottom).

    Args:
        channels: Width of the shared representation.
        limits: Which boxes are answers, as a dict of the arguments of ``BoxLimits``.

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
        limits: Mapping[str, Any] | BoxLimits | None = None,
    ) -> None:
        super().__init__(channels)
        self.limits = read_limits(BoxLimits, limits)
        self.head = BoxHead(channels)

    def loss(self, shared: SharedRepresentation, samples: Sequence[PerceptionSample]) -> dict[str, Float[Tensor, ""]]:
        """Return the GIoU loss of the cells around each object's centre, weighted to one per object."""
        return {"loss_box": box_loss(self.head(shared), targets_per_pair(samples, shared), shared)}

    def predict(self, shared: SharedRepresentation, samples: Sequence[PerceptionSample]) -> list[InstanceData]:
        """Return boxes in input pixels; ``peak_scores`` are the scores without presence."""
        pair, cells_xy, scores, peak_scores = pick_peaks(
            shared, num_peaks=self.limits.num_peaks, min_score=self.limits.min_score
        )
        boxes = boxes_at(self.head(shared), shared.image_index[pair], cells_xy, shared.stride)
        table = InstanceData(bboxes=boxes, scores=scores, peak_scores=peak_scores, pair_index=pair)
        return best_boxes(table, samples, shared, self.limits)

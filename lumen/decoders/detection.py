"""Detection by distances to the four sides, read at the peaks of the heatmap."""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from mmengine.structures import InstanceData
from torch import Tensor, nn

from lumen.decoders.base import Decoder
from lumen.decoders.peaks import best_boxes, pick_peaks
from lumen.heatmap import cells_around
from lumen.losses import giou_loss
from lumen.registry import DECODERS
from lumen.structures import PerceptionSample, SharedRepresentation, TaskSpec, targets_per_pair


@DECODERS.register_module()
class DetectionDecoder(Decoder):
    """Peaks give centres and scores; a small head on ``dense`` gives the distances (left, top, right, bottom).

    The head is computed once per image, whatever the number of phrases.

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
        self.head = nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(channels),
            nn.SiLU(inplace=True),
            nn.Conv2d(channels, 4, 1),
        )

    def forward(self, shared: SharedRepresentation) -> Float[Tensor, "images 4 height width"]:
        """Return distances from each cell's centre to the sides of its object, in input pixels."""
        cells = self.head(shared.dense).float()
        return torch.exp(cells.clamp(max=8.0)) * shared.stride

    def loss(self, shared: SharedRepresentation, samples: Sequence[PerceptionSample]) -> dict[str, Float[Tensor, ""]]:
        """Return the GIoU loss of the cells around each object's centre, weighted to one per object."""
        distances = self(shared)
        targets = targets_per_pair(samples, shared)
        owner, cells_xy, weight = cells_around(targets.bboxes, distances.shape[-2:], shared.stride)
        image = shared.image_index[targets.pair_index[owner]]
        boxes = boxes_at(distances, image, cells_xy, shared.stride)
        return {"loss_box": (giou_loss(boxes, targets.bboxes[owner]) * weight).sum() + distances.sum() * 0}

    def predict(self, shared: SharedRepresentation, samples: Sequence[PerceptionSample]) -> list[InstanceData]:
        """Return boxes in input pixels; ``peak_scores`` are the scores without presence."""
        pair, cells_xy, scores, peak_scores = pick_peaks(shared, num_peaks=self.num_peaks, min_score=self.min_score)
        boxes = boxes_at(self(shared), shared.image_index[pair], cells_xy, shared.stride)
        table = InstanceData(bboxes=boxes, scores=scores, peak_scores=peak_scores, pair_index=pair)
        return best_boxes(table, samples, shared, iou_threshold=self.iou_threshold, max_per_image=self.max_per_image)


def boxes_at(
    distances: Float[Tensor, "images 4 height width"],
    image: Int[Tensor, " n"],
    cells_xy: Int[Tensor, "n 2"],
    stride: int,
) -> Float[Tensor, "n 4"]:
    """Read the distances at cells and turn them into boxes in input pixels."""
    read = distances[image, :, cells_xy[:, 1], cells_xy[:, 0]]
    centre = (cells_xy + 0.5) * stride
    return torch.cat([centre - read[:, :2], centre + read[:, 2:]], 1)

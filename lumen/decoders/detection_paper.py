"""Detection as in the paper: two map queries, ``[H]`` and ``[W]``, read at the peaks."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from mmengine.structures import InstanceData
from torch import Tensor

from lumen.decoders.base import Decoder
from lumen.decoders.peaks import BoxLimits, best_boxes, pick_peaks, read_limits
from lumen.registry import DECODERS
from lumen.structures import PerceptionSample, SharedRepresentation, TaskSpec, targets_per_pair


@DECODERS.register_module()
class PaperDetectionDecoder(Decoder):
    """The paper's box decoder: no network of its own, two learnable queries in the aligner.

    The maps are read as sizes in cells. The paper names no unit and no centre offset, so centres stay on the grid: the
    middle of the peak's cell. The score is the peak alone.

    Args:
        channels: Width of the shared representation.
        limits: Which boxes are answers, as a dict of the arguments of ``BoxLimits``. The paper has 100 peaks per
            phrase; it names no IoU threshold for suppression.

    Source:
        Jiao et al., "Lumen" (2024), section 3.2; L1 at the centres after Zhou et al., "Objects as Points" (2019).
    """

    spec = TaskSpec(
        name="detection",
        targets=frozenset({"bboxes", "labels"}),
        predictions=frozenset({"bboxes", "scores", "labels", "prompt_index", "peak_scores"}),
        headline="coco/bbox_mAP",
        losses={"loss_size": "objects"},
        map_queries=2,
    )

    def __init__(
        self,
        channels: int,
        *,
        limits: Mapping[str, Any] | BoxLimits | None = None,
    ) -> None:
        super().__init__(channels)
        self.limits = read_limits(BoxLimits, limits)

    def forward(self, shared: SharedRepresentation) -> Float[Tensor, "pairs 2 height width"]:
        """Return (height, width) of the object at each cell, in input pixels."""
        return shared.maps.float() * shared.stride

    def loss(self, shared: SharedRepresentation, samples: Sequence[PerceptionSample]) -> dict[str, Float[Tensor, ""]]:
        """Return the L1 distance between read and true sizes at the centre cells, in cells."""
        targets = targets_per_pair(samples, shared)
        sizes_hw = (targets.bboxes[:, 2:] - targets.bboxes[:, :2]).flip(1) / shared.stride
        centre = ((targets.bboxes[:, :2] + targets.bboxes[:, 2:]) / (2 * shared.stride)).floor().long()
        read = shared.maps.float()[targets.pair_index, :, centre[:, 1], centre[:, 0]]
        return {"loss_size": (read - sizes_hw).abs().sum() + shared.maps.sum() * 0}

    def predict(self, shared: SharedRepresentation, samples: Sequence[PerceptionSample]) -> list[InstanceData]:
        """Return boxes in input pixels; ``peak_scores`` equal the scores."""
        pair, cells_xy, scores, peak_scores = pick_peaks(
            shared, num_peaks=self.limits.num_peaks, min_score=self.limits.min_score, with_presence=False
        )
        half = self(shared)[pair, :, cells_xy[:, 1], cells_xy[:, 0]].flip(1).clamp(min=0) / 2
        centre = (cells_xy + 0.5) * shared.stride
        boxes = torch.cat([centre - half, centre + half], 1)
        table = InstanceData(bboxes=boxes, scores=scores, peak_scores=peak_scores, pair_index=pair)
        return best_boxes(table, samples, shared, self.limits)

"""A task from outside the package: point at the centre of everything a phrase names."""

from collections.abc import Sequence

from jaxtyping import Float
from mmengine.evaluator import BaseMetric
from mmengine.structures import InstanceData
from torch import Tensor, nn

from lumen.decoders.base import Decoder
from lumen.decoders.peaks import pick_peaks
from lumen.registry import DECODERS, METRICS
from lumen.structures import PerceptionSample, SharedRepresentation, TaskSpec, gather_pairs, targets_per_pair


@DECODERS.register_module()
class PointingDecoder(Decoder):
    """Peaks of the shared heatmap, moved within their cell by a small head on ``dense``."""

    spec = TaskSpec(
        name="pointing",
        targets=frozenset({"bboxes"}),
        predictions=frozenset({"points", "scores", "labels", "prompt_index"}),
        headline="pointing/accuracy",
        losses={"loss_offset": "objects"},
    )

    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.head = nn.Conv2d(channels, 2, 1)

    def forward(self, shared: SharedRepresentation) -> Float[Tensor, "images 2 height width"]:
        """Return where a centre lies in each cell: (x, y) as shares of the cell."""
        return self.head(shared.dense).float().sigmoid()

    def loss(self, shared: SharedRepresentation, samples: Sequence[PerceptionSample]) -> dict[str, Float[Tensor, ""]]:
        """Return the L1 distance to the true centres, in cells."""
        offsets, targets = self(shared), targets_per_pair(samples, shared)
        centre = (targets.bboxes[:, :2] + targets.bboxes[:, 2:]) / (2 * shared.stride)
        cell = centre.long()
        read = offsets[shared.image_index[targets.pair_index], :, cell[:, 1], cell[:, 0]]
        return {"loss_offset": (read - (centre - cell)).abs().sum() + offsets.sum() * 0}

    def predict(self, shared: SharedRepresentation, samples: Sequence[PerceptionSample]) -> list[InstanceData]:
        """Return up to 20 points per phrase, in input pixels; ``Lumen`` maps them to the original image."""
        pair, cells_xy, scores, _ = pick_peaks(shared, num_peaks=20, min_score=0.01)
        offsets = self(shared)[shared.image_index[pair], :, cells_xy[:, 1], cells_xy[:, 0]]
        points = (cells_xy + offsets) * shared.stride
        return gather_pairs(InstanceData(points=points, scores=scores, pair_index=pair), samples, shared)


@METRICS.register_module()
class PointingAccuracy(BaseMetric):
    """Share of phrases with an object whose best point lies in one of the phrase's boxes (the "pointing game")."""

    default_prefix = "pointing"
    needs = frozenset({"points", "scores", "prompt_index"})

    def process(self, data_batch: object, data_samples: Sequence[dict]) -> None:
        """Judge every phrase that has an object; boxes are brought to original pixels, where the points are."""
        for sample in data_samples:
            targets, found = sample["gt_instances"], sample["pred_instances"]
            boxes = sample["frame"].boxes_to_original(targets["bboxes"]).cpu()
            hits = []
            for prompt in targets["prompt_index"].unique().tolist():
                answers, asked = found["prompt_index"] == prompt, (targets["prompt_index"] == prompt).cpu()
                if not answers.any():
                    hits.append(False)
                    continue
                point = found["points"][answers][found["scores"][answers].argmax()].cpu()
                inside = (point >= boxes[asked, :2]) & (point <= boxes[asked, 2:])
                hits.append(bool(inside.all(1).any()))
            self.results.append(hits)  # one entry per sample: MMEngine drops what goes beyond the number of samples

    def compute_metrics(self, results: list[list[bool]]) -> dict[str, float]:
        """Return the share, 0 when nothing was asked."""
        hits = [hit for of_sample in results for hit in of_sample]
        return {"accuracy": sum(hits) / len(hits) if hits else 0.0}

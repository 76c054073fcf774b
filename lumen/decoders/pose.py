"""Pose: one phrase per keypoint of one object, one peak per phrase."""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from mmengine.structures import InstanceData
from torch import Tensor, nn

from lumen.decoders.base import Decoder
from lumen.ops.heatmap import Peaks, cells_around, find_peaks, refine_peaks
from lumen.registry import DECODERS
from lumen.structures import PerceptionSample, SharedRepresentation, TaskSpec, targets_per_pair

_REACH = 1.5


@DECODERS.register_module()
class PoseDecoder(Decoder):
    """The best peak of each phrase is its keypoint; a small head moves it within the cells around.

    Every phrase gets a point (the first cell if the map is flat) and a score, the height of its peak. Presence is
    not read: pose data ask for keypoints of objects that are there. The score of a sample is the score of its box times
    the mean of those keypoint scores that are above ``min_score``, and 0 where none is.

    Heatmaps are trained on whole cells, so at stride 8 a point read from them alone is off by some three pixels, which
    the object keypoint similarity of small keypoints punishes. The head costs little: it reads the peak cells only.

    Args:
        channels: Width of the shared representation.
        offset_head: Move points by a trained head. Otherwise by the parabola through the peak and its neighbours,
            without training.
        min_score: Keypoint scores up to this value are excluded from the score of the sample.

    Source:
        One peak per keypoint after the paper; the score after Xiao et al., "Simple Baselines for Human Pose Estimation
        and Tracking" (2018); offsets after Papandreou et al., "Towards Accurate Multi-person Pose Estimation in the
        Wild" (2017), here for the nine cells around a keypoint.
    """

    spec = TaskSpec(
        name="pose",
        targets=frozenset({"bboxes"}),
        predictions=frozenset({"keypoints", "keypoint_scores", "scores"}),
        headline="pose/AP",
        losses={"loss_offset": "objects"},
    )

    def __init__(self, channels: int, *, offset_head: bool = True, min_score: float = 0.2) -> None:
        super().__init__(channels)
        self.min_score = min_score
        self.head = _OffsetHead(channels) if offset_head else None

    def loss(self, shared: SharedRepresentation, samples: Sequence[PerceptionSample]) -> dict[str, Float[Tensor, ""]]:
        """Return the L1 distance, in cells, of the nine cells around each keypoint, weighted to one per keypoint.

        It is 0 without the head.
        """
        if self.head is None:
            return {"loss_offset": shared.dense.float().sum() * 0}
        targets = targets_per_pair(samples, shared)
        points = (targets.bboxes[:, :2] + targets.bboxes[:, 2:]) / 2
        reach = _REACH * shared.stride
        around = torch.cat([points - reach, points + reach], 1)
        owner, cells_xy, weight = cells_around(around, shared.dense.shape[-2:], shared.stride)
        offsets = self.head(shared, targets.pair_index[owner], cells_xy)
        distance = (cells_xy + 0.5 + offsets - points[owner] / shared.stride).abs().sum(1)
        return {"loss_offset": (distance * weight).sum()}

    def predict(self, shared: SharedRepresentation, samples: Sequence[PerceptionSample]) -> list[InstanceData]:
        """Return one row per sample, in input pixels; column j is prompt j. A sample of another task has no row.

        A prompt without a pair has score 0, and its point lies in the middle of the input.
        """
        heat = shared.heat_logits[:, 0].float().sigmoid()
        peaks = find_peaks(heat, 1)
        points = self._locate(shared, heat, peaks) * shared.stride
        return [
            self._row(*self._by_prompt(shared, image, sample, points, peaks.scores[:, 0]), sample.get("box_score", 1.0))
            for image, sample in enumerate(samples)
        ]

    def _locate(
        self, shared: SharedRepresentation, heat: Float[Tensor, "pairs height width"], peaks: Peaks
    ) -> Float[Tensor, "pairs 2"]:
        """Return (x, y) of each pair's point in cells; the middle of cell 0 is 0.5."""
        if self.head is None:
            return refine_peaks(heat, peaks)[:, 0]
        cells_xy = peaks.cells_xy[:, 0]
        offsets = self.head(shared, torch.arange(len(cells_xy), device=cells_xy.device), cells_xy)
        return cells_xy + 0.5 + offsets.clamp(-_REACH, _REACH)

    def _by_prompt(
        self,
        shared: SharedRepresentation,
        image: int,
        sample: PerceptionSample,
        points: Float[Tensor, "pairs 2"],
        scores: Float[Tensor, " pairs"],
    ) -> tuple[Float[Tensor, "k 2"], Float[Tensor, " k"]]:
        """Return point and score of each prompt of one sample, also of those that have no pair."""
        of_image = shared.image_index == image
        place = (shared.prompt_index[of_image],)
        asked = [number for number, prompt in enumerate(sample.prompts) if prompt.task == self.spec.name]
        middle = points.new_tensor(sample.frame.input_hw[::-1]) / 2
        found = middle.repeat(len(sample.prompts), 1).index_put(place, points[of_image])
        return found[asked], scores.new_zeros(len(found)).index_put(place, scores[of_image])[asked]

    def _row(self, points: Float[Tensor, "k 2"], scores: Float[Tensor, " k"], box_score: float) -> InstanceData:
        rows = min(len(points), 1)
        counted = scores > self.min_score
        mean = (scores * counted).sum() / counted.sum().clamp(min=1)
        return InstanceData(
            keypoints=points[None][:rows],
            keypoint_scores=scores[None][:rows],
            scores=(mean * box_score)[None][:rows],
        )


class _OffsetHead(nn.Module):
    """Distance from the middle of a cell to the keypoint that a pair asks for, in cells: 0 before training.

    The image's part is computed once per image; the pair's part at the chosen cells only.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.context = nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels), nn.SiLU(inplace=True)
        )
        self.mix = nn.Linear(2 * channels, channels)
        self.last = nn.Linear(channels, 2)
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)

    def forward(
        self, shared: SharedRepresentation, pair: Int[Tensor, " n"], cells_xy: Int[Tensor, "n 2"]
    ) -> Float[Tensor, "n 2"]:
        context = self.context(shared.dense)
        read = context[shared.image_index[pair], :, cells_xy[:, 1], cells_xy[:, 0]]
        query = shared.query[pair].to(read.dtype)
        hidden = nn.functional.silu(self.mix(torch.cat([read, query], 1)))
        # in use, and in every process, even where no keypoint is asked for
        return self.last(hidden).float() + context.float().sum() * 0

"""Counting: how many objects answer a phrase, read from its heatmap."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from mmengine.structures import InstanceData
from torch import Tensor, nn
from torch.nn import functional

from lumen.decoders.base import Decoder, fill_unanswered
from lumen.decoders.peaks import pick_peaks, require_bounds
from lumen.errors import ConfigError
from lumen.registry import DECODERS
from lumen.structures import (
    PerceptionSample,
    SharedRepresentation,
    TaskSpec,
    gather_pairs,
    targets_per_pair,
)

_MODES = ("peaks", "density")


@DECODERS.register_module()
class CountingDecoder(Decoder):
    """Count the peaks of the heatmap, or add up a density that is made from it.

    ``peaks`` needs no training, as in the paper: the count is the number of peaks whose presence times height reaches
    ``min_score``. ``density`` multiplies the heatmap by a learned gain that ``dense`` gives at each cell, the share of
    an object that a hot cell stands for. The count is the sum over the map times presence; it need not be a whole
    number, and keeps growing where peaks merge.

    Args:
        channels: Width of the shared representation.
        mode: ``peaks`` or ``density``.
        min_score: Minimum score of a counted peak, in ``peaks``; the paper names no value.
        min_distance: Minimum distance from a counted peak to a higher cell of the map, in cells along either axis, in
            ``peaks``; every peak has at least 1. Objects larger than a few cells may have several peaks.
        max_count: Largest count, in ``peaks``.

    Raises:
        ConfigError: If the mode is unknown, or a bound is not accepted.

    Source:
        Jiao et al., "Lumen" (2024), section 4.4, for the peaks; the sum of a density after Lempitsky and Zisserman,
        "Learning to Count Objects in Images" (2010).
    """

    spec = TaskSpec(
        name="counting",
        targets=frozenset({"prompt_index"}),
        predictions=frozenset({"counts", "scores", "labels", "prompt_index"}),
        headline="counting/MAE",
        losses={"loss_count": "pairs"},
    )

    def __init__(
        self,
        channels: int,
        *,
        mode: str = "peaks",
        min_score: float = 0.3,
        min_distance: int = 1,
        max_count: int = 300,
    ) -> None:
        super().__init__(channels)
        if mode not in _MODES:
            raise ConfigError(f"mode must be one of {_MODES}, got {mode!r}")
        require_bounds({"min_distance": min_distance, "max_count": max_count}, {"min_score": min_score})
        self.min_score = min_score
        self.min_distance = min_distance
        self.max_count = max_count
        self.gain = _make_gain(channels) if mode == "density" else None

    def forward(self, shared: SharedRepresentation) -> Float[Tensor, " pairs"]:
        """Return the count of each pair."""
        if self.gain is None:
            return self._count_peaks(shared)
        gain = functional.softplus(self.gain(shared.dense).float())[:, 0]
        heat = shared.heat_logits[:, 0].float().sigmoid()
        return (heat * gain[shared.image_index]).sum((1, 2)) * shared.presence_logits.float().sigmoid() + gain.sum() * 0

    def _count_peaks(self, shared: SharedRepresentation) -> Float[Tensor, " pairs"]:
        pair, cells_xy, _, _ = pick_peaks(shared, num_peaks=self.max_count, min_score=self.min_score)
        heat, (x, y) = shared.heat_logits[:, 0].float(), cells_xy.unbind(1)
        reach = self.min_distance
        highest = functional.max_pool2d(heat, 2 * reach + 1, stride=1, padding=reach) if len(heat) else heat
        counts = heat[pair, y, x] >= highest[pair, y, x]
        return torch.bincount(pair[counts], minlength=shared.num_pairs).float()

    def loss(self, shared: SharedRepresentation, samples: Sequence[PerceptionSample]) -> dict[str, Float[Tensor, ""]]:
        """Return the smooth L1 distance to the true counts, 0 in ``peaks``.

        Pairs with crowd or ignored regions are left out: their count is unknown.
        """
        if self.gain is None:
            return {"loss_count": shared.heat_logits.float().sum() * 0}
        targets = targets_per_pair(samples, shared)
        ignored = targets_per_pair(samples, shared, "ignored_instances")
        truth = torch.bincount(targets.pair_index, minlength=shared.num_pairs).float()
        known = torch.ones_like(truth).index_fill_(0, ignored.pair_index, 0)
        distance = functional.smooth_l1_loss(self(shared), truth, reduction="none")
        return {"loss_count": (distance * known).sum()}

    def predict(self, shared: SharedRepresentation, samples: Sequence[PerceptionSample]) -> list[InstanceData]:
        """Return one row per prompt; ``scores`` are the presence of anything at all. Without a pair both are 0."""
        table = InstanceData(
            counts=self(shared),
            scores=shared.presence_logits.float().sigmoid(),
            pair_index=torch.arange(shared.num_pairs, device=shared.image_index.device),
        )
        answers = gather_pairs(table, samples, shared)
        return [
            fill_unanswered(answer, sample.prompts, self.spec.name)
            for answer, sample in zip(answers, samples, strict=True)
        ]


def _make_gain(channels: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels, channels, 3, padding=1, bias=False),
        nn.BatchNorm2d(channels),
        nn.SiLU(inplace=True),
        nn.Conv2d(channels, 1, 1),
    )

"""Schedules that follow the length of the run, so that a run of any length warms up and decays to its end."""

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mmengine.optim import LinearLR

from lumen.errors import ConfigError
from lumen.registry import PARAM_SCHEDULERS

_MIN_WARM_UP = 2  # a linear schedule takes two steps from its start to its end


@PARAM_SCHEDULERS.register_module()
@dataclass(frozen=True, slots=True, kw_only=True)
class WarmUpThenDecay:
    """A linear warm-up, then a decay that ends with the run; ``LumenRunner`` makes MMEngine's schedulers of it.

    Args:
        decay: Config of an MMEngine scheduler, such as ``dict(type=CosineAnnealingLR, eta_min=3e-5)``, without its
            ``begin``, ``end``, ``T_max`` and ``by_epoch``.
        warm_up: Iterations of the warm-up at most.
        max_share: Share of the run that the warm-up takes at most; of a run where that is below two iterations there is
            no warm-up.
        start_factor: Factor on the rate at the first iteration.

    Raises:
        ConfigError: A number is out of range, or ``decay`` names its own place.
    """

    decay: Mapping[str, Any]
    warm_up: int = 200
    max_share: float = 0.125
    start_factor: float = 0.01

    def __post_init__(self) -> None:
        if self.warm_up < 0 or not 0 <= self.max_share <= 1 or not 0 < self.start_factor <= 1:
            raise ConfigError(
                "warm_up must not be negative, max_share lie in [0, 1] and start_factor in (0, 1], got "
                f"{self.warm_up}, {self.max_share} and {self.start_factor}"
            )
        placed = sorted({"begin", "end", "T_max", "by_epoch"} & set(self.decay))
        if placed:
            raise ConfigError(f"param_scheduler.decay: {placed} come from train_cfg.max_iters; leave them out")

    def schedulers(self, max_iters: int) -> list[dict[str, Any]]:
        """Return the configs of MMEngine's schedulers for a run of ``max_iters`` iterations."""
        # A short run, such as a first try, warms up within its first eighth.
        turn = min(self.warm_up, int(max_iters * self.max_share))
        turn = turn if turn >= _MIN_WARM_UP else 0
        decay = {**self.decay, "by_epoch": False, "begin": turn, "end": max_iters}
        kind = PARAM_SCHEDULERS.get(decay["type"]) if isinstance(decay["type"], str) else decay["type"]
        # Cosine schedules count their period themselves; others take `begin` and `end` alone.
        if any("T_max" in inspect.signature(base.__init__).parameters for base in kind.__mro__):
            decay["T_max"] = max_iters - turn
        warm_up = {"type": LinearLR, "start_factor": self.start_factor, "by_epoch": False, "begin": 0, "end": turn}
        return [warm_up, decay] if turn else [decay]


def placed_schedulers(settings: Any, max_iters: int) -> Any:
    """Return the configs of schedulers with ``WarmUpThenDecay`` replaced by what it stands for; others stay."""
    if not isinstance(settings, Mapping) or "type" not in settings:
        return settings
    kind = PARAM_SCHEDULERS.get(settings["type"]) if isinstance(settings["type"], str) else settings["type"]
    if kind is not WarmUpThenDecay:
        return settings
    return WarmUpThenDecay(**{key: value for key, value in settings.items() if key != "type"}).schedulers(max_iters)

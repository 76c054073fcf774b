"""Saves that a kill at any moment survives."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmengine.dist import is_main_process
from mmengine.hooks import Hook

from lumen.errors import ConfigError
from lumen.registry import HOOKS
from lumen.serialization.atomic import remove_leftovers
from lumen.serialization.checkpoint import find_checkpoint, numbered_checkpoints, write_pointer

RULES = ("greater", "less")


@HOOKS.register_module()
class SafeCheckpointHook(Hook):
    """Saves every N iterations and at the end; a kill at any moment leaves a whole checkpoint to resume from.

    The order is: new file under a temporary name, rename, pointer ``last_checkpoint``, and only then are old files
    deleted. The best checkpoint is ``best.pth``.

    Args:
        interval: Iterations between checkpoints.
        max_keep: Numbered checkpoints that stay, the newest ones.
        save_best: Metric whose best value is kept in ``best.pth``, such as a decoder's headline metric; None for none.
        rule: Whether ``greater`` or ``less`` is better.
    """

    priority = "VERY_LOW"

    def __init__(
        self, interval: int = 1000, max_keep: int = 2, save_best: str | None = None, rule: str = "greater"
    ) -> None:
        if interval < 1 or max_keep < 1:
            raise ConfigError(f"interval and max_keep must be at least 1, got {interval} and {max_keep}")
        if rule not in RULES:
            raise ConfigError(f"rule must be one of {RULES}, got {rule!r}")
        self.interval = interval
        self._max_keep = max_keep
        self._save_best = save_best
        self._sign = 1.0 if rule == "greater" else -1.0
        self._best = -math.inf

    def before_train(self, runner: Any) -> None:
        """Remove what a killed save left behind."""
        if is_main_process():
            remove_leftovers(Path(runner.work_dir))

    def after_train_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: dict[str, Any] | None = None
    ) -> None:
        """Save at each interval, and after the last iteration."""
        num_iters = runner.iter + 1
        if num_iters % self.interval == 0 or num_iters == runner.max_iters:
            runner.save_checkpoint(runner.work_dir, f"iter_{num_iters}.pth", num_iters=num_iters)
            if is_main_process():
                self._publish(Path(runner.work_dir), f"iter_{num_iters}.pth")

    def after_val_epoch(self, runner: Any, metrics: Mapping[str, Any] | None = None) -> None:
        """Save ``best.pth`` where the metric is better than ever before."""
        if self._save_best is None or not metrics:
            return
        if self._save_best not in metrics:
            raise ConfigError(f"save_best={self._save_best!r} is none of the metrics {sorted(metrics)}")
        value = self._sign * float(metrics[self._save_best])
        if value > self._best:
            self._best = value
            figures = {key: float(value) for key, value in metrics.items() if isinstance(value, int | float)}
            runner.save_checkpoint(runner.work_dir, "best.pth", num_iters=runner.iter, metrics=figures)
            runner.logger.info(f"best {self._save_best} so far: {metrics[self._save_best]}, kept in best.pth")

    def before_save_checkpoint(self, runner: Any, checkpoint: dict[str, Any]) -> None:
        """Store the best value."""
        checkpoint["hooks"]["checkpoint"] = {"best": self._best}

    def after_load_checkpoint(self, runner: Any, checkpoint: dict[str, Any]) -> None:
        """Restore the best value on a resume."""
        if "hooks" in checkpoint:
            self._best = checkpoint["hooks"]["checkpoint"]["best"]

    def _publish(self, folder: Path, name: str) -> None:
        write_pointer(folder / name)
        for old in numbered_checkpoints(folder)[: -self._max_keep]:
            if old != find_checkpoint(folder):
                old.unlink()

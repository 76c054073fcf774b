"""Saves that a kill at any moment survives."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmengine.dist import is_main_process
from mmengine.hooks import Hook

from lumen.errors import CheckpointError, ConfigError
from lumen.registry import HOOKS
from lumen.serialization.atomic import remove_leftovers
from lumen.serialization.checkpoint import find_checkpoint, load_checkpoint, numbered_checkpoints, write_pointer

RULES = ("greater", "less")
BEST = "best.pth"


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
        self._last_saved: int | None = None

    def before_train(self, runner: Any) -> None:
        """Remove what a killed save left behind; a resumed run remembers its best value."""
        if is_main_process():
            remove_leftovers(Path(runner.work_dir))
        # Also where a killed run had saved nothing else yet, so that it starts anew.
        if runner.is_resuming and self._save_best is not None:
            self._best = max(self._best, self._kept_best(runner))

    def _kept_best(self, runner: Any) -> float:
        """Return the value of ``best.pth``: it may be newer than the last numbered checkpoint."""
        path = Path(runner.work_dir) / BEST
        if not path.is_file():
            return -math.inf
        try:
            figures = load_checkpoint(path)["meta"].get("metrics", {})
        except CheckpointError as error:
            runner.logger.warning(f"{error}. The next evaluation replaces it")
            return -math.inf
        return self._sign * float(figures[self._save_best]) if self._save_best in figures else -math.inf

    def after_train_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: dict[str, Any] | None = None
    ) -> None:
        """Save at each interval, and after the last iteration."""
        num_iters = runner.iter + 1
        if num_iters % self.interval == 0 or num_iters == runner.max_iters:
            self._save(runner, num_iters)

    def before_stop(self, runner: Any) -> None:
        """Save what was trained since the last checkpoint, when a training is stopped between two of them."""
        if runner.iter and runner.iter != self._last_saved:
            self._save(runner, runner.iter)

    def _save(self, runner: Any, num_iters: int) -> None:
        name = f"iter_{num_iters}.pth"
        runner.save_checkpoint(runner.work_dir, name, num_iters=num_iters)
        self._last_saved = num_iters
        if is_main_process():
            self._publish(Path(runner.work_dir), name)

    def after_val_epoch(self, runner: Any, metrics: Mapping[str, Any] | None = None) -> None:
        """Save ``best.pth`` where the metric is better than ever before."""
        if self._save_best is None or not metrics:
            return
        if self._save_best not in metrics:
            raise ConfigError(f"save_best={self._save_best!r} is none of the metrics {sorted(metrics)}")
        value = self._sign * float(metrics[self._save_best])
        if value > self._best:  # never true for NaN
            self._best = value
            figures = {key: float(value) for key, value in metrics.items() if isinstance(value, int | float)}
            runner.save_checkpoint(runner.work_dir, BEST, num_iters=runner.iter, metrics=figures)
            runner.logger.info(f"best {self._save_best} so far: {metrics[self._save_best]}, kept in best.pth")

    def before_save_checkpoint(self, runner: Any, checkpoint: dict[str, Any]) -> None:
        """Store the best value."""
        checkpoint["hooks"]["checkpoint"] = {"best": self._best, "metric": self._save_best}

    def after_load_checkpoint(self, runner: Any, checkpoint: dict[str, Any]) -> None:
        """Restore the best value on a resume, where it is one of the same metric."""
        kept = checkpoint.get("hooks", {}).get("checkpoint", {})
        if kept and kept.get("metric", self._save_best) == self._save_best:
            self._best = kept["best"]

    def _publish(self, folder: Path, name: str) -> None:
        write_pointer(folder / name)
        for old in numbered_checkpoints(folder)[: -self._max_keep]:
            if old != find_checkpoint(folder):
                old.unlink()

"""CPU time of a process with everything it started, and the hook that reports it."""

import os
import resource
from pathlib import Path
from typing import Any

from mmengine.hooks import Hook

from lumen.registry import HOOKS

_PROC = Path("/proc")


@HOOKS.register_module()
class CpuClockHook(Hook):
    """Reports the user and system CPU seconds of training, with all loader workers.

    Evaluation is counted apart. The clock is logged, kept over restarts, and controls nothing. With several ranks each
    reads its own processes, and rank 0 reports.

    Args:
        interval: Iterations between readings.
    """

    priority = "HIGH"

    def __init__(self, interval: int = 50) -> None:
        self._interval = interval
        self._mark = process_tree_seconds()
        self._seconds = {"train": 0.0, "evaluation": 0.0}

    def before_train(self, runner: Any) -> None:
        """Start."""
        self._mark = process_tree_seconds()

    def after_train_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: dict[str, Any] | None = None
    ) -> None:
        """Read every ``interval`` iterations."""
        if (runner.iter + 1) % self._interval == 0:
            self._read("train")
            runner.message_hub.update_scalar("train/cpu_seconds", self._seconds["train"])

    def before_val(self, runner: Any) -> None:
        """Finish the measurement of training."""
        self._read("train")

    def after_val(self, runner: Any) -> None:
        """Finish the measurement of evaluation."""
        self._read("evaluation")

    def after_train(self, runner: Any) -> None:
        """Report."""
        self._read("train")
        train, evaluation = self._seconds["train"], self._seconds["evaluation"]
        runner.logger.info(f"CPU time: training {train:.1f} s, evaluation {evaluation:.1f} s")

    def before_save_checkpoint(self, runner: Any, checkpoint: dict[str, Any]) -> None:
        """Store the clock."""
        if runner.message_hub.get_info("loop_stage") == "train":
            self._read("train")
        checkpoint["meta"]["cpu_seconds"] = dict(self._seconds)

    def after_load_checkpoint(self, runner: Any, checkpoint: dict[str, Any]) -> None:
        """Continue from the stored clock on a resume."""
        if "hooks" in checkpoint:
            self._seconds = dict(checkpoint["meta"].get("cpu_seconds", self._seconds))

    def _read(self, account: str) -> None:
        now = process_tree_seconds()
        self._seconds[account] += now - self._mark
        self._mark = now


def process_tree_seconds() -> float:
    """Return user plus system CPU time of this process, its ended children, and its running ones (loader workers).

    Running children are read from ``/proc``; where there is none, they count once they have ended.
    """
    ended = sum(
        usage.ru_utime + usage.ru_stime
        for usage in map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    )
    return ended + _living_children_seconds(os.getpid())


def _living_children_seconds(pid: int) -> float:
    processes = {int(path.parent.name): fields for path in _PROC.glob("[0-9]*/stat") if (fields := _stat(path))}
    family = {pid}
    while new := {child for child, (parent, _) in processes.items() if parent in family} - family:
        family |= new
    ticks = sum(processes[child][1] for child in family - {pid})
    return ticks / os.sysconf("SC_CLK_TCK")


def _stat(path: Path) -> tuple[int, int] | None:
    """Return (parent, clock ticks with those of ended children), or None when the process has just ended.

    Source: proc(5). Fields are counted behind the name, which may hold blanks and brackets.
    """
    try:
        fields = path.read_text(errors="replace").rpartition(")")[2].split()
    except OSError:
        return None
    return int(fields[1]), sum(map(int, fields[11:15]))

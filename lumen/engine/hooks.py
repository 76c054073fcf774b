"""Hooks of training: safe checkpoints, freezing, averaged weights, CPU clock.

A hook keeps what it needs for an exact resume in ``checkpoint['hooks'][<its name>]``, as plain data. On a resume
``after_load_checkpoint`` gets the whole checkpoint; when weights alone are loaded it gets no ``hooks``.
"""

import math
from collections.abc import Collection, Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import torch
from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from torch import Tensor, nn

from lumen.checkpoint import TEMPORARY, find_checkpoint, numbered_checkpoints, write_pointer
from lumen.engine.clock import process_tree_seconds
from lumen.errors import ConfigError
from lumen.registry import HOOKS
from lumen.shards import shard_like

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
            for leftover in Path(runner.work_dir).glob(f"{TEMPORARY}*"):
                leftover.unlink()

    def after_train_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: dict[str, Any] | None = None
    ) -> None:
        """Save where the interval says so, and after the last iteration."""
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
        """Take the best value back on a resume."""
        if "hooks" in checkpoint:
            self._best = checkpoint["hooks"]["checkpoint"]["best"]

    def _publish(self, folder: Path, name: str) -> None:
        write_pointer(folder / name)
        for old in numbered_checkpoints(folder)[: -self._max_keep]:
            if old != find_checkpoint(folder):
                old.unlink()


@HOOKS.register_module()
class FreezeHook(Hook):
    """Freezes parameters by name, before the model is wrapped and the optimizer is built.

    Modules that are frozen as a whole stay in evaluation mode, so that dropout and running statistics rest as well.

    Args:
        freeze: Glob patterns of parameter names; ``*`` matches dots too, as in ``adapter.*``.
        trainable: Patterns of exceptions, which stay as they are.
    """

    def __init__(self, freeze: Sequence[str], trainable: Sequence[str] = ()) -> None:
        self._freeze = tuple(freeze)
        self._trainable = tuple(trainable)

    def after_build_model(self, runner: Any) -> None:
        """Freeze, and log how many parameters of each part are trained."""
        freeze_parameters(runner.model, self._freeze, self._trainable)
        runner.logger.info(parameter_table(runner.model))

    def before_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None) -> None:
        """Put frozen modules back into evaluation mode; the loop has just set everything to training."""
        rest_frozen_modules(runner.model)


def freeze_parameters(model: nn.Module, patterns: Collection[str], trainable: Collection[str] = ()) -> None:
    """Switch off the gradient of parameters whose name matches one of ``patterns`` and none of ``trainable``.

    Raises:
        ConfigError: A pattern matches no parameter.
    """
    names = [name for name, _ in model.named_parameters()]
    idle = [p for p in (*patterns, *trainable) if not any(fnmatchcase(name, p) for name in names)]
    if idle:
        parts = sorted({name.split(".")[0] + ".*" for name in names})
        raise ConfigError(f"patterns {idle} match no parameter; the model has {parts}")
    for name, parameter in model.named_parameters():
        matches = any(fnmatchcase(name, pattern) for pattern in patterns)
        if matches and not any(fnmatchcase(name, pattern) for pattern in trainable):
            parameter.requires_grad_(False)


def rest_frozen_modules(model: nn.Module) -> None:
    """Set the modules whose parameters are all frozen to evaluation mode; modules without parameters stay."""
    flags = [parameter.requires_grad for parameter in model.parameters()]
    if flags and not any(flags):
        model.eval()
        return
    for child in model.children():
        rest_frozen_modules(child)


def parameter_table(model: nn.Module) -> str:
    """Return a table of trained and frozen parameters for each part of the model."""
    rows = [f"{'part':<24}{'trained':>16}{'frozen':>16}"]
    for part, module in [*model.named_children(), ("total", model)]:
        counts = {True: 0, False: 0}
        for parameter in module.parameters():
            counts[parameter.requires_grad] += parameter.numel()
        rows.append(f"{part:<24}{counts[True]:>16,}{counts[False]:>16,}")
    return "parameters\n" + "\n".join(rows)


@HOOKS.register_module()
class EmaHook(Hook):
    """Keeps an exponential moving average of trained parameters and floating buffers; evaluation uses it.

    The decay after n steps is min(decay, (1 + n) / (10 + n)), so that the first, random weights are soon forgotten
    (as in TensorFlow's ExponentialMovingAverage). Checkpoints hold the average as ``state_dict`` and the weights that
    training goes on with as ``raw_state_dict``.

    Args:
        decay: Share of the old average that stays in one step, in the long run.
    """

    priority = "NORMAL"

    def __init__(self, decay: float = 0.999) -> None:
        if not 0.0 < decay < 1.0:
            raise ConfigError(f"decay must lie between 0 and 1, got {decay}")
        self._decay = decay
        self._num_updates = 0
        self._average: dict[str, Tensor] = {}

    def before_train(self, runner: Any) -> None:
        """Start from the weights of the model, unless a resume has set the average."""
        if not self._average:
            self._average = {name: tensor.clone() for name, tensor in _averaged(runner.model).items()}

    @torch.no_grad()
    def after_train_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: dict[str, Any] | None = None
    ) -> None:
        """Move the average towards the weights."""
        self._num_updates += 1
        decay = min(self._decay, (1 + self._num_updates) / (10 + self._num_updates))
        for name, tensor in _averaged(runner.model).items():
            self._average[name].lerp_(tensor, 1.0 - decay)

    def before_val_epoch(self, runner: Any) -> None:
        """Put the average into the model."""
        self._swap(runner.model)

    def after_val_epoch(self, runner: Any, metrics: Mapping[str, Any] | None = None) -> None:
        """Put the weights of training back."""
        self._swap(runner.model)

    def before_test_epoch(self, runner: Any) -> None:
        """Put the average into the model."""
        self._swap(runner.model)

    def after_test_epoch(self, runner: Any, metrics: Mapping[str, Any] | None = None) -> None:
        """Put the weights of training back."""
        self._swap(runner.model)

    def before_save_checkpoint(self, runner: Any, checkpoint: dict[str, Any]) -> None:
        """Store the average as what users load."""
        raw = checkpoint["state_dict"]
        checkpoint["raw_state_dict"] = raw
        checkpoint["state_dict"] = {name: self._average.get(name, tensor) for name, tensor in raw.items()}
        checkpoint["hooks"]["ema"] = {"num_updates": self._num_updates}

    def after_load_checkpoint(self, runner: Any, checkpoint: dict[str, Any]) -> None:
        """Take the average back on a resume; without a stored one it starts from the loaded weights."""
        if "raw_state_dict" in checkpoint:
            self._num_updates = checkpoint["hooks"]["ema"]["num_updates"]
            own = _averaged(runner.model)
            stored = checkpoint["state_dict"]
            self._average = {
                name: shard_like(stored[name].to(tensor.device, tensor.dtype, copy=True), tensor)
                for name, tensor in own.items()
            }

    @torch.no_grad()
    def _swap(self, model: nn.Module) -> None:
        for name, tensor in _averaged(model).items():
            if name in self._average:
                kept = tensor.clone()
                tensor.copy_(self._average[name])
                self._average[name].copy_(kept)


def _averaged(model: nn.Module) -> dict[str, Tensor]:
    """Return trained parameters and floating buffers that checkpoints hold, by name; they share memory."""
    inner = model.module if is_model_wrapper(model) else model
    trained = {name for name, parameter in inner.named_parameters(remove_duplicate=False) if parameter.requires_grad}
    living = trained | {name for name, _ in inner.named_buffers(remove_duplicate=False)}
    state = inner.state_dict()
    return {name: tensor for name, tensor in state.items() if name in living and tensor.is_floating_point()}


@HOOKS.register_module()
class CpuClockHook(Hook):
    """Reports the CPU time of training, with all loader workers, divided by the cores of the reference machine.

    Evaluation is counted apart. The clock is logged, kept over restarts, and steers nothing. With several ranks each
    reads its own processes, and rank 0 reports.

    Args:
        interval: Iterations between readings.
        cores: The reading is CPU seconds divided by this.
    """

    priority = "HIGH"

    def __init__(self, interval: int = 50, cores: int = 2) -> None:
        self._interval = interval
        self._cores = cores
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
            runner.message_hub.update_scalar(f"train/clock_{self._cores}cs", self._seconds["train"])

    def before_val(self, runner: Any) -> None:
        """Close the account of training."""
        self._read("train")

    def after_val(self, runner: Any) -> None:
        """Close the account of evaluation."""
        self._read("evaluation")

    def after_train(self, runner: Any) -> None:
        """Report."""
        self._read("train")
        train, evaluation = self._seconds["train"], self._seconds["evaluation"]
        runner.logger.info(f"clock_{self._cores}cs: training {train:.1f} s, evaluation {evaluation:.1f} s")

    def before_save_checkpoint(self, runner: Any, checkpoint: dict[str, Any]) -> None:
        """Store the clock."""
        if runner.message_hub.get_info("loop_stage") == "train":
            self._read("train")
        checkpoint["meta"][f"clock_{self._cores}cs"] = dict(self._seconds)

    def after_load_checkpoint(self, runner: Any, checkpoint: dict[str, Any]) -> None:
        """Go on from the stored clock on a resume."""
        if "hooks" in checkpoint:
            self._seconds = dict(checkpoint["meta"].get(f"clock_{self._cores}cs", self._seconds))

    def _read(self, account: str) -> None:
        now = process_tree_seconds()
        self._seconds[account] += (now - self._mark) / self._cores
        self._mark = now

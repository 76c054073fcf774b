"""Averaged weights."""

from collections.abc import Mapping
from typing import Any

import torch
from mmengine.hooks import Hook
from torch import Tensor, nn

from lumen.engine.ddp import unwrapped
from lumen.errors import ConfigError
from lumen.registry import HOOKS
from lumen.serialization.checkpoint import refuse_not_finite
from lumen.serialization.sharding import shard_like


@HOOKS.register_module()
class EmaHook(Hook):
    """Keeps an exponential moving average of trained parameters and floating buffers; evaluation uses it.

    The average is float32 whatever the precision of the weights: steps of a share of 1 - ``decay`` would be rounded
    away in bfloat16.

    The decay after n steps is min(decay, (1 + n) / (10 + n)), so that the first, random weights are soon forgotten
    (as in TensorFlow's ExponentialMovingAverage). Checkpoints hold the average as ``state_dict`` and the weights that
    training continues with as ``raw_state_dict``.

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
        self._kept: dict[str, Tensor] = {}

    def before_train(self, runner: Any) -> None:
        """Start from the weights of the model, unless a resume has set the average."""
        if not self._average:
            self._average = {name: tensor.float().clone() for name, tensor in _averaged(runner.model).items()}

    @torch.no_grad()
    def after_train_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: dict[str, Any] | None = None
    ) -> None:
        """Move the average towards the weights."""
        self._num_updates += 1
        decay = min(self._decay, (1 + self._num_updates) / (10 + self._num_updates))
        for name, tensor in _averaged(runner.model).items():
            self._average[name].lerp_(tensor.float(), 1.0 - decay)

    def before_val_epoch(self, runner: Any) -> None:
        """Put the average into the model."""
        self._put(runner.model)

    def after_val_epoch(self, runner: Any, metrics: Mapping[str, Any] | None = None) -> None:
        """Put the weights of training back."""
        self._put_back(runner.model)

    def before_test_epoch(self, runner: Any) -> None:
        """Put the average into the model."""
        self._put(runner.model)

    def after_test_epoch(self, runner: Any, metrics: Mapping[str, Any] | None = None) -> None:
        """Put the weights of training back."""
        self._put_back(runner.model)

    def before_save_checkpoint(self, runner: Any, checkpoint: dict[str, Any]) -> None:
        """Store the average as what users load."""
        # A run that is stopped amid an evaluation has it in the model; the tensors of the checkpoint share its memory.
        self._put_back(runner.model)
        raw = checkpoint["state_dict"]
        checkpoint["raw_state_dict"] = raw
        checkpoint["state_dict"] = {name: self._average.get(name, tensor) for name, tensor in raw.items()}
        checkpoint["hooks"]["ema"] = {"num_updates": self._num_updates}

    def after_load_checkpoint(self, runner: Any, checkpoint: dict[str, Any]) -> None:
        """Restore the average on a resume; without a stored one it starts from the loaded weights.

        Raises:
            CheckpointError: The average is not finite: it would never be so again.
        """
        if "raw_state_dict" in checkpoint:
            self._num_updates = checkpoint["hooks"]["ema"]["num_updates"]
            averaged = _averaged(runner.model)
            stored = checkpoint["state_dict"]
            self._average = {
                name: shard_like(stored[name].to(tensor.device, torch.float32, copy=True), tensor.float())
                for name, tensor in averaged.items()
            }
            refuse_not_finite(self._average, averaged)

    @torch.no_grad()
    def _put(self, model: nn.Module) -> None:
        for name, tensor in _averaged(model).items():
            if name in self._average:
                self._kept[name] = tensor.clone()
                tensor.copy_(self._average[name])

    @torch.no_grad()
    def _put_back(self, model: nn.Module) -> None:
        for name, tensor in _averaged(model).items():
            if name in self._kept:
                tensor.copy_(self._kept.pop(name))


def _averaged(model: nn.Module) -> dict[str, Tensor]:
    """Return trained parameters and floating buffers that checkpoints hold, by name; they share memory."""
    inner = unwrapped(model)
    trained = {name for name, parameter in inner.named_parameters(remove_duplicate=False) if parameter.requires_grad}
    living = trained | {name for name, _ in inner.named_buffers(remove_duplicate=False)}
    state = inner.state_dict()
    return {name: tensor for name, tensor in state.items() if name in living and tensor.is_floating_point()}

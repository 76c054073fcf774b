"""Numbers that must stay finite: what a step reads and writes, checked at once, and buffers that can be put back."""

import torch
from torch import Tensor, nn

from lumen.ops.finite import is_finite, local_part


class StepGuard:
    """Watches over weights, optimizer state and buffers of a model that is trained.

    A forward pass writes into buffers, such as the statistics of batch normalisation, before it is known whether its
    step counts. ``keep`` copies them and ``put_back`` undoes the pass.

    Args:
        optimizer: The optimizer, whose parameters and state are watched.
    """

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        self._optimizer = optimizer
        self._buffers: list[Tensor] | None = None
        self._kept: list[Tensor] = []
        self._watched: list[Tensor] = []

    @torch.no_grad()
    def keep(self, model: nn.Module) -> None:
        """Copy the buffers of the model."""
        if self._buffers is None:
            self._buffers = [local_part(buffer) for buffer in model.buffers() if buffer.numel()]
            self._kept = [buffer.clone() for buffer in self._buffers]
            # A mask may hold infinities on purpose: only what was finite must stay so.
            self._watched = [buffer for buffer in self._buffers if is_finite([buffer])]
        elif self._buffers:
            torch._foreach_copy_(self._kept, self._buffers)

    @torch.no_grad()
    def put_back(self) -> None:
        """Give the buffers the values that they had at the last ``keep``."""
        if self._buffers:
            torch._foreach_copy_(self._buffers, self._kept)

    def buffers_are_finite(self) -> bool:
        """Return whether the buffers are finite, apart from those that never were."""
        return is_finite(self._watched)

    def state_is_finite(self) -> bool:
        """Return whether the trained weights and the optimizer's state are finite on this rank."""
        weights = [parameter for group in self._optimizer.param_groups for parameter in group["params"]]
        state = [value for entry in self._optimizer.state.values() for value in entry.values()]
        return is_finite([*weights, *(value for value in state if isinstance(value, Tensor))])

"""Muon for matrices and convolution kernels, AdamW for everything else, as one optimizer."""

from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.adamw import adamw

from lumen.serialization.sharding import shard_like, whole

_STEPS = 5
_COEFFICIENTS = (3.4445, -4.7750, 2.0315)


class MuonAdamW(Optimizer):
    """Step groups with ``muon=True`` along orthogonalised momentum, all others by AdamW.

    ``torch.optim.Muon`` takes matrices only and one at a time; this one flattens convolution kernels to matrices and
    treats equal shapes together.

    Args:
        params: Parameter groups; a group may hold ``muon``, and any of the settings below.
        lr: Learning rate of AdamW.
        muon_lr: Learning rate of Muon where a group names no ``lr``; roughly the size of a step in spectral norm.
        betas: AdamW's.
        eps: AdamW's.
        weight_decay: AdamW's decay, times ``lr`` per step.
        momentum: Muon's (Nesterov).
        muon_weight_decay: Muon's decay, times its learning rate per step.

    Source:
        Jordan et al., "Muon: an optimizer for hidden layers in neural networks" (2024); the quintic Newton-Schulz
        coefficients are from there.
    """

    def __init__(
        self,
        params: Iterable[dict[str, Any]],
        lr: float = 3e-3,
        *,
        muon_lr: float = 0.02,
        betas: tuple[float, float] = (0.9, 0.98),
        eps: float = 1e-8,
        weight_decay: float = 0.05,
        momentum: float = 0.95,
        muon_weight_decay: float = 0.01,
    ) -> None:
        groups = []
        for group in params:
            if group.get("muon"):
                # A factor of the constructor on AdamW's rate holds for Muon's rate in the same way.
                factor = group.get("lr", lr) / lr if lr else 1.0
                group = {**group, "lr": muon_lr * factor, "weight_decay": muon_weight_decay}
            groups.append(group)
        defaults = {
            "lr": lr,
            "betas": tuple(betas),
            "eps": eps,
            "weight_decay": weight_decay,
            "momentum": momentum,
            "muon": False,
        }
        super().__init__(groups, defaults)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """Do one step."""
        value = None
        if closure is not None:
            with torch.enable_grad():
                value = closure()
        for group in self.param_groups:
            params = [param for param in group["params"] if param.grad is not None]
            if params:
                (self._step_muon if group["muon"] else self._step_adamw)(group, params)
        return value

    def _step_muon(self, group: dict[str, Any], params: list[Tensor]) -> None:
        by_shape: dict[tuple[int, ...], list[tuple[Tensor, Tensor]]] = defaultdict(list)
        for param in params:
            state = self.state[param]
            if not state:
                state["momentum"] = torch.zeros_like(param)
            # An average of gradients, not a sum: its size does not depend on `momentum`.
            state["momentum"].lerp_(param.grad, 1 - group["momentum"])
            # Nesterov: the gradient once more on top. A sharded matrix is gathered, since its spectrum needs all of it.
            direction = whole(param.grad.lerp(state["momentum"], group["momentum"])).flatten(1)
            by_shape[tuple(direction.shape)].append((param, direction))
        # Matrices of one shape are orthogonalised in one batch of products.
        for (rows, cols), items in by_shape.items():
            steps = orthogonalise(torch.stack([direction for _, direction in items]))
            for (param, _), direction in zip(items, steps.to(items[0][0].dtype), strict=True):
                # Decay apart from the step, as in AdamW.
                param.mul_(1 - group["lr"] * group["weight_decay"])
                step = shard_like(direction.view(param.shape), param)
                # Matrices with more outputs than inputs take longer steps, as in Muon.
                param.add_(step, alpha=-group["lr"] * max(1.0, rows / cols) ** 0.5)

    def _step_adamw(self, group: dict[str, Any], params: list[Tensor]) -> None:
        for param in params:
            if not self.state[param]:
                # The states that torch's own AdamW keeps, by the same names.
                self.state[param] = {
                    "step": torch.zeros((), dtype=torch.float32, device=param.device),
                    "exp_avg": torch.zeros_like(param),
                    "exp_avg_sq": torch.zeros_like(param),
                }
        states = [self.state[param] for param in params]
        adamw(
            params,
            [param.grad for param in params],
            [state["exp_avg"] for state in states],
            [state["exp_avg_sq"] for state in states],
            [],
            [state["step"] for state in states],
            fused=True,
            amsgrad=False,
            beta1=group["betas"][0],
            beta2=group["betas"][1],
            lr=group["lr"],
            weight_decay=group["weight_decay"],
            eps=group["eps"],
            maximize=False,
        )


def orthogonalise(matrices: Tensor) -> Tensor:
    """Return matrices (n, rows, cols) with their singular values moved near 1, in bfloat16.

    Source: the quintic Newton-Schulz iteration of Muon.
    """
    a, b, c = _COEFFICIENTS
    x = matrices.bfloat16()
    is_tall = x.shape[-2] > x.shape[-1]
    # The smaller side squared is the size of the products.
    if is_tall:
        x = x.mT
    # The Frobenius norm bounds the largest singular value, so all of them start at or below 1.
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(_STEPS):
        # A polynomial of odd degree moves each singular value near 1 and leaves the singular vectors.
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.mT if is_tall else x

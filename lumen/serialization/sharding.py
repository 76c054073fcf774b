"""Tensors that are sharded over several ranks (FSDP2): gathered for a file, sharded again after reading one.

A tensor that is not sharded passes unchanged, so callers need no special case.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor, distribute_tensor


def whole(tensor: Tensor) -> Tensor:
    """Return the full tensor; every rank has to call it."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def shard_like(tensor: Tensor, pattern: Tensor) -> Tensor:
    """Return this rank's shard of a tensor that every rank holds in full, sharded as ``pattern`` is."""
    if not isinstance(pattern, DTensor):
        return tensor
    # Every rank cuts its shard from its own copy: no communication is needed.
    local = tensor.detach().to(device=pattern.device, dtype=pattern.dtype)
    return distribute_tensor(local, pattern.device_mesh, pattern.placements, src_data_rank=None)


def gather(value: Any, *, keep: bool) -> Any:
    """Return nested data with whole tensors on the CPU in place of shards; every rank has to call it.

    Args:
        value: Dicts, lists and tuples of anything.
        keep: Whether this rank wants the result; where it does not, empty tensors stand for the shards, so that
            only one tensor at a time is whole there.
    """
    if isinstance(value, DTensor):
        # A collective call: ranks that drop the result must make it too.
        tensor = value.detach().full_tensor()
        return tensor.cpu() if keep else torch.empty(0)
    if isinstance(value, Mapping):
        return {key: gather(entry, keep=keep) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [gather(entry, keep=keep) for entry in value]
    return value


def shard_optimizer_state(optimizer: torch.optim.Optimizer, state: Mapping[str, Any]) -> dict[str, Any]:
    """Return an optimizer's ``state_dict`` of whole tensors, cut as the parameters that they belong to are."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]

    # Of an optimizer's state, only what has the shape of its parameter is sharded: moments, not numbers of steps.
    def cut(number: int, entry: Any) -> Any:
        belongs = isinstance(entry, Tensor) and entry.shape == parameters[number].shape
        return shard_like(entry, parameters[number]) if belongs else entry

    entries = {
        number: {key: cut(int(number), entry) for key, entry in values.items()}
        for number, values in state["state"].items()
    }
    return {**state, "state": entries}

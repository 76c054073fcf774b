"""Numbers that must be finite."""

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor


@torch.no_grad()
def is_finite(tensors: Iterable[Tensor]) -> bool:
    """Return whether all floating-point tensors are finite; of a sharded one, the shard of this rank.

    Tensors of 8 bits, such as quantized weights, and those without memory are not looked at.
    """
    groups: dict[tuple[torch.device, torch.dtype], list[Tensor]] = {}
    for tensor in map(local_part, tensors):
        if tensor.is_floating_point() and tensor.dtype.itemsize > 1 and tensor.numel() and not tensor.is_meta:
            groups.setdefault((tensor.device, tensor.dtype), []).append(tensor.detach())
    for group in groups.values():
        # Norms of all tensors take few calls; large values may overflow, so those are looked at again.
        norms = torch.stack(torch._foreach_norm(group))
        if not norms.isfinite().all() and not all(bool(tensor.isfinite().all()) for tensor in group):
            return False
    return True


def names_not_finite(tensors: Mapping[str, Tensor]) -> list[str]:
    """Return the names of the tensors that are not finite; see ``is_finite``."""
    # All at once first: the usual answer takes few calls.
    return [] if is_finite(tensors.values()) else [name for name, each in tensors.items() if not is_finite([each])]


def local_part(tensor: Tensor) -> Tensor:
    """Return the shard of this rank where a tensor is sharded, else the tensor."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor

"""Where numbers must not be rounded to bfloat16."""

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor


def without_autocast(tensor: Tensor) -> AbstractContextManager:
    """Return a context in which operations on the device of ``tensor`` keep the dtypes that they are given."""
    device = tensor.device.type
    if torch.amp.is_autocast_available(device):
        return torch.autocast(device, enabled=False)
    return nullcontext()  # there is no autocast to switch off, such as on the meta device

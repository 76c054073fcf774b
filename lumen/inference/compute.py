"""Where and in which precision a predictor computes."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from lumen.errors import ConfigError

DTYPES = (torch.float32, torch.bfloat16)


def choose_device(device: torch.device | str | None, dtype: torch.dtype | None) -> tuple[torch.device, torch.dtype]:
    """Return device and precision: the first GPU where there is one, and bfloat16 on a GPU, where they are left out."""
    device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    return device, dtype or (torch.bfloat16 if device.type == "cuda" else torch.float32)


@contextmanager
def inference_context(device: torch.device, dtype: torch.dtype) -> Iterator[None]:
    """Compute without gradients; in bfloat16 by autocast if asked, so that scores and boxes stay float32."""
    is_bfloat16 = dtype == torch.bfloat16
    with torch.inference_mode(), torch.autocast(device.type, torch.bfloat16, enabled=is_bfloat16):
        yield


def require_batch(batch_size: int) -> None:
    """Raise ConfigError unless a batch holds at least one image."""
    if batch_size < 1:
        raise ConfigError(f"batch_size must be at least 1, got {batch_size}")

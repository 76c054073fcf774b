"""Precision of what is trained: float32 copies of the trained weights of a base model that is kept in fewer bits."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from lumen.errors import ConfigError

NARROW = (torch.bfloat16, torch.float16)


def widen_trained(model: nn.Module) -> list[str]:
    """Cast trained parameters of 16 bits to float32 in place, and return their names.

    A step of AdamW changes a weight by about its learning rate, which bfloat16 mostly rounds away: it has 8 bits of
    precision. Frozen parameters keep their precision. Buffers beside a trained parameter are cast with it: batch
    normalisation takes no running statistics of another precision than its weights.
    """
    names = [name for name, each in model.named_parameters() if each.requires_grad and each.dtype in NARROW]
    trained = {id(model.get_parameter(name)) for name in names}
    for module in model.modules():
        chosen = [each for each in module.parameters(recurse=False) if id(each) in trained]
        for tensor in (*chosen, *(module.buffers(recurse=False) if chosen else ())):
            if tensor.dtype in NARROW:
                # The same Parameter, so that ties and hooks on it stay; the optimizer is built afterwards.
                tensor.data = tensor.data.float()
    return names


def is_mixed(model: nn.Module) -> bool:
    """Return whether a model holds weights of 16 bits."""
    return any(parameter.dtype in NARROW for parameter in model.parameters())


def check_autocast(widened: Sequence[str], settings: Mapping[str, Any]) -> None:
    """Refuse to compute in float32 where trained float32 weights stand among frozen ones of 16 bits.

    Args:
        widened: Names of the weights that were cast to float32.
        settings: The dicts of a config that may hold a ``dtype``, by their names; others are ignored.

    Raises:
        ConfigError: A ``dtype`` is not ``bfloat16``.
    """
    for place, setting in settings.items():
        # A loop that is built already has its own precision and is not looked at.
        if isinstance(setting, Mapping) and setting.get("dtype", "float32") != "bfloat16":
            raise ConfigError(
                f"{place}.dtype must be 'bfloat16': {widened[0]} and {len(widened) - 1} more weights are trained in "
                "float32 beside frozen ones of 16 bits, which only mixed precision computes together. Or load the base "
                "model with base=dict(dtype='float32')"
            )

"""Low-rank adapters on the LLM of an LMM, by peft."""

import importlib.util
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from lumen.errors import ConfigError

_FIELDS = {"r": 8, "alpha": 16, "dropout": 0.05, "targets": ("q_proj", "v_proj")}


def add_lora(llm: nn.Module, fields: Mapping[str, Any]) -> None:
    """Put low-rank adapters beside linear layers of ``llm`` and freeze all else in it.

    The adapters are float32, whatever the precision of the base.

    Args:
        llm: The LLM; changed in place.
        fields: ``r``, ``alpha``, ``dropout`` and ``targets``, the names of the linear layers.

    Raises:
        ConfigError: If a field is unknown, no layer has such a name, or peft is missing.
    """
    unknown = sorted(set(fields) - set(_FIELDS))
    if unknown:
        raise ConfigError(f"lora takes {sorted(_FIELDS)}, got {unknown}")
    if importlib.util.find_spec("peft") is None:
        raise ConfigError("lora needs peft: pip install 'lumen-perception[lora]', or leave lora out")
    from peft import LoraConfig, inject_adapter_in_model

    wanted = _FIELDS | dict(fields)
    targets = list(wanted["targets"])
    idle = [name for name in targets if not any(path.split(".")[-1] == name for path, _ in llm.named_modules())]
    if idle:
        raise ConfigError(f"lora.targets {idle} match no layer of {type(llm).__name__}")
    config = LoraConfig(
        r=wanted["r"], lora_alpha=wanted["alpha"], lora_dropout=wanted["dropout"], target_modules=targets
    )
    inject_adapter_in_model(config, llm)
    for parameter in llm.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.to(torch.float32)


def merge_lora(llm: nn.Module) -> None:
    """Add the low-rank adapters to the layers they stand beside, and take them away."""
    from peft.tuners.lora import LoraLayer

    for name, part in list(llm.named_modules()):
        if isinstance(part, LoraLayer):
            part.merge(safe_merge=True)
            llm.set_submodule(name, part.get_base_layer())
    del llm.peft_config

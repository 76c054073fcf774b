"""The base model of an adapter: how it is loaded, in which precision, with which low-rank adapters."""

import importlib.util
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForImageTextToText, BitsAndBytesConfig, PretrainedConfig, PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

from lumen.errors import CheckpointError, ConfigError

DTYPES = ("float32", "bfloat16", "float16")


def read_config(path: str, attention: str | None) -> PretrainedConfig:
    """Return the config of a base model.

    Raises:
        CheckpointError: If there is no model of that name.
    """
    try:
        return AutoConfig.from_pretrained(path, attn_implementation=attention)
    except OSError as error:
        raise CheckpointError(
            f"the base model {path!r} cannot be read: {str(error).strip().splitlines()[0]} Put it where name_or_path "
            "says, or change name_or_path; data/nano is made by tools/make_nano.py"
        ) from error


def load_base(
    path: str,
    *,
    attention: str | None,
    dtype: str | None,
    quantization: Mapping[str, Any] | None,
    device_map: str | Mapping[str, str | int] | None,
) -> PreTrainedModel:
    """Load an LMM.

    Args:
        path: Folder or model id.
        attention: transformers' attention implementation.
        dtype: One of ``DTYPES``, or None for that of the saved weights.
        quantization: Fields of ``BitsAndBytesConfig``, or None.
        device_map: As accelerate takes it, or None.

    Raises:
        ConfigError: If an option has no such value, or bitsandbytes or accelerate is missing.
    """
    if dtype is not None and dtype not in DTYPES:
        raise ConfigError(f"base_dtype must be one of {DTYPES}, got {dtype!r}")
    if device_map is not None:
        _require("accelerate", "device_map")
    return AutoModelForImageTextToText.from_pretrained(
        path,
        attn_implementation=attention,
        dtype="auto" if dtype is None else getattr(torch, dtype),
        quantization_config=None if quantization is None else quantization_config(quantization),
        device_map=device_map,
    )


def quantization_config(fields: Mapping[str, Any]) -> BitsAndBytesConfig:
    """Return the config of a base in 4 or 8 bits.

    Raises:
        ConfigError: If a field is unknown or says neither 4 nor 8 bits, or bitsandbytes is missing.
    """
    unknown = sorted(set(fields) - set(BitsAndBytesConfig().to_dict()))
    if unknown:
        raise ConfigError(f"quantization takes the fields of BitsAndBytesConfig, got {unknown}")
    if not (fields.get("load_in_4bit") or fields.get("load_in_8bit")):
        raise ConfigError(f"quantization needs load_in_4bit=True or load_in_8bit=True, got {dict(fields)}")
    _require("bitsandbytes", "quantization")
    return BitsAndBytesConfig(**fields)


def transformer_layers(lmm: PreTrainedModel) -> list[GradientCheckpointingLayer]:
    """Return the transformer layers of the LLM and the vision tower: what recomputing and sharding keep together."""
    return [part for part in lmm.modules() if isinstance(part, GradientCheckpointingLayer)]


def recompute(lmm: PreTrainedModel) -> None:
    """Let the layers compute their activations again in the backward pass instead of keeping them.

    Raises:
        ConfigError: If the model does not support it.
    """
    if not lmm.supports_gradient_checkpointing:
        raise ConfigError(f"{lmm.config.model_type!r} has no gradient checkpointing: leave gradient_checkpointing out")
    lmm.activation_checkpointing_enable(activation_checkpointing_kwargs={"use_reentrant": False})


def recompute_frozen(lmm: PreTrainedModel) -> None:
    """Let layers in evaluation mode recompute as well: gradients may pass a frozen layer on their way.

    transformers recomputes in training mode only. Just the flag of the layer itself is set, so dropout within rests.
    """
    for layer in transformer_layers(lmm):
        layer.training = True


def widened(states: Tensor) -> Tensor:
    """Return states in float32, for what comes after an LMM with narrow weights; autocast goes its own way."""
    return states if torch.is_autocast_enabled(states.device.type) else states.float()


def _require(library: str, option: str) -> None:
    if importlib.util.find_spec(library) is None:
        raise ConfigError(f"{option} needs {library}: pip install {library}, or leave {option} out")


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

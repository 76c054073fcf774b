"""The base model of an adapter: how it is loaded, in which precision, with which low-rank adapters."""

import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModelForImageTextToText,
    BitsAndBytesConfig,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.modeling_layers import GradientCheckpointingLayer

from lumen.errors import CheckpointError, ConfigError
from lumen.lmm.options import BaseOptions
from lumen.lmm.tokens.phrases import ImageStatistics, load_statistics, load_tokenizer

_FORM = ("dtype", "attention", "quantization", "device_map")


@dataclass(frozen=True, slots=True)
class LoadedBase:
    """A base model with what belongs to it, loaded from a folder or built by the caller.

    Args:
        model: The LMM.
        tokenizer: Its tokenizer, with a chat template.
        statistics: How it normalises pixels.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    statistics: ImageStatistics


def check_source(name_or_path: str | None, base_model: LoadedBase | None, options: BaseOptions) -> None:
    """Raise ConfigError unless a base model is either to be loaded, or built and not to be loaded in another form."""
    if (name_or_path is None) == (base_model is None):
        raise ConfigError(f"give either name_or_path or base_model, got name_or_path={name_or_path!r}")
    chosen = [name for name in _FORM if getattr(options, name) is not None]
    if base_model is not None and chosen:
        raise ConfigError(f"base_model is built already, but base gives {chosen}, which choose how weights are loaded")


def read_config(path: str, attention: str | None) -> PretrainedConfig:
    """Return the config of a base model.

    Raises:
        CheckpointError: If there is no model of that name.
    """
    try:
        return AutoConfig.from_pretrained(path, attn_implementation=attention)
    except OSError as error:
        raise CheckpointError(
            f"the base model {path!r} cannot be read: {str(error).strip().splitlines()[0]} Put it there, or change "
            "name_or_path; data/nano is made by tools/make_nano.py"
        ) from error


def load_base(path: str, options: BaseOptions, *, chat_template: str | None = None) -> LoadedBase:
    """Load an LMM with its tokenizer and the statistics of its image processor.

    Args:
        path: Folder or model id.
        options: In which form.
        chat_template: Used where the model brings none.

    Raises:
        ConfigError: If an option is not accepted, or bitsandbytes or accelerate is missing.
    """
    if options.device_map is not None:
        _require("accelerate", "device_map")
    model = AutoModelForImageTextToText.from_pretrained(
        path,
        attn_implementation=options.attention,
        dtype="auto" if options.dtype is None else getattr(torch, options.dtype),
        quantization_config=None if options.quantization is None else quantization_config(options.quantization),
        device_map=options.device_map,
    )
    return LoadedBase(model, load_tokenizer(path, chat_template=chat_template), load_statistics(path))


def quantization_config(fields: Mapping[str, Any]) -> BitsAndBytesConfig:
    """Return the config of a base in 4 or 8 bits.

    Raises:
        ConfigError: If a field is unknown, neither 4 nor 8 bits are chosen, or bitsandbytes is missing.
    """
    unknown = sorted(set(fields) - set(BitsAndBytesConfig().to_dict()))
    if unknown:
        raise ConfigError(f"quantization takes the fields of BitsAndBytesConfig, got {unknown}")
    if not (fields.get("load_in_4bit") or fields.get("load_in_8bit")):
        raise ConfigError(f"quantization needs load_in_4bit=True or load_in_8bit=True, got {dict(fields)}")
    _require("bitsandbytes", "quantization")
    return BitsAndBytesConfig(**fields)


def transformer_layers(base_model: PreTrainedModel) -> list[GradientCheckpointingLayer]:
    """Return the transformer layers of the LLM and the vision tower: what recomputing and sharding keep together."""
    return [module for module in base_model.modules() if isinstance(module, GradientCheckpointingLayer)]


def prepare_training(base_model: PreTrainedModel, options: BaseOptions) -> None:
    """Add low-rank adapters and let layers be computed again, where the options ask for it.

    Raises:
        ConfigError: See ``add_lora`` and ``recompute``.
    """
    if options.lora:
        add_lora(base_model.get_decoder(), options.lora)
    if options.gradient_checkpointing:
        recompute(base_model)


def recompute(base_model: PreTrainedModel) -> None:
    """Let the layers compute their activations again in the backward pass instead of keeping them.

    Raises:
        ConfigError: If the model does not support it.
    """
    if not base_model.supports_gradient_checkpointing:
        raise ConfigError(
            f"{base_model.config.model_type!r} has no gradient checkpointing: leave gradient_checkpointing out"
        )
    base_model.activation_checkpointing_enable(activation_checkpointing_kwargs={"use_reentrant": False})


def recompute_frozen(base_model: PreTrainedModel) -> None:
    """Let layers in evaluation mode recompute as well: gradients may pass a frozen layer on their way.

    transformers recomputes in training mode only. Only the flag of the layer itself is set: dropout in it stays off.
    """
    for layer in transformer_layers(base_model):
        layer.training = True


def widened(states: Tensor) -> Tensor:
    """Return states in float32, for what comes after an LMM with narrow weights; as they are under autocast."""
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

    for name, module in list(llm.named_modules()):
        if isinstance(module, LoraLayer):
            module.merge(safe_merge=True)
            llm.set_submodule(name, module.get_base_layer())
    del llm.peft_config

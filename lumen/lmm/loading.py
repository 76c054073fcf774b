"""The base model of an adapter: how it is loaded, in which precision, with which low-rank adapters."""

import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase
from transformers.modeling_layers import GradientCheckpointingLayer

from lumen.errors import CheckpointError, ConfigError, named_faults
from lumen.lmm.connectors import Connector
from lumen.lmm.connectors.replace import put_connector
from lumen.lmm.families import Family
from lumen.lmm.options import BaseOptions
from lumen.lmm.pixels import ImageStatistics, load_statistics
from lumen.lmm.repository import load_model
from lumen.lmm.tokens.phrases import load_tokenizer

_FORM = ("dtype", "attention", "quantization", "device_map", "chat_template")


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


def load_base(path: str, config: PretrainedConfig, family: Family, options: BaseOptions) -> LoadedBase:
    """Load an LMM with its tokenizer and the statistics of its image processor.

    Args:
        path: Folder or model id.
        config: What ``read_config`` gave.
        family: The family of the LMM.
        options: In which form.

    Raises:
        ConfigError: See ``load_model``, ``load_tokenizer`` and ``load_statistics``.
        CheckpointError: See ``load_model``; also if transformers fails on what a file holds.
    """
    remedy = "fetch the repository again, or name another"
    with named_faults(f"the files of {path!r} hold no model", CheckpointError, remedy=remedy):
        # The small files first: what they lack is found before the weights load.
        tokenizer = load_tokenizer(path, config=config, family=family, chat_template=options.chat_template)
        statistics = load_statistics(path)
        return LoadedBase(load_model(path, config, options), tokenizer, statistics)


def transformer_layers(base_model: PreTrainedModel) -> list[GradientCheckpointingLayer]:
    """Return the transformer layers of the LLM and the vision tower: what recomputing and sharding keep together."""
    return [module for module in base_model.modules() if isinstance(module, GradientCheckpointingLayer)]


def prepare_training(base_model: PreTrainedModel, options: BaseOptions, connector: Connector | None = None) -> None:
    """Put a connector in place, add low-rank adapters and let layers be computed again, where the options ask for it.

    Raises:
        ConfigError: See ``add_lora`` and ``recompute``.
    """
    if connector is not None:
        put_connector(base_model, connector)
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

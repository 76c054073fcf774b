"""A model repository: its config and its weights, loaded as its files describe them or refused with the reason."""

import copy
import importlib.util
import logging
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForImageTextToText, BitsAndBytesConfig, PretrainedConfig, PreTrainedModel
from transformers.quantizers.auto import AUTO_QUANTIZATION_CONFIG_MAPPING
from transformers.utils import find_adapter_config_file

from lumen.errors import CheckpointError, ConfigError, named_faults
from lumen.lmm.options import BaseOptions
from lumen.lmm.packing.plain_attention import PLAIN
from lumen.ops.finite import names_not_finite

KNOWN_ATTENTION = ("eager", PLAIN, "sdpa", "flash_attention_2", "flash_attention_3", "flex_attention")

MAX_LAYERS = 10_000
MAX_NUMBERS_PER_BYTE = 16  # half a bit each: no quantization is as narrow
_SEARCHES = (
    "num_beams",
    "num_beam_groups",
    "num_return_sequences",
    "diversity_penalty",
    "constraints",
    "force_words_ids",
    "penalty_alpha",
    "dola_layers",
    "prompt_lookup_num_tokens",
)

_LOGGER = logging.getLogger(__name__)


def read_config(path: str, attention: str | None) -> PretrainedConfig:
    """Return the config of a base model.

    Args:
        path: Folder or model id.
        attention: transformers' attention implementation. Where a part of the model has no such one, ``eager`` is
            taken in its place and a warning is logged.

    Raises:
        CheckpointError: If there is no model of that name, or its config.json has values that no model can have.
        ConfigError: If transformers itself does not have this kind of model, or lacks what the attention needs; or an
            adapter lies beside the model, see ``refuse_adapter``.
    """
    if attention is not None and "/" in attention:
        raise ConfigError(f"attention must be one of {KNOWN_ATTENTION}, got {attention!r}: no code is fetched for it")
    remedy = "fetch the repository again, or name another"
    with named_faults(f"the config.json of {path!r} describes no model", CheckpointError, remedy=remedy):
        config = _read_config(path, attention)
        _check_depth(config, path)
        config._attn_implementation = _available(config, attention)
    return config


def _check_depth(config: PretrainedConfig, path: str) -> None:
    """Refuse a model of more layers than any has: each is built, in time and memory, before weights are looked at."""
    for name, value in vars(config).items():
        if isinstance(value, PretrainedConfig):
            _check_depth(value, path)
        elif ("layers" in name or "depth" in name) and _most(value) > MAX_LAYERS:
            raise CheckpointError(
                f"the config.json of {path!r} has {name}={_most(value)}, of which {MAX_LAYERS} are the most: fetch the "
                "repository again"
            )


def _most(value: Any) -> int:
    """Return a whole number, or the largest of a list, as of the layers of each stage; 0 for anything else."""
    numbers = value if isinstance(value, list | tuple) else [value]
    return max((number for number in numbers if type(number) is int), default=0)


def _check_amount(config: PretrainedConfig, path: str) -> None:
    """Refuse a model of far more numbers than the files of its folder hold bytes.

    All of its tables would be allocated before weights of another shape are found.
    """
    files = [file for pattern in ("*.safetensors", "*.bin") for file in Path(path).glob(pattern)]
    if not files or type(config) not in AutoModelForImageTextToText._model_mapping:
        return
    with torch.device("meta"):  # without memory
        model = AutoModelForImageTextToText.from_config(copy.deepcopy(config), trust_remote_code=False)
    held, numbers = sum(file.stat().st_size for file in files), sum(one.numel() for one in model.parameters())
    if numbers > MAX_NUMBERS_PER_BYTE * held:
        raise CheckpointError(
            f"the config.json of {path!r} describes a model of {numbers} numbers, its weights have {held} bytes: fetch "
            "the repository again"
        )


def _read_config(path: str, attention: str | None) -> PretrainedConfig:
    refuse_adapter(path)
    try:
        config = AutoConfig.from_pretrained(path, attn_implementation=attention, trust_remote_code=False)
    except OSError as error:
        raise CheckpointError(
            f"the base model {path!r} cannot be read: {first_line(error)} Put it there, or change "
            "name_or_path; data/nano is made by tools/make_nano.py"
        ) from error
    except ValueError as error:
        raise ConfigError(
            f"transformers has no model class for {path!r}: {first_line(error)} Code from a model repository is never "
            "run: use the repository in transformers' own layout (its name often ends in -hf), or a newer transformers"
        ) from error
    return without_code(config)


def refuse_adapter(source: str | Path) -> None:
    """Raise ConfigError if a folder or repository holds a low-rank adapter that waits to be put on a model.

    transformers puts it on without a word, on the model that the adapter names where there is none beside it, and
    ``lora`` of the config would replace it as silently.
    """
    try:
        found = find_adapter_config_file(str(source))
    except OSError:  # no such place: whoever loads from it says so
        return
    if found is not None:
        raise ConfigError(
            f"{str(source)!r} holds an adapter of peft (adapter_config.json): merge it into its model "
            "(PeftModel.merge_and_unload, then save_pretrained), or take its files out of the folder"
        )


def without_code(config: PretrainedConfig) -> PretrainedConfig:
    """Take out of a config, at any depth, what names code to fetch and run; changed in place, and returned.

    transformers builds the parts of a model without ``trust_remote_code=False``: for an ``auto_map`` in the config of
    a vision tower it asks at the terminal whether to run the code. An attention implementation with a slash is a
    repository of compiled code.
    """
    vars(config).pop("auto_map", None)
    if "/" in str(config._attn_implementation or ""):
        config._attn_implementation = None
    for part in vars(config).values():
        if isinstance(part, PretrainedConfig):
            without_code(part)
        elif isinstance(part, dict):  # a part that its model makes a config of
            part.pop("auto_map", None)
    return config


def _available(config: PretrainedConfig, attention: str | None) -> str | None:
    """Return the attention that all parts of a model have: the one asked for, or ``eager``."""
    if attention is None or type(config) not in AutoModelForImageTextToText._model_mapping:
        return attention
    try:
        with torch.device("meta"):
            AutoModelForImageTextToText.from_config(
                copy.deepcopy(config), attn_implementation=attention, trust_remote_code=False
            )
    except ImportError as error:
        raise ConfigError(f"attention={attention!r} cannot run here: {first_line(error)}") from error
    except ValueError as error:
        if attention not in KNOWN_ATTENTION:
            raise ConfigError(f"attention must be one of {KNOWN_ATTENTION}, got {attention!r}") from error
        _LOGGER.warning("%s; attention='eager' is used", first_line(error))
        return "eager"
    return attention


def load_model(path: str, config: PretrainedConfig, options: BaseOptions) -> PreTrainedModel:
    """Load an LMM; a repository that is quantized already is loaded as its own ``quantization_config`` says.

    Args:
        path: Folder or model id.
        config: What ``read_config`` gave.
        options: In which form.

    Raises:
        ConfigError: If a library that the weights need is missing, they cannot be quantized as asked, or the dtype
            does not suit the attention.
        CheckpointError: If weights are missing, left over, of another shape or not finite, or far fewer than the model
            has.
    """
    if options.device_map is not None:
        require("accelerate", "device_map")
    _check_amount(config, path)
    method = _check_own_quantization(path, config, options.quantization)
    asked: dict[str, Any] = {}
    if options.quantization is not None:  # a None would replace the repository's own
        asked["quantization_config"] = quantization_config(options.quantization)
    try:
        model, report = AutoModelForImageTextToText.from_pretrained(
            path,
            config=config,
            dtype="auto" if options.dtype is None else getattr(torch, options.dtype),
            device_map=options.device_map,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # so that they are in the report, which is checked below
            trust_remote_code=False,
            **asked,
        )
    except (ImportError, RuntimeError) as error:
        if method is None:
            raise
        raise ConfigError(f"the weights of {path!r} are quantized by {method!r}: {first_line(error)}") from error
    _check_weights(path, report, options.unused_weights)
    _check_finite(path, model)
    _search_greedily(model)
    _check_flash(model)
    return model


def _check_own_quantization(path: str, config: PretrainedConfig, quantization: Mapping[str, Any] | None) -> str | None:
    """Return by which method the saved weights are quantized, if they are.

    Raises:
        ConfigError: If transformers does not know the method, or another one is asked for.
    """
    own = getattr(config, "quantization_config", None) or getattr(
        config.get_text_config(decoder=True), "quantization_config", None
    )
    if own is None:
        return None
    fields = own if isinstance(own, dict) else own.to_dict()
    is_bitsandbytes = bool(fields.get("load_in_4bit") or fields.get("load_in_8bit"))
    method = "bitsandbytes" if is_bitsandbytes else str(fields.get("quant_method"))
    if not is_bitsandbytes and method not in AUTO_QUANTIZATION_CONFIG_MAPPING:
        raise ConfigError(
            f"the weights of {path!r} are quantized by {method!r}, which transformers does not know; it knows "
            f"{sorted(AUTO_QUANTIZATION_CONFIG_MAPPING)}. Use the repository that is not quantized"
        )
    if quantization is not None:
        raise ConfigError(f"the weights of {path!r} are quantized by {method!r} already: leave quantization out")
    return method


def _check_weights(path: str, report: Mapping[str, Any], unused_weights: Sequence[str]) -> None:
    """Refuse a model that was not filled from the files alone; tied weights count as filled."""
    unused = [re.compile(pattern) for pattern in unused_weights]
    faults = {
        "missing": sorted(report["missing_keys"]),
        "of another shape": sorted(name for name, *_ in report["mismatched_keys"]),
        "left over": sorted(
            name for name in report["unexpected_keys"] if not any(pattern.search(name) for pattern in unused)
        ),
    }
    found = [f"{len(names)} {kind}, such as {names[:3]}" for kind, names in faults.items() if names]
    if found:
        raise CheckpointError(
            f"the weights of {path!r} are not those of its config.json: {'; '.join(found)}. Fetch the repository "
            "again; name weights that are left over on purpose in unused_weights"
        )


def check_filled(path: str, model: PreTrainedModel, report: Mapping[str, Any]) -> None:
    """Refuse a further model, such as a SAM or a tower, unless its files gave all of its weights; more may be there.

    Args:
        path: Folder or model id.
        model: As ``from_pretrained`` gave it with ``ignore_mismatched_sizes=True``.
        report: Its loading info.

    Raises:
        CheckpointError: Weights are missing, of another shape or not finite.
    """
    _check_weights(path, report, unused_weights=("",))
    _check_finite(path, model)


def _check_finite(path: str, model: PreTrainedModel) -> None:
    broken = names_not_finite(dict(model.named_parameters()))
    if broken:
        raise CheckpointError(
            f"{len(broken)} weights of {path!r} hold numbers that are not finite, such as {broken[:3]}: fetch the "
            "repository again"
        )


def _search_greedily(model: PreTrainedModel) -> None:
    """Take out of the model's ``generation_config`` what chooses another search: it would win over a greedy one.

    Some searches are code in other repositories, which transformers would fetch.
    """
    for name in _SEARCHES:
        if getattr(model.generation_config, name, None) is not None:
            setattr(model.generation_config, name, None)


def _check_flash(model: PreTrainedModel) -> None:
    attention = str(model.config._attn_implementation)
    if attention.startswith("flash") and model.dtype == torch.float32:
        raise ConfigError(f"attention={attention!r} takes no float32: set the base's dtype to 'bfloat16' or 'float16'")


def first_line(error: Exception) -> str:
    """Return the first line of the message of an error."""
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__


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
    require("bitsandbytes", "quantization")
    return BitsAndBytesConfig(**fields)


def require(library: str, option: str) -> None:
    """Raise ConfigError where a library that an option needs is missing."""
    if importlib.util.find_spec(library) is None:
        raise ConfigError(f"{option} needs {library}: pip install {library}, or leave {option} out")

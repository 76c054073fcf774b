"""A LLaVA from a trained language model and a trained vision tower, written in the layout of a downloaded model.

Only the connector between them starts from scratch. What comes out packs, generates and trains like any LMM; to say
anything about images it has to be trained.
"""

import textwrap
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jinja2 import TemplateError
from safetensors import SafetensorError
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoTokenizer,
    CLIPImageProcessorPil,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.models.llava.modeling_llava import LlavaMultiModalProjector

from lumen.errors import CheckpointError, ConfigError
from lumen.lmm.families import eva as _registers_evas_tower  # noqa: F401
from lumen.lmm.nano import efficientnet
from lumen.lmm.nano.tokenizer import CHAT_TEMPLATE, IMAGE_TOKEN
from lumen.lmm.nano.vision import NanoVisionConfig, NanoVisionModel
from lumen.lmm.pixels import ImageStatistics, load_statistics
from lumen.lmm.repository import check_filled, refuse_adapter, without_code
from lumen.lmm.untrained import note_untrained

_REPORTED = {"output_loading_info": True, "ignore_mismatched_sizes": True}  # for `check_filled`
TOWERS = ("nano", "efficientnet-lite0")
_CONNECTOR = "model.multi_modal_projector"
_TOWER = "model.vision_tower"

# Put before a template that takes texts alone: the parts of a message are joined to one text.
_JOIN_PARTS = (
    "{%- set ns = namespace(messages=[]) -%}"
    "{%- for message in messages -%}"
    "{%- if message['content'] is string -%}{%- set ns.messages = ns.messages + [message] -%}"
    "{%- else -%}"
    "{%- set said = namespace(text='') -%}"
    "{%- for part in message['content'] -%}"
    "{%- set said.text = said.text + ('" + IMAGE_TOKEN + "\\n' if part['type'] == 'image' else part['text']) -%}"
    "{%- endfor -%}"
    "{%- set ns.messages = ns.messages + [dict(message, content=said.text)] -%}"
    "{%- endif -%}"
    "{%- endfor -%}"
    "{%- set messages = ns.messages -%}"
)


@dataclass(frozen=True, slots=True)
class LanguageModel:
    """A causal language model with its tokenizer."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase


@dataclass(frozen=True, slots=True)
class Tower:
    """A vision tower.

    Args:
        model: Gives ``hidden_states``: tokens in row-major order, behind at most one class token.
        statistics: How pixels are normalised for it.
        untrained: Names of its parts with random weights; an empty name stands for all of it.
    """

    model: PreTrainedModel
    statistics: ImageStatistics
    untrained: tuple[str, ...] = ()


def load_language_model(source: str | Path) -> LanguageModel:
    """Load a causal language model in float32.

    Args:
        source: Folder or model id, or a GGUF file, whose quantized weights become float32.

    Raises:
        CheckpointError: There is no such model, or weights are missing, of another shape or not finite.
        ConfigError: transformers has no such kind of model, or reading GGUF files needs a package.
    """
    path = Path(source)
    options: dict[str, Any] = {}
    if path.suffix == ".gguf":
        source, options["gguf_file"] = path.parent, path.name
    refuse_adapter(source)
    try:
        tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=False, **options)
        model, report = AutoModelForCausalLM.from_pretrained(
            source, dtype=torch.float32, trust_remote_code=False, **_REPORTED, **options
        )
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"the language model {str(path)!r} cannot be read: {_first_line(error)}") from error
    except (ValueError, ImportError) as error:
        raise ConfigError(f"the language model {str(path)!r} cannot be loaded: {_first_line(error)}") from error
    check_filled(str(path), model, report)
    if options.get("gguf_file") is not None:
        del model.config.quantization_config  # the weights are plain numbers now
    model.config._name_or_path = ""  # else the place on this machine would be saved
    return LanguageModel(model, tokenizer)


def load_tower(source: str | Path, *, seed: int = 0) -> Tower:
    """Load a vision tower in float32.

    Args:
        source: ``nano`` (random weights), ``efficientnet-lite0`` (weights of ImageNet, from a package), or folder or
            model id of a vision model, or of a model that has one, such as CLIP.
        seed: Seed of random weights.

    Raises:
        CheckpointError: There is no such model, or weights are missing, of another shape or not finite.
        ConfigError: transformers has no such kind of model, or a package is missing.
    """
    if source == TOWERS[0]:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return Tower(NanoVisionModel(NanoVisionConfig()), _statistics(0.5, 0.25), ("",))
    if source == TOWERS[1]:
        tower = efficientnet.EfficientNetVisionModel(efficientnet.EfficientNetVisionConfig())
        efficientnet.load_imagenet_weights(tower.network)
        return Tower(tower, _statistics(efficientnet.IMAGE_MEAN, efficientnet.IMAGE_STD))
    refuse_adapter(source)
    try:
        config = without_code(AutoConfig.from_pretrained(source, trust_remote_code=False))
        config = getattr(config, "vision_config", config)
        model, report = AutoModel.from_pretrained(
            source, config=config, dtype=torch.float32, trust_remote_code=False, **_REPORTED
        )
        statistics = load_statistics(str(source))
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"the tower {str(source)!r} cannot be read: {_first_line(error)}") from error
    except ValueError as error:
        raise ConfigError(
            f"the tower {str(source)!r} cannot be loaded: {_first_line(error)} A tower is one of {TOWERS}, or a folder "
            "of a vision model that transformers or an imported plug-in knows"
        ) from error
    check_filled(str(source), model, report)
    model.config._name_or_path = ""
    return Tower(model, statistics)


def assemble_llava(
    folder: str | Path, llm: LanguageModel, tower: Tower, *, dtype: str = "float32", seed: int = 0
) -> Path:
    """Write a LLaVA of a language model and a tower: config, weights, tokenizer, chat template, image processor.

    The language model gets a row for the image token, which no image ever reads. A chat template that takes texts
    alone is extended to take images; without one, that of nano is used.

    Args:
        folder: Where to write; made if missing.
        llm: The language model; its tables and its tokenizer are changed.
        tower: The tower.
        dtype: ``float32`` or ``bfloat16``: what the weights are saved in.
        seed: Seed of the connector. The global random state is left as it was.

    Returns:
        The folder.

    Raises:
        ConfigError: The tower's tokens do not lie on a grid, or the language model has no plain decoder.
    """
    if dtype not in ("float32", "bfloat16"):
        raise ConfigError(f"dtype must be float32 or bfloat16, got {dtype!r}")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        add_image_token(llm)
        config = build_config(llm, tower)
        model = build_model(config, llm, tower)
    parts = [_TOWER if not part else f"{_TOWER}.{part}" for part in tower.untrained]
    note_untrained(model.config, [_CONNECTOR, *parts])
    model.to(getattr(torch, dtype)).save_pretrained(folder)
    processor = build_processor(config, llm.tokenizer, tower.statistics)
    processor.save_pretrained(folder)
    processor.image_processor.save_pretrained(folder)  # preprocessor_config.json, where older readers look
    return Path(folder)


def add_image_token(llm: LanguageModel) -> None:
    """Give a language model the image token, an end and a padding token where it lacks them, and a chat template."""
    tokenizer, model = llm.tokenizer, llm.model
    tokenizer.add_special_tokens({"extra_special_tokens": [IMAGE_TOKEN]}, replace_extra_special_tokens=False)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    num_known = model.get_input_embeddings().num_embeddings
    if len(tokenizer) > num_known:
        model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
        with torch.no_grad():
            for table in (model.get_input_embeddings(), model.get_output_embeddings()):
                table.weight[num_known:] = table.weight[:num_known].mean(0)
    tokenizer.chat_template = with_images(tokenizer)


def with_images(tokenizer: PreTrainedTokenizerBase) -> str:
    """Return a chat template that shows images as the image token: the tokenizer's own, extended where it has to be."""
    own = tokenizer.chat_template
    if own is None:
        return CHAT_TEMPLATE
    parts = [{"type": "image"}, {"type": "text", "text": "what is it?"}]
    try:
        text = tokenizer.apply_chat_template([{"role": "user", "content": parts}], tokenize=False)
    except (TypeError, TemplateError):  # a text and a list cannot be joined
        text = ""
    return own if IMAGE_TOKEN in text and "{'type'" not in text else _JOIN_PARTS + own


def build_config(llm: LanguageModel, tower: Tower) -> LlavaConfig:
    """Return the LLaVA config of a language model and a tower.

    Raises:
        ConfigError: The tower's tokens do not lie on a grid.
    """
    num_extra, num_layers = tower_layout(tower.model)
    return LlavaConfig(
        vision_config=tower.model.config,
        text_config=llm.model.config,
        image_token_index=llm.tokenizer.convert_tokens_to_ids(IMAGE_TOKEN),
        vision_feature_layer=-2 if num_layers > 2 else -1,  # LLaVA's choice, where there is one
        vision_feature_select_strategy="default" if num_extra else "full",
        tie_word_embeddings=llm.model.config.tie_word_embeddings,
    )


@torch.no_grad()
def tower_layout(tower: PreTrainedModel) -> tuple[int, int]:
    """Return how many tokens of a tower stand before its grid, and how many hidden states it gives.

    Raises:
        ConfigError: More than a class token stands there, or the tokens are no grid of patches.
    """
    size, patch = tower.config.image_size, tower.config.patch_size
    states = tower.eval()(torch.zeros(1, 3, size, size), output_hidden_states=True).hidden_states
    num_tokens, num_cells = states[-1].shape[1], (size // patch) ** 2
    if num_tokens - num_cells not in (0, 1):
        raise ConfigError(
            f"a tower gives one token per patch, behind at most a class token; {type(tower).__name__} gives "
            f"{num_tokens} for {num_cells} patches"
        )
    return num_tokens - num_cells, len(states)


def build_model(config: LlavaConfig, llm: LanguageModel, tower: Tower) -> LlavaForConditionalGeneration:
    """Return the LLaVA with the weights of its parts, and a connector with random ones.

    Raises:
        ConfigError: The language model is not a decoder with an output layer on top.
    """
    with torch.device("meta"):
        model = LlavaForConditionalGeneration(config)
    decoder = llm.model.base_model
    if type(decoder) is not type(model.model.language_model):
        raise ConfigError(
            f"{type(llm.model).__name__} holds a {type(decoder).__name__}, a LLaVA of its config a "
            f"{type(model.model.language_model).__name__}: take a language model without a tower of its own"
        )
    model.model.vision_tower, model.model.language_model = tower.model, decoder
    model.model.multi_modal_projector = LlavaMultiModalProjector(config)
    model.lm_head = llm.model.get_output_embeddings()
    model.generation_config = llm.model.generation_config
    return model


def build_processor(
    config: LlavaConfig, tokenizer: PreTrainedTokenizerBase, statistics: ImageStatistics
) -> LlavaProcessor:
    """Return the processor that belongs to the model."""
    size = {"height": config.vision_config.image_size, "width": config.vision_config.image_size}
    images = CLIPImageProcessorPil(
        size=size,
        crop_size=size,
        do_center_crop=False,
        rescale_factor=statistics.scale,
        image_mean=list(statistics.mean),
        image_std=list(statistics.std),
    )
    return LlavaProcessor(
        image_processor=images,
        tokenizer=tokenizer,
        patch_size=config.vision_config.patch_size,
        vision_feature_select_strategy=config.vision_feature_select_strategy,
        num_additional_image_tokens=int(config.vision_feature_select_strategy == "default"),
        chat_template=tokenizer.chat_template,
    )


def _statistics(mean: float, std: float) -> ImageStatistics:
    return ImageStatistics(1 / 255, (mean,) * 3, (std,) * 3)


def _first_line(error: Exception) -> str:
    return textwrap.shorten(str(error).strip().splitlines()[0], 200)  # transformers lists all models that it knows

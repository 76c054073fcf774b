"""Nano: a real, tiny LLaVA with its own tokenizer and chat template, made from scratch and saved to disk.

It is a ``LlavaForConditionalGeneration`` like the 7B model; only sizes differ. Nothing is downloaded.
"""

from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import nn
from transformers import (
    CLIPImageProcessorPil,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)

from lumen.corner_words import CornerWords
from lumen.errors import CheckpointError, ConfigError, named_faults
from lumen.lmm.nano import efficientnet
from lumen.lmm.nano.tokenizer import CHAT_TEMPLATE, FIRST_WORDS, IMAGE_TOKEN, build_tokenizer
from lumen.lmm.nano.vision import NanoVisionConfig
from lumen.lmm.untrained import note_untrained

TOWERS = ("nano", "efficientnet-lite0")
_PHOTO = TOWERS[1]
_FROM_SCRATCH = {
    "nano": ("",),
    _PHOTO: ("model.vision_tower.mixer", "model.multi_modal_projector", "model.language_model", "lm_head"),
}


@dataclass(frozen=True, slots=True)
class NanoSizes:
    """Sizes of a nano model. The defaults train from scratch on a CPU in minutes.

    Args:
        width: Hidden size of the LLM and of the vision tower's token grid.
        llm_layers: Decoder layers of the LLM.
        vision_layers: Transformer layers of the vision tower.
        stem_channels: Channels of the convolutional stem at strides 4, 8, 16.
        stem_depths: Residual blocks at each of these strides.
        vocabulary: Upper bound of the tokenizer's vocabulary.
        context: Longest sequence, in tokens.
        tied: One table of words for input and output.
        seeing: Made to be pretrained, see ``configs/nano``: the tower has a fine level, the tokenizer words for the
            corners of boxes, positions turn slowly, and what the LLM's sublayers add starts at zero.
        tower: ``nano``, convolutions and transformer layers from scratch, or ``efficientnet-lite0``: that network with
            its ImageNet weights, with the transformer layers on top. The stem's sizes are those of the network then.

    Raises:
        ConfigError: The tower is unknown.
    """

    width: int = 128
    llm_layers: int = 2
    vision_layers: int = 2
    stem_channels: tuple[int, ...] = field(default=(64, 96, 160))
    stem_depths: tuple[int, ...] = field(default=(1, 2, 2))
    vocabulary: int = 1024
    context: int = 2048
    tied: bool = False
    seeing: bool = False
    tower: str = TOWERS[0]

    def __post_init__(self) -> None:
        if self.tower not in TOWERS:
            raise ConfigError(f"tower must be one of {TOWERS}, got {self.tower!r}")
        if self.seeing and self.tower != TOWERS[0]:
            raise ConfigError(f"seeing=True goes with tower={TOWERS[0]!r}, got {self.tower!r}")


def make_nano(folder: str | Path, *, sizes: NanoSizes | None = None, seed: int = 0) -> Path:
    """Make a nano model and save it with its processor, as a downloaded model would lie there.

    Its weights are random, except for those of a tower that comes trained.

    Args:
        folder: Where to write; made if missing.
        sizes: Sizes; the defaults when left out.
        seed: Seed of the weights. The global random state is left as it was.

    Returns:
        The folder.

    Raises:
        ConfigError: The package with the weights of the tower is missing.
        CheckpointError: The disk is full or read-only.
    """
    folder = Path(folder)
    sizes = sizes or NanoSizes()
    further = {"first_words": FIRST_WORDS, "whole": CornerWords().words} if sizes.seeing else {}
    tokenizer = build_tokenizer(sizes.vocabulary, **further)
    config = build_config(sizes, tokenizer)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlavaForConditionalGeneration(config)
    if sizes.seeing:
        _quieten(model.model.language_model)
    if sizes.tower == _PHOTO:
        efficientnet.load_imagenet_weights(model.model.vision_tower.network)
    note_untrained(model.config, _FROM_SCRATCH[sizes.tower])
    remedy = "make room, or name another folder"
    with named_faults(f"{folder} cannot be written", CheckpointError, remedy=remedy):  # safetensors has its own error
        model.save_pretrained(folder)
        build_processor(config, tokenizer).save_pretrained(folder)
    return folder


def build_config(sizes: NanoSizes, tokenizer: PreTrainedTokenizerFast) -> LlavaConfig:
    """Return the LLaVA config of a nano model."""
    layers = {
        "hidden_size": sizes.width,
        "intermediate_size": 2 * sizes.width,
        "num_hidden_layers": sizes.vision_layers,
    }
    if sizes.tower == _PHOTO:
        vision = efficientnet.EfficientNetVisionConfig(**layers)
    else:
        stem = {"stem_channels": list(sizes.stem_channels), "stem_depths": list(sizes.stem_depths)}
        vision = NanoVisionConfig(**layers, **stem, fine=sizes.seeing)
    text = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=sizes.width,
        intermediate_size=2 * sizes.width,
        num_hidden_layers=sizes.llm_layers,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=sizes.context,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        initializer_range=sizes.width**-0.5,
        tie_word_embeddings=sizes.tied,
        **({"rope_parameters": {"rope_type": "default", "rope_theta": 1e6}} if sizes.seeing else {}),
    )
    return LlavaConfig(
        vision_config=vision,
        text_config=text,
        image_token_index=tokenizer.convert_tokens_to_ids(IMAGE_TOKEN),
        vision_feature_layer=-1,
        vision_feature_select_strategy="full",
        tie_word_embeddings=sizes.tied,
    )


@torch.no_grad()
def _quieten(llm: nn.Module) -> None:
    """Let the sublayers of an LLM start as if they were not there: all that they add is zero."""
    for layer in llm.layers:
        layer.self_attn.o_proj.weight.zero_()
        layer.mlp.down_proj.weight.zero_()


def build_processor(config: LlavaConfig, tokenizer: PreTrainedTokenizerFast) -> LlavaProcessor:
    """Return the processor that belongs to a nano model."""
    size = config.vision_config.image_size
    is_photo = isinstance(config.vision_config, efficientnet.EfficientNetVisionConfig)
    mean, std = (efficientnet.IMAGE_MEAN, efficientnet.IMAGE_STD) if is_photo else (0.5, 0.25)
    images = CLIPImageProcessorPil(
        size={"height": size, "width": size},
        do_center_crop=False,
        crop_size={"height": size, "width": size},
        image_mean=[mean] * 3,
        image_std=[std] * 3,
    )
    return LlavaProcessor(
        image_processor=images,
        tokenizer=tokenizer,
        patch_size=config.vision_config.patch_size,
        vision_feature_select_strategy="full",
        chat_template=CHAT_TEMPLATE,
    )

"""A LLaVA with a CLIP tower and random weights, at any size, saved as a downloaded model would lie there."""

from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration
from transformers.utils import logging as transformers_logging

from lumen.lmm.nano.model import build_processor
from lumen.lmm.nano.tokenizer import IMAGE_TOKEN, build_tokenizer


@dataclass(frozen=True, slots=True)
class LlavaSizes:
    """Sizes of the language model and of the tower.

    Args:
        layers: Layers of the LLM.
        width: Hidden size of the LLM, in heads of 64.
        mlp_width: Width inside its MLP.
        vision_layers: Layers of the tower.
        vision_width: Hidden size of the tower, in heads of 64.
        image_side: Input side in pixels; patches have 14.
    """

    layers: int
    width: int
    mlp_width: int
    vision_layers: int
    vision_width: int
    image_side: int

    @property
    def num_image_tokens(self) -> int:
        """Image tokens that the LLM sees."""
        return (self.image_side // 14) ** 2


def make_llava(folder: str | Path, sizes: LlavaSizes, *, seed: int = 0) -> Path:
    """Make the model and its processor; the tokenizer is nano's. The global random state is left as it was.

    Weights are drawn with a standard deviation of width^-1/2: at 0.02 the layers of a narrow model hardly do anything,
    and a wrong mask would hardly show.
    """
    folder = Path(folder)
    tokenizer = build_tokenizer(1024)
    vision = CLIPVisionConfig(
        hidden_size=sizes.vision_width,
        intermediate_size=4 * sizes.vision_width,
        num_hidden_layers=sizes.vision_layers,
        num_attention_heads=sizes.vision_width // 64,
        image_size=sizes.image_side,
        patch_size=14,
    )
    text = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=sizes.width,
        intermediate_size=sizes.mlp_width,
        num_hidden_layers=sizes.layers,
        num_attention_heads=sizes.width // 64,
        num_key_value_heads=sizes.width // 64,
        max_position_embeddings=2048,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        initializer_range=sizes.width**-0.5,
    )
    config = LlavaConfig(
        vision_config=vision,
        text_config=text,
        image_token_index=tokenizer.convert_tokens_to_ids(IMAGE_TOKEN),
        vision_feature_layer=-2,
        vision_feature_select_strategy="default",
        tie_word_embeddings=False,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlavaForConditionalGeneration(config)
    model.save_pretrained(folder)
    build_processor(config, tokenizer).save_pretrained(folder)
    return folder


def hide_progress_bars() -> None:
    """Keep transformers' progress bars of saving and loading out of the tables."""
    transformers_logging.disable_progress_bar()

"""Models whose connector reads the tower by learned queries: image tokens without places, tower features on a grid."""

import torch
from torch import Tensor, nn
from transformers import PretrainedConfig
from transformers.modeling_outputs import BaseModelOutputWithPooling

from lumen.lmm.families.family import Family, Size, patch_stride, to_grid

_FAKE = "<fake_token_around_image>"


def _whole(model: nn.Module, pixels: Tensor) -> Tensor:
    """Return the mask of patches, in which no patch is padding."""
    patch = patch_stride(model.config)
    rows, cols = pixels.shape[-2] // patch, pixels.shape[-1] // patch
    return torch.ones(len(pixels), rows, cols, dtype=torch.bool, device=pixels.device)


def _encode_idefics2(model: nn.Module, pixels: Tensor) -> BaseModelOutputWithPooling:
    """Run Idefics' tower and connector; its own way drops images that are all zero."""
    mask = _whole(model, pixels)
    output = model.vision_model(pixel_values=pixels, patch_attention_mask=mask)
    output.pooler_output = list(model.connector(output.last_hidden_state, attention_mask=mask.flatten(1)))
    return output


def _idefics2_text(config: PretrainedConfig, token: str, token_hw: Size) -> str:
    return _FAKE + token * config.perceiver_config.resampler_n_latents + _FAKE


def _aria_text(config: PretrainedConfig, token: str, token_hw: Size) -> str:
    vision = config.vision_config
    return token * config.projector_patch_to_query_dict[(vision.image_size // vision.patch_size) ** 2]


def _aria_grid(config: PretrainedConfig, output: BaseModelOutputWithPooling, tower_hw: Size) -> Tensor:
    return to_grid(output.last_hidden_state, tower_hw)


IDEFICS2 = Family(encode=_encode_idefics2, image_text=_idefics2_text, has_token_grid=False)
ARIA = Family(image_text=_aria_text, vision_grid=_aria_grid, has_token_grid=False)

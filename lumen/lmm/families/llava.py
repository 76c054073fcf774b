"""The LLaVA line: a CLIP-like tower of one square image, a chosen layer of it, a projector."""

from dataclasses import replace

import torch
from torch import Tensor, nn
from transformers import PretrainedConfig
from transformers.modeling_outputs import BaseModelOutputWithPooling

from lumen.lmm.families.family import Family, InputSpec, Size, patch_stride, repeat_token, to_grid
from lumen.lmm.nano.efficientnet import CHANNELS


def chosen_layer(config: PretrainedConfig) -> int:
    """Return the tower's layer that the projector reads; the first one where it reads several."""
    layer = config.vision_feature_layer
    return layer if isinstance(layer, int) else layer[0]


def layer_states(config: PretrainedConfig, output: BaseModelOutputWithPooling, tower_hw: Size) -> Tensor:
    """Return the states of the chosen layer as a grid."""
    return to_grid(output.hidden_states[chosen_layer(config)], tower_hw)


def encode_tower(model: nn.Module, pixels: Tensor) -> BaseModelOutputWithPooling:
    """Run the tower alone."""
    return model.vision_tower(pixels, output_hidden_states=True)


def encode_dense(model: nn.Module, pixels: Tensor) -> BaseModelOutputWithPooling:
    """Run a tower at another size, its position embedding resized."""
    return model.vision_tower(pixels, output_hidden_states=True, interpolate_pos_encoding=True)


def encode_one_tile(model: nn.Module, pixels: Tensor) -> BaseModelOutputWithPooling:
    """Run tower and projector without tiles: the model's own way with an image that has a base tile only.

    The processors always cut at least one tile beside the base, which shows the same pixels once more when the image
    is a square of the tower's size.
    """
    config = model.config
    output = model.vision_tower(pixels, output_hidden_states=True)
    chosen = output.hidden_states[chosen_layer(config)]
    chosen = chosen[:, 1:] if config.vision_feature_select_strategy == "default" else chosen
    newline = model.image_newline[None]
    output.pooler_output = [torch.cat([tile, newline.to(tile)]) for tile in model.multi_modal_projector(chosen)]
    return output


def _grid_and_newline(config: PretrainedConfig, token: str, token_hw: Size) -> str:
    return repeat_token(config, token, token_hw) + token


CLIP_LLAVA = Family(vision_grid=layer_states, encode_dense=encode_dense, encode_tower=encode_tower)
VIPLLAVA = replace(CLIP_LLAVA, encode_tower=None)
ONE_TILE = replace(CLIP_LLAVA, encode=encode_one_tile, image_text=_grid_and_newline, encode_tower=None)
NANO = Family(
    input_spec=lambda config: InputSpec(patch_stride(config), None),
    vision_grid=layer_states,
    encode_dense=encode_dense,
    encode_tower=encode_tower,
    laterals=lambda output: output.feature_maps,
    lateral_channels=lambda config: tuple(config.vision_config.stem_channels[:-1]),
)
EFFICIENTNET = replace(NANO, lateral_channels=lambda config: CHANNELS[:2])

"""Families whose connector merges neighbouring patches into one image token."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn
from transformers import PretrainedConfig
from transformers.modeling_outputs import BaseModelOutputWithPooling

from lumen.lmm.families.family import Family, InputSpec, Size, fixed_square, patch_stride, repeat_token, to_grid
from lumen.lmm.families.llava import chosen_layer, encode_dense, layer_states
from lumen.lmm.families.qwen import take_deepstack

_FAKE = "<fake_token_around_image>"
_GOT_CHAT = (
    "<|im_start|>system\nYou should follow the instructions carefully and explain your answers in detail.<|im_end|>"
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<imgpad>\n{% else %}{{ part['text'] }}{% endif %}{% endfor %}<|im_end|>"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def between(before: str, after: str) -> Callable[[PretrainedConfig, str, Size], str]:
    """Return a function that puts the image tokens between two markers."""
    return lambda config, token, token_hw: before + repeat_token(config, token, token_hw) + after


def square_of(merge: Callable[[PretrainedConfig], float]) -> Callable[[PretrainedConfig], InputSpec]:
    """Return the input spec of a square tower, given how many patches a token covers per side."""
    return lambda config: fixed_square(config, int(patch_stride(config) * merge(config)))


def _encode_all(model: nn.Module, pixels: Tensor) -> BaseModelOutputWithPooling:
    """Run Idefics' tower and connector; its own way drops images that are all zero."""
    output = model.vision_model(pixel_values=pixels)
    output.pooler_output = list(model.connector(output.last_hidden_state))
    return output


def _encode_sized(model: nn.Module, pixels: Tensor) -> BaseModelOutputWithPooling:
    return model.get_image_features(pixels, image_sizes=torch.tensor([pixels.shape[-2:]] * len(pixels)))


def _pixtral_grid(config: PretrainedConfig, output: BaseModelOutputWithPooling, tower_hw: Size) -> Tensor:
    states = output.hidden_states[chosen_layer(config)]  # one row holds the patches of all images
    return to_grid(states.view(-1, tower_hw[0] * tower_hw[1], states.shape[-1]), tower_hw)


def _packed_grid(config: PretrainedConfig, output: BaseModelOutputWithPooling, tower_hw: Size) -> Tensor:
    """Return the last states of a tower that puts the patches of all images in one row."""
    states = output.last_hidden_state
    return to_grid(states.view(-1, tower_hw[0] * tower_hw[1], states.shape[-1]), tower_hw)


def _rows_with_breaks(config: PretrainedConfig, token: str, token_hw: Size) -> str:
    return "[IMG_BREAK]".join([token * token_hw[1]] * token_hw[0]) + "[IMG_END]"


def _encode_naflex(model: nn.Module, pixels: Tensor) -> BaseModelOutputWithPooling:
    """Siglip2 takes flat patches, (row, col, channel) in order, with the size of the grid."""
    patch = patch_stride(model.config)
    rows, cols = pixels.shape[-2] // patch, pixels.shape[-1] // patch
    patches = pixels.unfold(2, patch, patch).unfold(3, patch, patch).permute(0, 2, 3, 4, 5, 1)
    sizes = torch.tensor([[rows, cols]] * len(pixels), device=pixels.device)
    mask = torch.ones(len(pixels), rows * cols, dtype=torch.long, device=pixels.device)
    return model.get_image_features(patches.flatten(3).flatten(1, 2), sizes, mask)


def _take_with_indicators(output: BaseModelOutputWithPooling, images: Sequence[int]) -> BaseModelOutputWithPooling:
    """Return the image tokens of some images, and the states of the markers around them, which are the same for all."""
    indicators = output.visual_indicator_features
    return type(output)(pooler_output=output.pooler_output[list(images)], visual_indicator_features=indicators)


INTERNVL = Family(
    input_spec=square_of(lambda config: 1 / config.downsample_ratio),
    image_text=between("<img>", "</img>"),
)
IDEFICS3 = Family(
    input_spec=square_of(lambda config: config.scale_factor),
    encode=_encode_all,
    image_text=between(f"{_FAKE}<global-img>", _FAKE),
)
PIXTRAL = Family(
    input_spec=lambda config: InputSpec(patch_stride(config), None),
    encode=_encode_sized,
    vision_grid=_pixtral_grid,
    image_text=_rows_with_breaks,
)
MISTRAL3 = replace(PIXTRAL, input_spec=lambda config: InputSpec(patch_stride(config) * config.spatial_merge_size, None))
AYA = Family(
    input_spec=square_of(lambda config: config.downsample_factor),
    vision_grid=layer_states,
    placeholder="<image>",
    image_text=between("<|START_OF_IMG|>TILE_GLOBAL", "<|END_OF_IMG|>"),
    encode_dense=encode_dense,
)
COHERE2 = Family(
    input_spec=square_of(lambda config: config.downsample_factor),
    image_text=between("<|START_OF_IMG|>", "<|IMG_LINE_BREAK|><|END_OF_IMG|>"),
    encode_dense=encode_dense,
)


def _encode_tile(model: nn.Module, pixels: Tensor) -> BaseModelOutputWithPooling:
    """Run a model that takes tiles with one tile per image."""
    mask = torch.ones(len(pixels), 1, dtype=torch.bool, device=pixels.device)
    return model.get_image_features(pixels[:, None], mask)


def _encode_projected(model: nn.Module, pixels: Tensor) -> BaseModelOutputWithPooling:
    """Run Llama 4's tower, which shuffles pixels itself, and its projector."""
    output = model.get_image_features(pixels)
    output.pooler_output = model.multi_modal_projector(output.last_hidden_state)
    return output


def _take_states(output: BaseModelOutputWithPooling, images: Sequence[int]) -> BaseModelOutputWithPooling:
    """Return the tower's states of some images, which the model projects itself."""
    return BaseModelOutputWithPooling(last_hidden_state=output.last_hidden_state[list(images)])


GRANITE_DOCLING = Family(
    input_spec=square_of(lambda config: config.vision_config.scale_factor),
    encode=_encode_tile,
    take=take_deepstack,
    image_text=between(f"{_FAKE}<row_1_col_1>", "\n"),
)
LLAMA4 = Family(
    input_spec=square_of(lambda config: 1 / config.vision_config.pixel_shuffle_ratio),
    encode=_encode_projected,
    take=_take_states,
    vision_stride=lambda config: int(patch_stride(config) / config.vision_config.pixel_shuffle_ratio),
    vision_dim=lambda config: config.vision_config.vision_output_dim,
    placeholder="<|image|>",
    image_text=between("<|image_start|><|image|>", "<|image_end|>"),
)
LIGHTON_OCR = replace(MISTRAL3, vision_grid=_packed_grid, image_text=repeat_token)
JANUS = Family(image_text=between("<begin_of_image>", "<end_of_image>"))
OVIS2 = Family(
    input_spec=square_of(lambda config: config.vision_config.hidden_stride),
    take=_take_with_indicators,
    vision_stride=lambda config: patch_stride(config) * config.vision_config.hidden_stride,
    vision_dim=lambda config: config.vision_config.hidden_size * config.vision_config.hidden_stride**2,
    placeholder="<image>",
    image_text=between("<IMG_START>", "<IMG_GRID><IMG_END>"),
)
GOT_OCR2 = Family(
    input_spec=square_of(lambda config: 4),
    vision_grid=lambda config, output, tower_hw: output.last_hidden_state,
    vision_dim=lambda config: config.vision_config.output_channels,
    image_text=between("<img>", "</img>"),
    chat_template=_GOT_CHAT,
)
LFM2 = Family(
    input_spec=lambda config: InputSpec(patch_stride(config) * config.downsample_factor, None),
    encode=_encode_naflex,
    image_text=between("<|image_start|>", "<|image_end|>"),
)

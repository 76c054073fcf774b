"""The Qwen-VL line: flat patches in blocks of ``spatial_merge_size``, and positions with three axes (mrope)."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import PretrainedConfig
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.vision_utils import get_vision_window_index

from lumen.lmm.families.family import (
    Family,
    InputSpec,
    Size,
    count_on,
    needs_no_grid,
    patch_stride,
    take_images,
    to_grid,
)


def _token_stride(config: PretrainedConfig) -> int:
    return patch_stride(config) * config.vision_config.spatial_merge_size


def _grid_thw(tower_hw: Size, num_images: int, device: torch.device | None = None) -> Tensor:
    """Return the grids of the images; their values count even where nothing else has values, on the meta device."""
    is_meta = device is not None and device.type == "meta"
    return torch.tensor([[1, *tower_hw]] * num_images, dtype=torch.long, device="cpu" if is_meta else device)


def cut_blocks(
    pixels: Float[Tensor, "images 3 height width"], patch: int, merge: int, frames: int
) -> Float[Tensor, "patches channels frames patch patch"]:
    """Cut images into patches that follow each other block by block, ``merge`` patches high and wide.

    Args:
        pixels: The images.
        patch: Side of a patch.
        merge: Side of a block, in patches.
        frames: How often a patch repeats the still image, as frames of a video.
    """
    images, channels, height, width = pixels.shape
    rows, cols = height // patch // merge, width // patch // merge
    cut = pixels.view(images, channels, rows, merge, patch, cols, merge, patch)
    cut = cut.permute(0, 2, 5, 3, 6, 1, 4, 7).unsqueeze(6)  # (I, row, col, row in block, col in block, 3, 1, y, x)
    return cut.repeat_interleave(frames, 6).flatten(0, 4)


def grid_thw_of(config: PretrainedConfig, pixels: Tensor) -> Tensor:
    """Return the grid of patches of each image: 1, rows, columns."""
    patch = patch_stride(config)
    return _grid_thw((pixels.shape[-2] // patch, pixels.shape[-1] // patch), len(pixels), pixels.device)


def encode_blocks(model: nn.Module, pixels: Tensor) -> BaseModelOutputWithPooling:
    """Cut images into flat patches as the image processor does, and run tower and merger.

    Within a patch: channel, time (the still image repeated), row, column.
    """
    vision = model.config.vision_config
    cut = cut_blocks(pixels, vision.patch_size, vision.spatial_merge_size, vision.temporal_patch_size)
    return model.get_image_features(cut.flatten(1), grid_thw_of(model.config, pixels))


def _encode_still(model: nn.Module, pixels: Tensor) -> BaseModelOutputWithPooling:
    """The same for patches of one frame whose channels come last: row, column, channel."""
    vision = model.config.vision_config
    cut = cut_blocks(pixels, vision.patch_size, vision.spatial_merge_size, 1)
    return model.get_image_features(cut[:, :, 0].movedim(1, -1).flatten(1), grid_thw_of(model.config, pixels))


def _encode_unmerged(model: nn.Module, pixels: Tensor) -> BaseModelOutputWithPooling:
    """The same for a tower whose still images are not merged: patches row by row, each an image token."""
    grids = grid_thw_of(model.config, pixels)
    cut = cut_blocks(pixels, patch_stride(model.config), 1, 1)
    return model.get_image_features(cut.flatten(1), grids, torch.ones_like(grids[:, 0]))


def _encode_small_images(model: nn.Module, pixels: Tensor) -> BaseModelOutputWithPooling:
    """The same for patches that are small images, row by row; the connector finds the blocks itself."""
    cut = cut_blocks(pixels, patch_stride(model.config), 1, 1)
    return model.get_image_features(cut[:, :, 0], grid_thw_of(model.config, pixels))


def _row_grid(config: PretrainedConfig, output: BaseModelOutputWithPooling, tower_hw: Size) -> Tensor:
    """Return the last states of a tower that takes the patches of all images row by row."""
    tokens = output.last_hidden_state
    return to_grid(tokens.reshape(-1, tower_hw[0] * tower_hw[1], tokens.shape[-1]), tower_hw)


def _unblock(tokens: Tensor, tower_hw: Size, merge: int) -> Tensor:
    """Bring tokens that follow each other block by block onto the grid."""
    rows, cols = tower_hw
    blocks = tokens.view(-1, rows // merge, cols // merge, merge, merge, tokens.shape[-1])
    return blocks.permute(0, 5, 1, 3, 2, 4).flatten(4, 5).flatten(2, 3)


def block_grid(config: PretrainedConfig, output: BaseModelOutputWithPooling, tower_hw: Size) -> Tensor:
    """Return the tower's last states, patch by patch."""
    return _unblock(output.last_hidden_state, tower_hw, config.vision_config.spatial_merge_size)


def window_grid(config: PretrainedConfig, output: BaseModelOutputWithPooling, tower_hw: Size) -> Tensor:
    """Return the last states of a tower that leaves them in the order of its attention windows."""
    vision, tokens = config.vision_config, output.last_hidden_state
    merge = vision.spatial_merge_size
    grids = _grid_thw(tower_hw, len(tokens) // (tower_hw[0] * tower_hw[1]))
    order, _ = get_vision_window_index(grids, merge, vision.window_size, vision.patch_size)
    blocks = tokens.view(-1, merge**2, tokens.shape[-1])[order.argsort().to(tokens.device)]
    return _unblock(blocks.flatten(0, 1), tower_hw, merge)


def merged_grid(config: PretrainedConfig, output: BaseModelOutputWithPooling, tower_hw: Size) -> Tensor:
    """Return the last states of a tower that ends in the merged grid, which ``tower_hw`` is then."""
    tokens = output.last_hidden_state
    return to_grid(tokens.view(-1, tower_hw[0] * tower_hw[1], tokens.shape[-1]), tower_hw)


def take_deepstack(output: BaseModelOutputWithPooling, images: Sequence[int]) -> BaseModelOutputWithPooling:
    """Return the image tokens of some images with what the first LLM layers add to them."""
    return type(output)(
        pooler_output=take_images(output, images).pooler_output,
        deepstack_features=[[layer[image] for image in images] for layer in output.deepstack_features],
    )


def mrope_positions(model: nn.Module, prefix: Tensor, token_hw: Size) -> Tensor:
    """Return time, row and column of every token, as the model counts them."""
    return model.get_rope_index(prefix[None], **mrope_inputs(model.config, prefix[None], token_hw))[0][:, 0]


def mrope_inputs(config: PretrainedConfig, rows: Tensor, token_hw: Size) -> dict[str, Tensor]:
    """Return what the model counts positions by: the kind of each token, and the grid of each row's image."""
    merge = config.vision_config.spatial_merge_size
    tower_hw = (token_hw[0] * merge, token_hw[1] * merge)
    kinds = (rows == config.image_token_id).int()
    return {"mm_token_type_ids": kinds, "image_grid_thw": _grid_thw(tower_hw, len(rows), rows.device)}


def _grid_inputs(config: PretrainedConfig, rows: Tensor, token_hw: Size) -> dict[str, Tensor]:
    return {"image_grid_thw": mrope_inputs(config, rows, token_hw)["image_grid_thw"]}


def _omni_positions(model: nn.Module, prefix: Tensor, token_hw: Size) -> Tensor:
    """The same for models that find an image by the marker before it, not by the kind of each token."""
    row = prefix[None]
    inputs = _grid_inputs(model.config, row, token_hw)
    return model.get_rope_index(row, attention_mask=torch.ones_like(row), **inputs)[0][:, 0].long()


QWEN3_VL = Family(
    input_spec=lambda config: InputSpec(_token_stride(config), None),
    encode=encode_blocks,
    take=take_deepstack,
    vision_grid=block_grid,
    positions=mrope_positions,
    writing_inputs=mrope_inputs,
)
QWEN2_VL = replace(QWEN3_VL, take=take_images, vision_dim=lambda config: config.vision_config.embed_dim)
QWEN2_5_VL = replace(QWEN3_VL, take=take_images, vision_grid=window_grid)
QWEN3_5 = replace(QWEN3_VL, take=take_images)
GLM4V = replace(
    QWEN3_VL,
    take=take_images,
    vision_grid=merged_grid,
    vision_stride=_token_stride,
    vision_dim=lambda config: config.vision_config.out_hidden_size,
)
_COUNTED = {"take": take_images, "positions": count_on, "writing_inputs": needs_no_grid}
EXAONE4_5 = replace(QWEN2_5_VL, **_COUNTED)
LFM3 = replace(QWEN3_VL, **_COUNTED)
COSMOS3 = replace(QWEN3_VL, take=take_images, encode=_encode_still)
VIDEO_LLAMA3 = replace(
    QWEN3_VL,
    **_COUNTED,
    input_spec=lambda config: InputSpec(patch_stride(config), None),
    encode=_encode_unmerged,
    vision_grid=_row_grid,
)
PADDLE_OCR = replace(QWEN3_VL, take=take_images, encode=_encode_small_images, vision_grid=_row_grid)
QWEN2_5_OMNI = replace(QWEN2_5_VL, positions=_omni_positions, writing_inputs=_grid_inputs)
QWEN3_OMNI = replace(QWEN3_VL, positions=_omni_positions, writing_inputs=_grid_inputs)

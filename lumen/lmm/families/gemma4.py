"""Gemma 4: flat patches with their places, averaged in squares; markers that the tokenizer alone names."""

import torch
from torch import Tensor, nn
from transformers import PretrainedConfig
from transformers.modeling_outputs import BaseModelOutputWithPooling

from lumen.lmm.families.family import Family, InputSpec, Size, patch_stride, to_grid
from lumen.lmm.families.qwen import cut_blocks


def _token_stride(config: PretrainedConfig) -> int:
    return patch_stride(config) * config.vision_config.pooling_kernel_size


def _encode(model: nn.Module, pixels: Tensor) -> BaseModelOutputWithPooling:
    """Cut images into patches row by row, with their (column, row); within a patch: row, column, channel."""
    patch = patch_stride(model.config)
    rows, cols = pixels.shape[-2] // patch, pixels.shape[-1] // patch
    patches = cut_blocks(pixels, patch, 1, 1)[:, :, 0].movedim(1, -1).flatten(1).unflatten(0, (len(pixels), -1))
    row, col = torch.meshgrid(
        torch.arange(rows, device=pixels.device), torch.arange(cols, device=pixels.device), indexing="ij"
    )
    places = torch.stack([col, row], -1).flatten(0, 1).expand(len(pixels), -1, -1)
    return model.get_image_features(patches, places)


def _pooled_grid(config: PretrainedConfig, output: BaseModelOutputWithPooling, tower_hw: Size) -> Tensor:
    """Return the tower's last states, of which one row holds the tokens of all images."""
    tokens = output.last_hidden_state
    return to_grid(tokens.view(-1, tower_hw[0] * tower_hw[1], tokens.shape[-1]), tower_hw)


def _sees_image(config: PretrainedConfig, prefix: Tensor) -> Tensor | None:
    """Return which tokens see each other both ways: those of the image, in the larger models."""
    if config.text_config.use_bidirectional_attention != "vision":
        return None
    return prefix == config.image_token_id


def _kinds(config: PretrainedConfig, rows: Tensor, start: int | Tensor) -> dict[str, Tensor]:
    return {"mm_token_type_ids": (rows == config.image_token_id).long()}


GEMMA4 = Family(
    input_spec=lambda config: InputSpec(_token_stride(config), None),
    encode=_encode,
    vision_grid=_pooled_grid,
    vision_stride=_token_stride,
    edges=lambda config: (config.boi_token_id, config.eoi_token_id),
    sees_future=_sees_image,
    plain_inputs=_kinds,
)

"""Vision tower of nano: a small convolutional stem with a short transformer on top.

transformers has no tower that gives both a token grid for the LLM and finer strided features for a dense aligner, so
this one extends it the transformers way: a config and a model class, registered with ``AutoConfig`` and ``AutoModel``.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import no_type_check

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional
from transformers import AutoConfig, AutoModel, PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPooling

from lumen.ops.attention import attend
from lumen.ops.geometry import sine_positions

_FIRST_STRIDE = 4


@no_type_check  # transformers makes configs data classes that take further keywords, which shape checks would refuse
class NanoVisionConfig(PretrainedConfig):
    """Sizes of the tower. Input sides must be multiples of ``patch_size``, which is the stride of the token grid.

    With ``fine`` the tower has a fine level: see ``FineLevel``.
    """

    model_type = "lumen_nano_vision"

    image_size: int = 160
    patch_size: int = 16
    hidden_size: int = 128
    intermediate_size: int = 256
    num_hidden_layers: int = 2
    num_attention_heads: int = 4
    stem_channels: tuple[int, ...] | list[int] = (64, 96, 160)
    stem_depths: tuple[int, ...] | list[int] = (1, 2, 2)
    fine: bool = False


@dataclass
class NanoVisionOutput(BaseModelOutputWithPooling):
    """Tower output with ``feature_maps``: the maps at strides 4 and 8, finest first."""

    feature_maps: tuple[Tensor, ...] | None = None


class _ConvNorm(nn.Sequential):
    def __init__(self, inputs: int, outputs: int, *, stride: int = 1, active: bool = True) -> None:
        layers = [nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False), nn.BatchNorm2d(outputs)]
        super().__init__(*layers, *([nn.SiLU(inplace=True)] if active else []))


class _Residual(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = _ConvNorm(channels, channels)
        self.second = _ConvNorm(channels, channels, active=False)

    def forward(self, x: Tensor) -> Tensor:
        return functional.silu(x + self.second(self.first(x)))


class TowerLayer(nn.Module):
    """A pre-norm transformer layer over the token grid; a config names its sizes as ``NanoVisionConfig`` does."""

    def __init__(self, config: PretrainedConfig) -> None:
        super().__init__()
        dim = config.hidden_size
        self.num_heads = config.num_attention_heads
        self.attention_norm = nn.LayerNorm(dim)
        self.qkv = nn.Linear(dim, 3 * dim)
        self.out = nn.Linear(dim, dim)
        self.mlp_norm = nn.LayerNorm(dim)
        self.mlp = nn.Sequential(
            nn.Linear(dim, config.intermediate_size), nn.GELU(), nn.Linear(config.intermediate_size, dim)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return the tokens (images tokens dim) after the layer."""
        batch, length, dim = x.shape
        qkv = self.qkv(self.attention_norm(x)).view(batch, length, 3, self.num_heads, -1)
        query, key, value = qkv.permute(2, 0, 3, 1, 4)
        mixed = attend(query, key, value)
        x = x + self.out(mixed.transpose(1, 2).reshape(batch, length, dim))
        return x + self.mlp(self.mlp_norm(x))


class FineLevel(nn.Module):
    """A map at half the stride of the tokens that has read them, and from which they read in turn.

    Args:
        channels: Of the stem's map at that stride, and of the fine map.
        dim: Width of the tokens.
    """

    def __init__(self, channels: int, dim: int) -> None:
        super().__init__()
        self.from_tokens = nn.Conv2d(dim, channels, 1)
        self.mix = _ConvNorm(channels, channels)
        self.to_tokens = nn.Linear(4 * channels, dim)

    def forward(
        self, stem_map: Float[Tensor, "images channels fine_h fine_w"], grid: Float[Tensor, "images dim height width"]
    ) -> tuple[Float[Tensor, "images channels fine_h fine_w"], Float[Tensor, "images tokens dim"]]:
        """Return the fine map, and what it adds to the tokens."""
        coarse = functional.interpolate(self.from_tokens(grid), scale_factor=2.0, mode="nearest")
        fine = self.mix(stem_map + coarse)
        # The four cells below a token, as channels.
        folded = functional.pixel_unshuffle(fine, 2).flatten(2).transpose(1, 2)
        return fine, self.to_tokens(folded)


class GridTower(PreTrainedModel, ABC):
    """A vision tower that gives a token grid, and finer maps on the way.

    ``hidden_states`` holds one entry, the token grid in row-major order, so that LLaVA's feature layer is -1.
    """

    main_input_name = "pixel_values"
    base_model_prefix = "vision"
    _supports_sdpa = True

    @property
    def patch_size(self) -> int:
        """Stride of the token grid; LLaVA reads it."""
        return self.config.patch_size

    def forward(self, pixel_values: Tensor, interpolate_pos_encoding: bool = False, **_: object) -> NanoVisionOutput:
        """Encode images of shape (images 3 height width), normalised, with sides that are multiples of ``patch_size``.

        Args:
            pixel_values: The images.
            interpolate_pos_encoding: Spread the positions of ``image_size`` over images of another size; otherwise
                positions count tokens, whatever the size.

        Raises:
            ValueError: If a side is not such a multiple.
        """
        height, width = pixel_values.shape[-2:]
        stride = self.config.patch_size
        if height % stride or width % stride:
            raise ValueError(f"image sides must be multiples of {stride}, got {height} x {width}")
        side = self.config.image_size // stride
        return self.encode(pixel_values, over=(side, side) if interpolate_pos_encoding else None)

    @abstractmethod
    def encode(self, pixel_values: Tensor, *, over: tuple[int, int] | None) -> NanoVisionOutput:
        """Return the token grid and the finer maps of images whose sides fit; ``over`` as in ``sine_positions``."""

    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Linear):
            nn.init.trunc_normal_(module.weight, std=module.in_features**-0.5)
            nn.init.zeros_(module.bias)
        elif isinstance(module, nn.BatchNorm2d | nn.LayerNorm):
            nn.init.ones_(module.weight)
            nn.init.zeros_(module.bias)


class NanoVisionModel(GridTower):
    """Image to token grid at stride 16, and maps at strides 4 and 8."""

    config: NanoVisionConfig
    config_class = NanoVisionConfig

    def __init__(self, config: NanoVisionConfig) -> None:
        super().__init__(config)
        stages, inputs = [], 3 * _FIRST_STRIDE**2
        for index, (channels, depth) in enumerate(zip(config.stem_channels, config.stem_depths, strict=True)):
            blocks = [_Residual(channels) for _ in range(depth)]
            stages.append(nn.Sequential(_ConvNorm(inputs, channels, stride=2 if index else 1), *blocks))
            inputs = channels
        self.stem = nn.ModuleList(stages)
        self.to_tokens = nn.Conv2d(inputs, config.hidden_size, 1)
        self.blocks = nn.ModuleList([TowerLayer(config) for _ in range(config.num_hidden_layers)])
        self.norm = nn.LayerNorm(config.hidden_size)
        self.fine = FineLevel(config.stem_channels[-2], config.hidden_size) if config.fine else None
        self.post_init()

    def encode(self, pixel_values: Tensor, *, over: tuple[int, int] | None) -> NanoVisionOutput:
        """See ``GridTower``."""
        # Folding 4 x 4 pixels into channels spares the maps at strides 1 and 2, half of the cost on a CPU.
        x = functional.pixel_unshuffle(pixel_values, _FIRST_STRIDE).contiguous(memory_format=torch.channels_last)
        maps = []
        for stage in self.stem:
            x = stage(x)
            maps.append(x)
        grid = self.to_tokens(x)
        tokens = grid.flatten(2).transpose(1, 2)
        tokens = tokens + sine_positions(*grid.shape[-2:], grid.shape[1], like=tokens, over=over)
        for block in self.blocks:
            tokens = block(tokens)
        if self.fine is not None:
            laid = tokens.transpose(1, 2).unflatten(2, grid.shape[-2:])
            maps[-2], added = self.fine(maps[-2], laid)
            tokens = tokens + added
        tokens = self.norm(tokens)
        return NanoVisionOutput(last_hidden_state=tokens, hidden_states=(tokens,), feature_maps=tuple(maps[:-1]))


def trained_pixels(config: PretrainedConfig) -> int | None:
    """Return how many pixels the images of a pretrained nano had, which takes others too; None for other models."""
    vision = config.vision_config
    return vision.image_size**2 if vision.model_type == NanoVisionConfig.model_type else None


AutoConfig.register(NanoVisionConfig.model_type, NanoVisionConfig, exist_ok=True)
AutoModel.register(NanoVisionConfig, NanoVisionModel, exist_ok=True)

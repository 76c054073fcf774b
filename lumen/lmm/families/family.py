"""What one LMM family is to the adapter: a record of small functions, with the most common answer as default.

Legend: I images, T image tokens of one image, L tokens of the prefix. ``lmm_hw`` is the image size the LMM itself gets,
``token_hw`` the grid of its image tokens: ``lmm_hw`` over ``InputSpec.multiple``, unless a connector changes it.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from transformers import PretrainedConfig
from transformers.modeling_outputs import BaseModelOutputWithPooling

from lumen.errors import ConfigError

Size = tuple[int, int]


@dataclass(frozen=True, slots=True)
class InputSpec:
    """Which image sizes a model takes.

    Args:
        multiple: Sides must be multiples of this many pixels: the stride of the grid of image tokens.
        fixed_hw: The only size, or None when any multiple will do.
    """

    multiple: int
    fixed_hw: Size | None

    def chosen_hw(self, input_hw: Sequence[int] | None, max_pixels: int) -> Size:
        """Return the size of images to use: the one asked for, else the only one, else a square within a budget.

        Args:
            input_hw: Height and width asked for, if any.
            max_pixels: Bound on height times width where any multiple will do.

        Raises:
            ConfigError: The size asked for is not taken, or the budget is below one cell.
        """
        side = math.isqrt(max_pixels) // self.multiple * self.multiple
        size = self.fixed_hw or (side, side) if input_hw is None else (int(input_hw[0]), int(input_hw[1]))
        self.check(size)
        return size

    def check(self, size_hw: Size) -> None:
        """Refuse images of a size that is not taken.

        Raises:
            ConfigError: They are of such a size.
        """
        if self.fixed_hw:
            is_taken = size_hw == self.fixed_hw
        else:
            is_taken = min(size_hw) > 0 and not any(side % self.multiple for side in size_hw)
        if not is_taken:
            wanted = f"{self.fixed_hw}" if self.fixed_hw else f"multiples of {self.multiple}"
            raise ConfigError(
                f"this LMM takes images of {wanted} pixels, got {size_hw}: set model.input_hw, or leave it out"
            )


def encode_plainly(model: nn.Module, pixels: Float[Tensor, "images 3 height width"]) -> BaseModelOutputWithPooling:
    """Run tower and connector of a model that takes nothing but ``pixel_values``."""
    return model.get_image_features(pixels)


def take_images(output: BaseModelOutputWithPooling, images: Sequence[int]) -> BaseModelOutputWithPooling:
    """Return the image tokens of some images, repeated as asked, in the form the model gave them."""
    features = output.pooler_output
    chosen = features[list(images)] if isinstance(features, Tensor) else [features[image] for image in images]
    return BaseModelOutputWithPooling(pooler_output=chosen)


def last_states(config: PretrainedConfig, output: BaseModelOutputWithPooling, tower_hw: Size) -> Tensor:
    """Return the tower's last states as a grid, without a class token if there is one."""
    return to_grid(output.last_hidden_state, tower_hw)


def to_grid(tokens: Float[Tensor, "images tokens dim"], grid_hw: Size) -> Float[Tensor, "images dim height width"]:
    """Lay row-major tokens out; tokens before the last height * width, such as a class token, are dropped."""
    return tokens[:, -grid_hw[0] * grid_hw[1] :].transpose(1, 2).unflatten(2, grid_hw)


def repeat_token(config: PretrainedConfig, token: str, token_hw: Size) -> str:
    """Return the image token once per cell."""
    return token * (token_hw[0] * token_hw[1])


def count_on(model: nn.Module, prefix: Int[Tensor, " length"], token_hw: Size) -> Int[Tensor, "1 length"]:
    """Return positions 0, 1, 2 and so on."""
    return torch.arange(len(prefix), device=prefix.device)[None]


def sees_no_future(config: PretrainedConfig, prefix: Int[Tensor, " length"]) -> Bool[Tensor, " length"] | None:
    """Return None: the prefix is causal."""
    return None


def needs_nothing(
    config: PretrainedConfig, rows: Int[Tensor, "rows length"], start: int | Int[Tensor, "rows 1"]
) -> dict[str, Tensor]:
    """Return no further inputs."""
    return {}


def needs_no_grid(config: PretrainedConfig, rows: Int[Tensor, "rows length"], token_hw: Size) -> dict[str, Tensor]:
    """Return no further inputs."""
    return {}


def patch_stride(config: PretrainedConfig) -> int:
    """Return the side of a patch of the vision tower, in pixels.

    Raises:
        ConfigError: It is not a whole number, nor a list of such.
    """
    size = config.vision_config.patch_size
    side = size[0] if isinstance(size, list | tuple) and size else size
    if type(side) is not int:
        raise ConfigError(f"patch_size of the vision tower must be a whole number of pixels, got {size!r}")
    return side


def fixed_square(config: PretrainedConfig, stride: int) -> InputSpec:
    """Return the square the tower was made for, without the border that fills no token."""
    size = config.vision_config.image_size
    side = (size if isinstance(size, int) else size[0]) // stride * stride
    return InputSpec(stride, (side, side))


def patch_square(config: PretrainedConfig) -> InputSpec:
    """Return the tower's square, one image token per patch."""
    return fixed_square(config, patch_stride(config))


def tower_width(config: PretrainedConfig) -> int:
    """Return the width of the vision tower."""
    return config.vision_config.hidden_size


@dataclass(frozen=True, slots=True)
class Family:
    """The functions of one family. One tile per image: tiling is switched off everywhere.

    Args:
        input_spec: Config to accepted sizes.
        encode: Model and normalised pixels to the output of tower and connector.
        take: Encoded images and image numbers to what ``mm_encoder_outputs`` takes for rows that show these images.
        vision_grid: Config, encoded images and (height, width) in patches to dense features of the vision tower, of
            shape (I, vision_dim, height, width).
        vision_stride: Config to input pixels per cell of ``vision_grid``.
        vision_dim: Config to channels of ``vision_grid``.
        laterals: Encoded images to finer maps, finest first; empty where the tower has none.
        lateral_channels: Config to channels of each lateral map.
        placeholder: What stands for an image in the chat template; None for the image token itself.
        image_text: Config, image token and ``token_hw`` to the text that replaces the placeholder; in it, the
            first image tokens are the cells of ``token_hw`` in order.
        edges: Config to the ids of two tokens around ``image_text``, where the tokenizer alone has their names.
        positions: Model, prefix and ``token_hw`` to positions of the prefix, (axes, L); a suffix continues at the
            largest plus 1 on every axis.
        sees_future: Config and prefix to the tokens that see each other in both directions, (L), or None.
        plain_inputs: Config, token ids and the column behind the prefix, one number or one per row, to what the model
            takes beside ids, mask, positions.
        writing_inputs: Config, token ids and ``token_hw`` to what its ``generate`` takes beside that, where it counts
            positions itself.
        encode_dense: Model and pixels of another size to the tower's states at that size; None where it cannot.
        encode_tower: Model and normalised pixels to the output of the tower alone, with all ``hidden_states``, for a
            connector in place of the model's own; None where there can be no other.
        token_hw: Height and width of the image in ``InputSpec.multiple`` to ``token_hw``; one row where an image token
            stands for no place.
        clip_tokens: Height and width as for ``token_hw``, and frames, to the number of image tokens of a clip; None
            where no clip is taken. Otherwise ``encode`` takes pixels of clips too, (clips, frames, 3, height, width),
            and gives dense features that are means over the frames.
        edge_tokens: Tokens that ``image_text`` needs and a tokenizer may lack.
        splits: Whether packed rows go through ``lumen.lmm.packing.prefix_attention``; else through one masked square.
        chat_template: Used where the tokenizer has none.
        has_token_grid: Whether an image token stands for a place in the image.
    """

    input_spec: Callable[[PretrainedConfig], InputSpec] = patch_square
    encode: Callable[[nn.Module, Tensor], BaseModelOutputWithPooling] = encode_plainly
    take: Callable[[BaseModelOutputWithPooling, Sequence[int]], BaseModelOutputWithPooling] = take_images
    vision_grid: Callable[[PretrainedConfig, BaseModelOutputWithPooling, Size], Tensor] = last_states
    vision_stride: Callable[[PretrainedConfig], int] = patch_stride
    vision_dim: Callable[[PretrainedConfig], int] = tower_width
    laterals: Callable[[BaseModelOutputWithPooling], tuple[Tensor, ...]] = lambda output: ()
    lateral_channels: Callable[[PretrainedConfig], tuple[int, ...]] = lambda config: ()
    placeholder: str | None = None
    image_text: Callable[[PretrainedConfig, str, Size], str] = repeat_token
    edges: Callable[[PretrainedConfig], tuple[int, int] | None] = lambda config: None
    positions: Callable[[nn.Module, Tensor, Size], Tensor] = count_on
    sees_future: Callable[[PretrainedConfig, Tensor], Tensor | None] = sees_no_future
    plain_inputs: Callable[[PretrainedConfig, Tensor, int | Tensor], dict[str, Tensor]] = needs_nothing
    writing_inputs: Callable[[PretrainedConfig, Tensor, Size], dict[str, Tensor]] = needs_no_grid
    encode_dense: Callable[[nn.Module, Tensor], BaseModelOutputWithPooling] | None = None
    encode_tower: Callable[[nn.Module, Tensor], BaseModelOutputWithPooling] | None = None
    token_hw: Callable[[Size], Size] = lambda grid_hw: grid_hw
    clip_tokens: Callable[[Size, int], int] | None = None
    edge_tokens: tuple[str, ...] = ()
    splits: bool = True
    chat_template: str | None = None
    has_token_grid: bool = True

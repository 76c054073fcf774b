"""Dense features of an image: the grid of the vision tower, the LLM's states at the image tokens, or both."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from torch.nn import functional
from transformers import PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPooling

from lumen.errors import ConfigError
from lumen.lmm.encoded import EncodedImages
from lumen.lmm.families import Family, InputSpec
from lumen.lmm.families.family import to_grid
from lumen.lmm.pixels import ImageStatistics

SOURCES = ("vision", "llm", "both")


@dataclass(frozen=True, slots=True)
class FeatureSource:
    """Where ``LocFeatures.grid`` comes from.

    Args:
        family: The family's functions.
        config: The LMM's config.
        kind: ``vision``, the vision tower; ``llm``, the LLM's states at the image tokens; ``both``, one after the
            other, on the grid of the tower.
        dense_hw: Height and width of the images when the tower's grid comes from a second pass at this size.
        names: Whether the image tokens learn to name what they show.

    Raises:
        ConfigError: If the family cannot do that.
    """

    family: Family
    config: PretrainedConfig
    kind: str = "vision"
    dense_hw: tuple[int, int] | None = None
    names: bool = False

    def __post_init__(self) -> None:
        if self.kind != "vision" and not self.family.has_token_grid:
            raise ConfigError(
                f"features={self.kind!r} needs image tokens that stand for places, and those of "
                f"{self.config.model_type!r} stand for the whole image: use features='vision'"
            )
        if self.names and not self.family.has_token_grid:
            raise ConfigError(
                "name_tokens needs image tokens that stand for places, and those of this connector stand for the "
                "whole image: set it to 0"
            )
        is_any_size = self.family.input_spec(self.config).fixed_hw is None
        if self.dense_hw and (self.family.encode_dense is None or is_any_size or self.kind == "llm"):
            raise ConfigError(
                "dense_hw needs features='vision' or 'both', and an LMM of one size of images with a tower whose "
                f"position embedding can be resized, got features={self.kind!r} and {self.config.model_type!r}"
            )
        if fixed_hw := self.input_spec.fixed_hw:
            self.token_hw(fixed_hw)  # a connector that cannot take the only size is found before weights load

    @property
    def input_spec(self) -> InputSpec:
        """Which image sizes are taken."""
        if self.dense_hw:
            return InputSpec(self.family.vision_stride(self.config), self.dense_hw)
        return self.family.input_spec(self.config)

    def check_size(self, size_hw: tuple[int, int]) -> None:
        """Refuse images of a size that is not taken.

        Raises:
            ConfigError: If they are of such a size.
        """
        self.input_spec.check(size_hw)

    @property
    def dim(self) -> int:
        """Channels of the features."""
        widths = {"vision": self.family.vision_dim(self.config), "llm": self.config.text_config.hidden_size}
        return widths.get(self.kind, sum(widths.values()))

    def lmm_hw(self, input_hw: Sequence[int]) -> tuple[int, int]:
        """Return the size that the LMM itself gets for images of this size."""
        height, width = self.family.input_spec(self.config).fixed_hw or input_hw
        return height, width

    def token_hw(self, input_hw: Sequence[int]) -> tuple[int, int]:
        """Return the grid of image tokens for images of this size; one row where they lie on no grid.

        Raises:
            ConfigError: If a connector does not take the grid of the tower.
        """
        stride = self.family.input_spec(self.config).multiple
        height, width = self.lmm_hw(input_hw)
        return self.family.token_hw((height // stride, width // stride))

    def token_hw_of(self, images: UInt8[Tensor, "images *frames 3 height width"]) -> tuple[int, int]:
        """Return ``token_hw`` of images, or of clips, whose tokens lie on no grid.

        Raises:
            ConfigError: See ``token_hw``; also if they are clips, and the LMM or the options take none.
        """
        if images.ndim == 4:
            return self.token_hw(images.shape[-2:])
        stride = self.family.input_spec(self.config).multiple
        if self.family.clip_tokens is None or self.kind != "vision" or self.dense_hw or self.names:
            raise ConfigError(
                f"the samples are clips, {tuple(images.shape)}: they need a connector that takes clips as "
                "base.connector, features='vision', and neither dense_hw nor name_tokens"
            )
        return 1, self.family.clip_tokens((images.shape[-2] // stride, images.shape[-1] // stride), images.shape[1])

    def encode(
        self,
        base_model: PreTrainedModel,
        images: UInt8[Tensor, "images *frames 3 height width"],
        statistics: ImageStatistics,
    ) -> BaseModelOutputWithPooling:
        """Run the vision tower and the connector; in two passes where there is a ``dense_hw``."""

        def pixels(sized: UInt8[Tensor, "..."]) -> Float[Tensor, "..."]:
            frames = statistics.normalise(sized.flatten(0, -4)).to(base_model.dtype)
            return frames.unflatten(0, sized.shape[:-3])

        if not self.dense_hw:
            return self.family.encode(base_model.base_model, pixels(images))
        # The LMM gets the images at its own size; the dense features come from a pass at the larger one.
        lmm_hw = self.lmm_hw(images.shape[-2:])
        small = functional.interpolate(images.float(), lmm_hw, mode="bilinear", antialias=True)
        states = self.family.encode(base_model.base_model, pixels(small.round().to(torch.uint8)))
        dense = self.family.encode_dense(base_model.base_model, pixels(images))
        states.hidden_states, states.last_hidden_state = dense.hidden_states, dense.last_hidden_state
        return states

    def grid(
        self,
        encoded: EncodedImages,
        states: Float[Tensor, "images length dim"] | None,
        prefix: Sequence[int],
    ) -> Float[Tensor, "images vision_dim height width"]:
        """Return the features.

        Args:
            encoded: The images.
            states: The LLM's states of the prefix of each image; read for ``llm`` and ``both`` only.
            prefix: Tokens of the prefix.
        """
        if self.kind == "llm":
            return self._image_states(states, prefix, encoded.token_hw)
        stride = self.family.vision_stride(self.config)
        tower_hw = (encoded.input_hw[0] // stride, encoded.input_hw[1] // stride)
        vision = self.family.vision_grid(self.config, encoded.states, tower_hw)
        if self.kind == "vision":
            return vision
        # The LLM's grid may be coarser than the tower's: some connectors merge patches.
        tokens = self._image_states(states, prefix, encoded.token_hw)
        return torch.cat([vision, functional.interpolate(tokens, vision.shape[-2:], mode="nearest-exact")], 1)

    def _image_states(
        self, states: Float[Tensor, "images length dim"], prefix: Sequence[int], token_hw: tuple[int, int]
    ) -> Float[Tensor, "images dim height width"]:
        """Return the states at the image tokens; a newline behind the cells is left out."""
        is_image = torch.tensor(prefix) == self.config.image_token_id
        columns = is_image.nonzero()[: token_hw[0] * token_hw[1], 0].to(states.device, non_blocking=True)
        return to_grid(states[:, columns], token_hw)

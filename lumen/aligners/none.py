"""No aligner: for models whose tasks are all answered as text, such as an LMM that writes boxes."""

from collections.abc import Mapping, Sequence
from typing import ClassVar

from jaxtyping import Float
from torch import Tensor, nn

from lumen.errors import ConfigError
from lumen.registry import MODELS
from lumen.structures import FeatureWidths, LocFeatures, PerceptionSample, SharedRepresentation


@MODELS.register_module()
class NoAligner(nn.Module):
    """Passes on what the LMM wrote; there are no pairs, and so no heatmaps.

    Args:
        widths: Not used.
    """

    losses: ClassVar[Mapping[str, str]] = {}
    """None."""

    has_heat: ClassVar[bool] = False
    """As in ``DenseAligner``."""

    channels = 1
    """Width of what decoders would read."""

    def __init__(self, *, widths: FeatureWidths) -> None:
        super().__init__()

    def forward(self, features: LocFeatures, map_queries: Float[Tensor, "queries channels"]) -> SharedRepresentation:
        """Return a representation without pairs.

        Raises:
            ConfigError: A prompt is a location prompt.
        """
        if len(features.image_index):
            raise ConfigError(
                "this model answers as text only, and was asked to locate: give it an aligner such as DenseAligner"
            )
        images, _, height, width = features.grid.shape
        return SharedRepresentation(
            heat_logits=features.grid.new_zeros(0, 1, height, width),
            presence_logits=features.grid.new_zeros(0),
            query=features.grid.new_zeros(0, self.channels),
            dense=features.grid.new_zeros(images, self.channels, height, width),
            image_index=features.image_index,
            prompt_index=features.prompt_index,
            maps=features.grid.new_zeros(0, len(map_queries), height, width),
            stride=features.stride,
            extras=features.extras,
        )

    def loss(self, shared: SharedRepresentation, samples: Sequence[PerceptionSample]) -> dict[str, Tensor]:
        """Return no losses."""
        return {}

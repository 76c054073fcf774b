"""The slot aligner: a vector per pair for each slot, from the LMM's state alone. Nothing is matched with the image."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

from jaxtyping import Float
from torch import Tensor, nn

from lumen.aligners.fine import FinePath
from lumen.errors import ConfigError
from lumen.proposals import Proposals
from lumen.registry import MODELS
from lumen.structures import FeatureWidths, LocFeatures, PerceptionSample, SharedRepresentation


@MODELS.register_module()
class SlotAligner(nn.Module):
    """Project the state of each slot to a vector, which decoders read as ``SharedRepresentation.slots``.

    It gives no heatmap and no presence, so decoders that read them cannot be plugged in (``TaskSpec.needs_heat``).

    Args:
        widths: Those of the adapter's features; filled in from the LMM.
        slots: Tokens of the template whose states are read; none for a model that answers in words only.
        channels: Width of the vectors, and of ``dense``.
        fine_levels: How many lateral maps refine ``dense``; left out, ``dense`` has no cells.
        objects: Project the tokens of proposals too, for a decoder that chooses among them.

    Raises:
        ConfigError: The template has no such slot, or the LMM fewer finer maps than ``fine_levels``.

    Source:
        The projectors of Xu et al., "u-LLaVA" (2024), section 3.2: two layers with ReLU, one pair for each slot.
    """

    losses: ClassVar[Mapping[str, str]] = {}
    """It learns by the losses of the decoders alone."""
    has_heat: ClassVar[bool] = False
    """As in ``DenseAligner``."""

    def __init__(
        self,
        *,
        widths: FeatureWidths,
        slots: Sequence[str] = (),
        channels: int = 256,
        fine_levels: int | None = None,
        objects: bool = False,
    ) -> None:
        super().__init__()
        unknown = [slot for slot in slots if slot not in widths.slots]
        if unknown:
            raise ConfigError(
                f"unknown slots {unknown}: those of the template are {list(widths.slots)}; features from a cache have "
                "none"
            )
        self.slots = tuple(slots)
        self.channels = channels
        # A list, since names of parameters with brackets could not be matched by patterns.
        self.projectors = nn.ModuleList(_projector(widths.query, channels) for _ in slots)
        self.to_objects = _projector(widths.query, channels) if objects else None
        self.has_dense = fine_levels is not None
        if self.has_dense:
            self.to_image = nn.Conv2d(widths.grid, channels, 1)
            self.fine = FinePath(channels, widths.laterals, fine_levels)

    def forward(self, features: LocFeatures, map_queries: Float[Tensor, "0 channels"]) -> SharedRepresentation:
        """Return the vectors of all pairs, and the dense map of each image."""
        num_pairs, dense, stride = len(features.image_index), self._dense(features), features.stride
        pairs = zip(self.slots, self.projectors, strict=True)
        vectors = {slot: project(features.slots[slot].to(project[0].weight.dtype)) for slot, project in pairs}
        query = next(iter(vectors.values()), dense.new_zeros(num_pairs, self.channels))
        return SharedRepresentation(
            heat_logits=None,
            presence_logits=None,
            query=query,
            dense=dense,
            image_index=features.image_index,
            prompt_index=features.prompt_index,
            maps=dense.new_zeros(num_pairs, 0, *dense.shape[-2:]),
            stride=stride >> self.fine.num_levels if self.has_dense else stride,
            extras=self._extras(features),
            slots=vectors,
        )

    def loss(self, shared: SharedRepresentation, samples: Sequence[PerceptionSample]) -> dict[str, Tensor]:
        """Return no losses."""
        return {}

    def _extras(self, features: LocFeatures) -> Mapping[str, Any]:
        found: Proposals | None = features.extras.get("proposals")
        if self.to_objects is None or found is None:
            return features.extras
        tokens = self.to_objects(found.tokens.to(self.to_objects[0].weight.dtype))
        return {**features.extras, "proposals": replace(found, tokens=tokens)}

    def _dense(self, features: LocFeatures) -> Float[Tensor, "images channels height width"]:
        if not self.has_dense:
            return features.grid.new_zeros(len(features.grid), self.channels, 0, 0)
        dtype = self.to_image.weight.dtype
        laterals = [lateral.to(dtype) for lateral in features.laterals]
        return self.fine(self.to_image(features.grid.to(dtype)), laterals)


def _projector(dim: int, channels: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(dim, dim), nn.ReLU(), nn.Linear(dim, channels))

"""u-LLaVA's connector: one linear layer for images, and for clips tokens of time and of space."""

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from lumen.errors import ConfigError
from lumen.lmm.connectors.base import Connector
from lumen.lmm.families.family import Size
from lumen.registry import MODELS

PARTS = ("time", "space")


@MODELS.register_module()
class ClipConnector(Connector):
    """One linear layer, for the cells of an image, and for the means of the frames and of the cells of a clip.

    A clip of T frames of P cells gives T tokens of time, each the mean of a frame, and then P tokens of space, each the
    mean of a cell over the frames. Tokens of space forget the order of the frames, tokens of time forget places.

    Args:
        vision_dim: See ``Connector``.
        dim: See ``Connector``.
        parts: Which tokens a clip gives: ``time``, ``space``, or both, in this order.
        **options: ``levels``, ``begin`` and ``end`` of ``Connector``; images and clips share the two tokens, where P
            has a pair for each.

    Raises:
        ConfigError: ``parts`` names another part, or none.

    Source:
        Xu et al., "u-LLaVA" (2024), section 3.1, after Maaz et al., "Video-ChatGPT" (2023), section 3.1.
    """

    takes_clips: ClassVar[bool] = True

    def __init__(self, vision_dim: int, dim: int, *, parts: Sequence[str] = PARTS, **options: Any) -> None:
        super().__init__(vision_dim, dim, **options)
        if not parts or not set(parts) <= set(PARTS):
            raise ConfigError(f"ClipConnector.parts must be some of {PARTS}, got {tuple(parts)}")
        self.parts = tuple(part for part in PARTS if part in parts)
        self.linear = nn.Linear(vision_dim * self.num_levels, dim)

    def num_clip_tokens(self, grid_hw: Size, frames: int) -> int:
        """Return the number of image tokens of a clip."""
        counts = {"time": frames, "space": self.num_tokens(grid_hw)}
        return sum(counts[part] for part in self.parts)

    def forward(
        self, states: Sequence[Float[Tensor, "images *frames cells vision_dim"]], grid_hw: Size
    ) -> Float[Tensor, "images tokens dim"]:
        """Project the cells of images, or the means of clips."""
        cells = torch.cat(list(states), -1)
        if cells.ndim == 4:
            means = {"time": cells.mean(2), "space": cells.mean(1)}
            cells = torch.cat([means[part] for part in self.parts], 1)
        return self.linear(cells)

    def extra_repr(self) -> str:
        """Return its options in words."""
        parts = "" if self.parts == PARTS else f"parts={self.parts}"
        return ", ".join(filter(None, [parts, super().extra_repr()]))

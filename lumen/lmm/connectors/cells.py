"""Connectors that read the tower cell by cell, or block by block: their tokens keep their places."""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from lumen.errors import ConfigError
from lumen.lmm.connectors.base import Connector
from lumen.lmm.families.family import Size
from lumen.options import check_choice
from lumen.registry import MODELS


@MODELS.register_module()
class LinearConnector(Connector):
    """One linear layer per cell; several levels are concatenated.

    Args:
        vision_dim: See ``Connector``.
        dim: See ``Connector``.
        **options: Those of ``Connector``, such as ``levels``.

    Source:
        Liu et al., "Visual Instruction Tuning" (2023), section 4.1.
    """

    def __init__(self, vision_dim: int, dim: int, **options: Any) -> None:
        super().__init__(vision_dim, dim, **options)
        self.linear = nn.Linear(vision_dim * self.num_levels, dim)

    def forward(
        self, states: Sequence[Float[Tensor, "images cells vision_dim"]], grid_hw: Size
    ) -> Float[Tensor, "images tokens dim"]:
        """Project each cell."""
        return self.linear(torch.cat(list(states), -1))


@MODELS.register_module()
class MlpConnector(Connector):
    """Two linear layers with a GELU between them, per cell; several levels are concatenated.

    Args:
        vision_dim: See ``Connector``.
        dim: See ``Connector``.
        **options: Those of ``Connector``, such as ``levels``.

    Source:
        Liu et al., "Improved Baselines with Visual Instruction Tuning" (2024), section 3.3.
    """

    def __init__(self, vision_dim: int, dim: int, **options: Any) -> None:
        super().__init__(vision_dim, dim, **options)
        self.mlp = _mlp(vision_dim * self.num_levels, dim)

    def forward(
        self, states: Sequence[Float[Tensor, "images cells vision_dim"]], grid_hw: Size
    ) -> Float[Tensor, "images tokens dim"]:
        """Project each cell."""
        return self.mlp(torch.cat(list(states), -1))


@MODELS.register_module()
class PoolConnector(Connector):
    """The mean of the cells of each block, and two linear layers with a GELU between them: places are kept.

    The number of image tokens stays the same whatever the size of the image.

    Args:
        vision_dim: See ``Connector``.
        dim: See ``Connector``.
        out_hw: Grid of the image tokens.
        mode: ``exact`` takes grids that it divides into equal blocks, and refuses others; ``adaptive`` takes any.
        **options: Those of ``Connector``, such as ``levels``.

    Raises:
        ConfigError: The mode is unknown.

    Source:
        The pool-adapter of InfMLLM (2023): average pooling, linear, GELU, linear.
    """

    def __init__(
        self, vision_dim: int, dim: int, *, out_hw: Sequence[int], mode: str = "exact", **options: Any
    ) -> None:
        super().__init__(vision_dim, dim, **options)
        check_choice("PoolConnector.mode", mode, ("exact", "adaptive"))
        self.out_hw = (int(out_hw[0]), int(out_hw[1]))
        self.mode = mode
        self.mlp = _mlp(vision_dim * self.num_levels, dim)

    def token_hw(self, grid_hw: Size) -> Size:
        """Return ``out_hw``.

        Raises:
            ConfigError: The mode is ``exact`` and the grid has no equal blocks.
        """
        if self.mode == "exact" and (grid_hw[0] % self.out_hw[0] or grid_hw[1] % self.out_hw[1]):
            raise ConfigError(
                f"PoolConnector(out_hw={self.out_hw}) needs a grid of multiples of it, got {grid_hw}: change the size "
                "of the images or out_hw, or set mode='adaptive'"
            )
        return self.out_hw

    def forward(
        self, states: Sequence[Float[Tensor, "images cells vision_dim"]], grid_hw: Size
    ) -> Float[Tensor, "images tokens dim"]:
        """Pool and project.

        Raises:
            ConfigError: See ``token_hw``.
        """
        out_hw, cells = self.token_hw(grid_hw), torch.cat(list(states), -1).transpose(1, 2).unflatten(2, grid_hw)
        if self.mode == "exact":
            blocks = functional.avg_pool2d(cells, (grid_hw[0] // out_hw[0], grid_hw[1] // out_hw[1]))
        else:
            blocks = functional.adaptive_avg_pool2d(cells, out_hw)
        return self.mlp(blocks.flatten(2).transpose(1, 2))

    def extra_repr(self) -> str:
        """Return its options in words."""
        return ", ".join(filter(None, [f"out_hw={self.out_hw}, mode={self.mode}", super().extra_repr()]))


def _mlp(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(inputs, outputs), nn.GELU(), nn.Linear(outputs, outputs))

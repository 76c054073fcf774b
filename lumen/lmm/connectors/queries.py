"""A connector that reads the tower by learned queries."""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import Blip2QFormerConfig, Blip2QFormerModel

from lumen.errors import ConfigError
from lumen.lmm.connectors.base import Connector
from lumen.lmm.families.family import Size
from lumen.ops.geometry import sine_positions
from lumen.registry import MODELS


@MODELS.register_module()
class QueryConnector(Connector):
    """A fixed number of learned queries that read the tower by cross-attention, in BLIP-2's Q-Former.

    Its tokens stand for no places. Each level has a linear layer and an embedding of its own; cells have fixed
    positions, so that any grid is taken. There is no dropout: packed and separate prompts see the same image tokens.

    Args:
        vision_dim: See ``Connector``.
        dim: See ``Connector``.
        num_queries: Image tokens.
        width: Width of the Q-Former, a multiple of 4 and of ``num_heads``.
        num_layers: Its layers.
        num_heads: Its attention heads.
        cross_every: Every so many layers, beginning with the first, read the tower.
        initializer_range: Standard deviation of weights and queries at the start. 0.02 suits BLIP-2's width of 768; a
            small width starts sooner from about ``width ** -0.5``.
        **options: ``levels``, ``begin`` and ``end`` of ``Connector``.

    Raises:
        ConfigError: The width does not fit.

    Source:
        Li et al., "BLIP-2" (2023), section 3.1. Queries start random, where transformers' BLIP-2 classes start them at
        0, so that they would stay equal for ever.
    """

    has_grid = False

    def __init__(
        self,
        vision_dim: int,
        dim: int,
        *,
        num_queries: int = 32,
        width: int = 768,
        num_layers: int = 12,
        num_heads: int = 12,
        cross_every: int = 2,
        initializer_range: float = 0.02,
        **options: Any,
    ) -> None:
        super().__init__(vision_dim, dim, **options)
        if width % 4 or width % num_heads:
            raise ConfigError(f"QueryConnector.width must be a multiple of 4 and of num_heads={num_heads}, got {width}")
        self.num_queries = num_queries
        config = Blip2QFormerConfig(
            hidden_size=width,
            num_hidden_layers=num_layers,
            num_attention_heads=num_heads,
            intermediate_size=4 * width,
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
            cross_attention_frequency=cross_every,
            encoder_hidden_size=width,
            initializer_range=initializer_range,
        )
        self.to_width = nn.ModuleList([nn.Linear(vision_dim, width) for _ in range(self.num_levels)])
        self.level = nn.Parameter(torch.randn(self.num_levels, width) * config.initializer_range)
        self.queries = nn.Parameter(torch.randn(num_queries, width) * config.initializer_range)
        self.qformer = Blip2QFormerModel(config)
        self.to_tokens = nn.Linear(width, dim)

    def token_hw(self, grid_hw: Size) -> None:
        """Return None: a query reads the whole image."""

    def num_tokens(self, grid_hw: Size) -> int:
        """Return the number of queries."""
        return self.num_queries

    def forward(
        self, states: Sequence[Float[Tensor, "images cells vision_dim"]], grid_hw: Size
    ) -> Float[Tensor, "images tokens dim"]:
        """Let the queries read the cells of all levels."""
        cells = self.cells(states, grid_hw)
        read = self.qformer(query_embeds=self.queries.expand(len(cells), -1, -1), encoder_hidden_states=cells)
        return self.to_tokens(read.last_hidden_state)

    def cells(
        self, states: Sequence[Float[Tensor, "images cells vision_dim"]], grid_hw: Size
    ) -> Float[Tensor, "images all_cells width"]:
        """Return what the queries read: the cells of one level after the other, with their positions."""
        cells = [project(each) + level for project, each, level in zip(self.to_width, states, self.level, strict=True)]
        positions = sine_positions(*grid_hw, self.queries.shape[1], like=cells[0])
        return torch.cat([each + positions for each in cells], 1)

    def extra_repr(self) -> str:
        """Return its options in words."""
        config = self.qformer.config
        sizes = (
            f"num_queries={self.num_queries}, width={config.hidden_size}, num_layers={config.num_hidden_layers}, "
            f"num_heads={config.num_attention_heads}, cross_every={config.cross_attention_frequency}"
        )
        return ", ".join(filter(None, [sizes, super().extra_repr()]))

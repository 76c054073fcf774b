"""Attention: the plain operation, and SAM's two-way layer with a second stream for map queries.

Legend: P pairs, T shared tokens, Q map queries, N image cells, C channels.
Source: Kirillov et al., "Segment Anything" (2023), appendix A, and the mask decoder of segment-anything (Apache-2.0).
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional


def attend(
    query: Float[Tensor, "batch heads queries width"],
    key: Float[Tensor, "batch heads keys width"],
    value: Float[Tensor, "batch heads keys width"],
) -> Float[Tensor, "batch heads queries width"]:
    """Return softmax attention without a mask.

    On a CPU the plain products are several times faster than torch's fused kernel at the small sizes met here, above
    all in the backward pass; elsewhere the fused kernel runs.
    """
    if query.device.type != "cpu":
        return functional.scaled_dot_product_attention(query, key, value)
    # Scaling the queries is cheaper than scaling the larger product.
    weights = (query * query.shape[-1] ** -0.5) @ key.transpose(-1, -2)
    return weights.softmax(-1).to(value.dtype) @ value


class Attention(nn.Module):
    """Multi-head attention that may work at a lower width than its inputs.

    Args:
        channels: Width of inputs and outputs.
        num_heads: Number of heads.
        downsample: ``channels`` is divided by this inside.
    """

    def __init__(self, channels: int, num_heads: int, *, downsample: int = 1) -> None:
        super().__init__()
        inner = channels // downsample
        if inner % num_heads:
            raise ValueError(f"{inner} inner channels cannot be split into {num_heads} heads")
        self.num_heads = num_heads
        self.query = nn.Linear(channels, inner)
        self.key = nn.Linear(channels, inner)
        self.value = nn.Linear(channels, inner)
        self.out = nn.Linear(inner, channels)

    def forward(
        self,
        query: Float[Tensor, "batch queries channels"],
        key: Float[Tensor, "batch_k keys channels"],
        value: Float[Tensor, "batch_k keys channels"],
        owner: Int[Tensor, " batch"] | None = None,
    ) -> Float[Tensor, "batch queries channels"]:
        """Attend; ``owner`` names the key row of each query row, so that shared keys are projected once."""
        # Projected once per image, then repeated for its pairs.
        keys, values = self.key(key), self.value(value)
        if owner is not None:
            keys, values = keys[owner], values[owner]
        mixed = attend(self._split(self.query(query)), self._split(keys), self._split(values))
        return self.out(mixed.transpose(1, 2).flatten(2))

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(2, (self.num_heads, -1)).transpose(1, 2)


class TwoWayLayer(nn.Module):
    """Tokens attend to each other and to the image, then the image attends to the tokens.

    Unlike in SAM, the first layer has a residual connection around its self-attention.

    Map queries go through the same weights as a second stream: each reads the shared tokens, itself and the image of
    this layer, and nothing reads it. So the first stream is bit for bit the same with and without them.

    Args:
        channels: Width.
        num_heads: Heads of every attention.
        mlp_channels: Width inside the token MLP.
        is_first: Whether this is the first layer, in which tokens are their own positions.
    """

    def __init__(self, channels: int, num_heads: int, mlp_channels: int, *, is_first: bool) -> None:
        super().__init__()
        self.is_first = is_first
        self.self_attention = Attention(channels, num_heads)
        self.to_image = Attention(channels, num_heads, downsample=2)
        self.mlp = nn.Sequential(nn.Linear(channels, mlp_channels), nn.ReLU(), nn.Linear(mlp_channels, channels))
        self.to_tokens = Attention(channels, num_heads, downsample=2)
        self.norms = nn.ModuleList([nn.LayerNorm(channels) for _ in range(4)])

    def forward(
        self,
        tokens: Float[Tensor, "pairs tokens channels"],
        token_position: Float[Tensor, "pairs tokens channels"],
        image: Float[Tensor, "rows cells channels"],
        image_position: Float[Tensor, "cells channels"],
        owner: Int[Tensor, " pairs"] | None,
    ) -> tuple[Float[Tensor, "pairs tokens channels"], Float[Tensor, "pairs cells channels"]]:
        """Return updated tokens and the image as each pair sees it; ``owner`` as in ``Attention``."""
        # Tokens among themselves; in the first layer they are their own positions, which count once.
        positioned = tokens if self.is_first else tokens + token_position
        tokens = self.norms[0](tokens + self.self_attention(positioned, positioned, tokens))
        # Tokens attend to the image.
        tokens = self._image_step(tokens, token_position, image, image_position, owner)
        # The image attends to the tokens; here each pair gets a copy of its image.
        pair_image = image if owner is None else image[owner]
        back = self.to_tokens(pair_image + image_position, tokens + token_position, tokens)
        return tokens, self.norms[3](pair_image + back)

    def second_stream(
        self,
        queries: Float[Tensor, "pairs queries channels"],
        query_position: Float[Tensor, "pairs queries channels"],
        tokens: Float[Tensor, "pairs tokens channels"],
        token_position: Float[Tensor, "pairs tokens channels"],
        image: Float[Tensor, "rows cells channels"],
        image_position: Float[Tensor, "cells channels"],
        owner: Int[Tensor, " pairs"] | None,
    ) -> Float[Tensor, "pairs queries channels"]:
        """Update map queries from the tokens and the image that this layer's first stream started from."""
        num_queries = queries.shape[1]
        # A row for each query: the shared tokens and the query itself, so that queries do not see each other.
        query, position = queries.flatten(0, 1)[:, None], query_position.flatten(0, 1)[:, None]
        around = torch.cat([tokens.repeat_interleave(num_queries, 0), query], 1)
        positions = torch.cat([token_position.repeat_interleave(num_queries, 0), position], 1)
        positioned = around if self.is_first else around + positions
        # The last token of each row is the query itself.
        mixed = self.self_attention(positioned[:, -1:], positioned, around)
        queries = self.norms[0](queries + mixed.view_as(queries))
        return self._image_step(queries, query_position, image, image_position, owner)

    def _image_step(
        self, tokens: Tensor, position: Tensor, image: Tensor, image_position: Tensor, owner: Tensor | None
    ) -> Tensor:
        seen = self.to_image(tokens + position, image + image_position, image, owner)
        tokens = self.norms[1](tokens + seen)
        return self.norms[2](tokens + self.mlp(tokens))


def mlp(channels: int, outputs: int, depth: int = 3) -> nn.Sequential:
    """Return ``depth`` linear layers with ReLU in between, as SAM's hypernetworks."""
    layers: list[nn.Module] = []
    for _ in range(depth - 1):
        layers += [nn.Linear(channels, channels), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(channels, outputs))

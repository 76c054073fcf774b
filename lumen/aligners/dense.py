"""The dense aligner: ``LocFeatures`` and the decoders' map queries to the shared representation.

Frame: input pixels. Two-way attention runs on the coarse grid, as in the paper; finer strides come after it, from a
``dense`` map that is computed once per image. Legend: P pairs, I images, C channels.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from lumen.aligners.convolutions import ConvolutionMixing
from lumen.aligners.fine import FinePath
from lumen.errors import ConfigError
from lumen.ops.attention import Attention, TwoWayLayer, mlp
from lumen.ops.geometry import sine_positions
from lumen.ops.grouping import place_in_image
from lumen.ops.heatmap import TARGETS, gaussian_focal_loss, ignore_weight
from lumen.ops.precision import without_autocast
from lumen.options import check_choice, read_options
from lumen.registry import MODELS
from lumen.structures import (
    FeatureWidths,
    LocFeatures,
    PerceptionSample,
    SharedRepresentation,
    targets_per_pair,
)

_SHARED_TOKENS = 2
_MIXINGS = ("attention", "convolutions")


@dataclass(frozen=True, slots=True)
class HeatOptions:
    """What the heatmap is trained to be.

    Args:
        target: ``centernet`` (the paper's, after its box size) or ``ttfnet`` (elliptic).
        point_sigma: Width, in heatmap cells, of the bump of a target without extent, such as a keypoint; paper: 2.
        prior: Probability that the heatmap starts from in every cell.

    Raises:
        ConfigError: The target is not an accepted value.
    """

    target: str = "centernet"
    point_sigma: float = 2.0
    prior: float = 0.1

    def __post_init__(self) -> None:
        check_choice("heat.target", self.target, tuple(sorted(TARGETS)))


@MODELS.register_module()
class DenseAligner(nn.Module):
    """Match each pair's query with the dense image features.

    Args:
        widths: Those of the adapter's features; filled in from the LMM.
        channels: Width of the shared representation.
        depth: Two-way layers; the paper has two.
        num_heads: Heads of every attention.
        mlp_channels: Width inside the token MLP.
        fine_levels: How many lateral maps refine the heatmap after the coarse product; 0 is the paper's setting.
        leak_map_queries: Let map queries join the tokens, as in the paper: the heatmap then depends on the decoders.
        mixing: How phrase and image meet on the coarse grid: ``attention``, the paper's two-way layers, or
            ``convolutions``, which the paper compares them with; ``depth``, heads and MLP are then not used.
        heat: What the heatmap is trained to be: ``HeatOptions``, or a dict of its fields.
        max_chunk_bytes: Bound on the image states held at once when no gradient is needed.

    Raises:
        ConfigError: If the LMM has fewer finer maps than ``fine_levels``, or ``mixing`` or an option of ``heat`` is not
            accepted, or map queries are to join the tokens where nothing mixes tokens.

    Source:
        Jiao et al., "Lumen" (2024), sections 3.1.2 and A.1. The fine levels and presence are ours.
    """

    losses: ClassVar[Mapping[str, str]] = {"loss_heat": "objects", "loss_presence": "pairs"}
    """Names of the losses, and the count that each sum is divided by."""
    has_heat: ClassVar[bool] = True
    """Whether it gives a heatmap and presence, and takes map queries."""

    def __init__(
        self,
        *,
        widths: FeatureWidths,
        channels: int = 256,
        depth: int = 2,
        num_heads: int = 8,
        mlp_channels: int = 2048,
        fine_levels: int = 0,
        leak_map_queries: bool = False,
        mixing: str = "attention",
        heat: HeatOptions | Mapping[str, Any] | None = None,
        max_chunk_bytes: int = 256 * 2**20,
    ) -> None:
        super().__init__()
        check_choice("mixing", mixing, _MIXINGS)
        self.mixing = ConvolutionMixing(channels) if mixing == "convolutions" else None
        if leak_map_queries and self.mixing is not None:
            raise ConfigError("leak_map_queries=True lets map queries join the tokens of mixing='attention' alone")
        self.heat = read_options(HeatOptions, heat, "heat")
        self.channels = channels
        self.leak_map_queries = leak_map_queries
        self.max_chunk_bytes = max_chunk_bytes
        self.query_norm = nn.LayerNorm(widths.query)
        self.to_query = _ToQuery(widths.query, channels)
        self.to_image = nn.Conv2d(widths.grid, channels, 1)
        self.heat_token = nn.Parameter(torch.randn(channels) * channels**-0.5)
        if self.mixing is None:
            self.layers = nn.ModuleList(
                TwoWayLayer(channels, num_heads, mlp_channels, is_first=index == 0) for index in range(depth)
            )
            self.final_attention = Attention(channels, num_heads, downsample=2)
            self.final_norm = nn.LayerNorm(channels)
        self.heat_kernel, self.map_kernel = mlp(channels, channels), mlp(channels, channels)
        self.heat_bias = nn.Parameter(torch.tensor([math.log(self.heat.prior / (1 - self.heat.prior))]))
        self.presence = nn.Sequential(nn.Linear(channels + 1, channels), nn.ReLU(), nn.Linear(channels, 1))
        self.fine = FinePath(channels, widths.laterals, fine_levels)
        if fine_levels:
            self.fine_heat_kernel, self.fine_map_kernel = mlp(channels, channels), mlp(channels, channels)
            # A direct path from the LMM's state to the kernel: heatmaps of phrases differ from the first step on.
            self.query_kernel = nn.Linear(widths.query, channels)

    def forward(self, features: LocFeatures, map_queries: Float[Tensor, "queries channels"]) -> SharedRepresentation:
        """Return the shared representation of all pairs; ``map_queries`` may have no rows."""
        dtype = self.to_image.weight.dtype  # an LMM may run in bf16 where the aligner does not
        # The maps of an image are computed once, however many pairs ask about it.
        image = self.to_image(features.grid.to(dtype))
        dense = self.fine(image, [lateral.to(dtype) for lateral in features.laterals])
        state = self.query_norm(features.query.to(dtype))
        # Each pair writes to a copy of its image, so without gradients pairs go through in chunks of bounded memory.
        pieces = [
            self._match(state[chunk], image, dense, features.image_index[chunk], map_queries)
            for chunk in self._chunks(len(state), image[0].numel())
        ]
        heat, presence, tokens, maps = (torch.cat(outputs) for outputs in zip(*pieces, strict=True))
        return SharedRepresentation(
            heat_logits=heat,
            presence_logits=presence,
            query=tokens,
            dense=dense,
            image_index=features.image_index,
            prompt_index=features.prompt_index,
            maps=maps,
            stride=features.stride >> self.fine.num_levels,
            extras=features.extras,
        )

    def loss(self, shared: SharedRepresentation, samples: Sequence[PerceptionSample]) -> dict[str, Tensor]:
        """Return sums: ``loss_heat`` over cells (divided by objects), ``loss_presence`` over pairs.

        Cells in crowd and ignored regions are excluded from the negative term; a pair with only such regions is
        excluded from presence.
        """
        targets = targets_per_pair(samples, shared)
        ignored = targets_per_pair(samples, shared, "ignored_instances")
        size_hw, num_pairs = tuple(shared.heat_logits.shape[-2:]), shared.num_pairs
        place = {"num_pairs": num_pairs, "size_hw": size_hw, "stride": shared.stride}
        paint = TARGETS[self.heat.target]
        heat = paint(targets.bboxes, targets.pair_index, **place, point_sigma=self.heat.point_sigma)
        weight = ignore_weight(ignored.bboxes, ignored.pair_index, **place) if len(ignored) else None
        # With only ignored regions it is unknown whether the phrase is present: such pairs do not train presence.
        present = torch.zeros(num_pairs, device=heat.device).index_fill_(0, targets.pair_index, 1)
        known = torch.ones_like(present).index_fill_(0, ignored.pair_index, 0).maximum(present)
        presence = functional.binary_cross_entropy_with_logits(
            shared.presence_logits.float(), present, weight=known, reduction="sum"
        )
        logits = shared.heat_logits[:, 0].float()
        focal = gaussian_focal_loss(logits, heat, weight=weight)
        return {
            # the kernels of the maps are parameters in use even where no decoder reads a map
            "loss_heat": focal + shared.maps.sum() * 0,
            "loss_presence": presence,
        }

    def _chunks(self, num_pairs: int, numbers_per_pair: int) -> list[slice]:
        """Split pairs so that their image states stay within the bound; at least one chunk, which may be empty."""
        step = max(1, num_pairs)
        if not torch.is_grad_enabled():
            step = max(1, self.max_chunk_bytes // (numbers_per_pair * 4 * 4))
        return [slice(start, start + step) for start in range(0, max(1, num_pairs), step)]

    def _match(
        self,
        state: Float[Tensor, "pairs dim"],
        image: Float[Tensor, "images channels height width"],
        dense: Float[Tensor, "images channels fine_height fine_width"],
        image_index: Int[Tensor, " pairs"],
        map_queries: Float[Tensor, "queries channels"],
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        num_pairs, height, width = len(state), *image.shape[-2:]
        # 1. Two shared tokens per pair: the query of the LMM and the learned heat token.
        query = self.to_query(state)
        shared = torch.stack([query, self.heat_token.to(query.dtype).expand_as(query)], 1)
        # 2. The map queries of the decoders, the same for every pair.
        queries = map_queries.to(query.dtype).expand(num_pairs, -1, -1)
        # 3. Tokens and image attend to each other. Map queries are a second stream that nothing else reads, so that the
        #    heatmap does not depend on the decoders; in the paper's setting they join the tokens.
        cells = image.flatten(2).transpose(1, 2)
        cell_position = sine_positions(height, width, self.channels, like=cells)
        if self.mixing is not None:
            tokens, cells = shared, self.mixing(query, image, image_index)
        elif self.leak_map_queries:
            joined = torch.cat([shared, queries], 1)
            tokens, _, cells = self._two_way(joined, queries[:, :0], cells, cell_position, image_index)
            tokens, queries = tokens[:, :_SHARED_TOKENS], tokens[:, _SHARED_TOKENS:]
        else:
            tokens, queries, cells = self._two_way(shared, queries, cells, cell_position, image_index)
        # In bfloat16 a heatmap has only a few thousand different values, and many peaks of equal height.
        with without_autocast(state):
            return self._read(state, tokens, queries, cells, dense, image_index, (height, width))

    def _read(
        self,
        state: Float[Tensor, "pairs dim"],
        tokens: Float[Tensor, "pairs 2 channels"],
        queries: Float[Tensor, "pairs queries channels"],
        cells: Float[Tensor, "pairs cells channels"],
        dense: Float[Tensor, "images channels fine_height fine_width"],
        image_index: Int[Tensor, " pairs"],
        size_hw: tuple[int, int],
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return heat logits, presence logits, tokens and maps; products are of float32."""
        dtype = self.heat_bias.dtype
        state, heat_token, queries = state.to(dtype), tokens[:, 1:2].to(dtype), queries.to(dtype)
        # 4. The heat token becomes a kernel over the cells, and each map query another. Two products: the number of
        #    map queries may change the summation order of a joint one, and so the last bits of the heatmap.
        heat = _product(self.heat_kernel(heat_token), cells, size_hw)
        maps = _product(self.map_kernel(queries), cells, size_hw)
        # 5. Finer levels add a product with the dense map of the image.
        if self.fine.num_levels:
            heat_kernel = self.fine_heat_kernel(heat_token) + self.query_kernel(state)[:, None]
            heat = _refine(heat, heat_kernel, dense, image_index)
            maps = _refine(maps, self.fine_map_kernel(queries), dense, image_index)
        heat = heat + self.heat_bias
        # 6. Presence reads the query token and the heatmap's peak; without gradient, so that it does not shape the
        #    heatmap.
        evidence = torch.cat([tokens[:, 0].to(dtype), heat.detach().amax((2, 3)).to(dtype)], 1)
        return heat, self.presence(evidence)[:, 0].float(), tokens[:, 0], maps

    def _two_way(
        self, tokens: Tensor, queries: Tensor, cells: Tensor, cell_position: Tensor, image_index: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Run all layers; the image is shared until the first layer has written to it."""
        token_position, query_position, owner = tokens, queries, image_index
        for layer in self.layers:
            # The second stream reads what the first one starts from, so it goes before it.
            if queries.shape[1]:
                queries = layer.second_stream(
                    queries, query_position, tokens, token_position, cells, cell_position, owner
                )
            tokens, cells = layer(tokens, token_position, cells, cell_position, owner)
            owner = None  # from here on each pair has an image of its own
        tokens = self._final(tokens, token_position, cells, cell_position)
        if queries.shape[1]:
            queries = self._final(queries, query_position, cells, cell_position)
        return tokens, queries, cells

    def _final(self, tokens: Tensor, position: Tensor, cells: Tensor, cell_position: Tensor) -> Tensor:
        return self.final_norm(tokens + self.final_attention(tokens + position, cells + cell_position, cells))


class _ToQuery(nn.Module):
    """Project the LMM's state to the aligner: two layers, as in LISA, plus a direct linear path.

    The direct path keeps phrases apart. Through ReLU alone two of them can collapse to one query permanently: in runs
    from scratch "square" and "heart" did, and shared one heatmap to the end.
    """

    def __init__(self, dim: int, channels: int) -> None:
        super().__init__()
        self.straight = nn.Linear(dim, channels)
        self.bent = nn.Sequential(nn.Linear(dim, dim), nn.GELU(), nn.Linear(dim, channels))

    def forward(self, state: Tensor) -> Tensor:
        return self.straight(state) + self.bent(state)


def _product(
    kernels: Float[Tensor, "pairs maps channels"],
    cells: Float[Tensor, "pairs cells channels"],
    size_hw: tuple[int, int],
) -> Float[Tensor, "pairs maps height width"]:
    return (kernels.float() @ cells.float().transpose(1, 2)).unflatten(2, size_hw)


def _refine(
    coarse: Float[Tensor, "pairs maps height width"],
    kernels: Float[Tensor, "pairs maps channels"],
    dense: Float[Tensor, "images channels fine_height fine_width"],
    image_index: Int[Tensor, " pairs"],
) -> Float[Tensor, "pairs maps fine_height fine_width"]:
    """Add the product of kernels and the fine dense map to the coarse maps, upsampled to the same grid."""
    size_hw = dense.shape[-2:]
    fine = _product_by_image(kernels.float(), dense.float().flatten(2), image_index)
    if coarse.numel():  # interpolation refuses empty tensors
        coarse = functional.interpolate(coarse, size=size_hw, mode="bilinear", align_corners=False)
        return coarse + fine.unflatten(2, size_hw)
    return fine.unflatten(2, size_hw) + coarse.sum()


def _product_by_image(
    kernels: Float[Tensor, "pairs maps channels"],
    dense: Float[Tensor, "images channels cells"],
    image_index: Int[Tensor, " pairs"],
) -> Float[Tensor, "pairs maps cells"]:
    """Multiply each pair's kernels with its image's dense map, without a copy of the map per pair.

    Pairs are laid out as (images, most pairs of an image), with empty places where an image has fewer.
    """
    if len(image_index) == 0:
        return kernels.new_zeros(0, kernels.shape[1], dense.shape[2]) + kernels.sum() + dense[:0].sum()
    place = place_in_image(image_index)
    most, num_maps, channels = int(place.max()) + 1, *kernels.shape[1:]
    slots = kernels.new_zeros(len(dense), most, num_maps, channels).index_put((image_index, place), kernels)
    product = slots.flatten(1, 2) @ dense
    return product.unflatten(1, (most, num_maps))[image_index, place]

"""Attention of packed rows in two pieces: the shared prefix by a kernel, each suffix's own block beside it.

Every token of a suffix sees the whole prefix and its own suffix so far. So the prefix needs no mask, the block of a
suffix is small, and the masked square over prefix and suffixes is never formed. Both pieces are softmax averages;
weighted by the sums under their softmax they give the average over all keys. Backwards, each piece takes the joint
result and the joint sum in the place of its own, which gives its share of the joint gradient.

The two pieces are for a CPU, whose kernel gives the sum under its softmax. Elsewhere, and where the suffix blocks are
not tiny, rows with one suffix are causal ``sdpa`` and others go through ``chunked_attention``.

Legend: R rows, H heads, S tokens behind the prefix, D width of a head, N suffixes of a row, T tokens of the longest.
Source: the merge is that of Dao et al., "FlashAttention" (2022), section 3.1; the shared piece after Juravsky et al.,
"Hydragen" (2024).
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx, once_differentiable
from transformers import AttentionInterface, Cache
from transformers.integrations.sdpa_attention import repeat_kv, sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

from lumen.lmm.packing.chunked_attention import Suffixes, chunked_attention, find_suffixes

SPLIT = "lumen_split"
"""Name of this attention in transformers; without a ``Split`` it is its ``sdpa``."""

_MAX_BLOCK_LOGITS = 2**22
"""Most products of a head within suffix blocks, empty places included, for which the blocks are laid out."""

_PAIR = tuple[Tensor, Tensor]


@dataclass(frozen=True, slots=True)
class Blocks:
    """Where the tokens of each suffix lie behind the prefix.

    Args:
        num_suffixes: Most suffixes of a row.
        longest: Tokens of the longest suffix.
        columns: Column of each token, by suffix; empty places name the column behind the last one. None where the
            suffixes of all rows are equally long and leave no gap.
    """

    num_suffixes: int
    longest: int
    columns: Int[Tensor, "rows places"] | None

    def filled(self, length: int) -> Bool[Tensor, "rows 1 suffixes longest 1"]:
        """Return which places hold a token, of rows with so many columns."""
        return (self.columns < length).unflatten(1, (1, self.num_suffixes, self.longest))[..., None]

    def lay(
        self, tokens: Float[Tensor, "rows heads length width"]
    ) -> Float[Tensor, "rows heads suffixes longest width"]:
        """Return the tokens by suffix; empty places hold any values."""
        if self.columns is not None:
            rows = torch.arange(len(tokens), device=tokens.device)[:, None]
            tokens = tokens.transpose(1, 2)[rows, self.columns.clamp(max=tokens.shape[2] - 1)].transpose(1, 2)
        return tokens.unflatten(2, (self.num_suffixes, self.longest))

    def restore(
        self, tokens: Float[Tensor, "rows heads suffixes longest width"], length: int, empty: float = 0.0
    ) -> Float[Tensor, "rows heads {length} width"]:
        """Return the tokens in their columns; padding gets ``empty``."""
        flat = tokens.flatten(2, 3)
        if self.columns is None:
            return flat
        rows = torch.arange(len(tokens), device=tokens.device)[:, None]
        restored = flat.new_full((len(flat), length + 1, flat.shape[1], flat.shape[3]), empty)
        restored[rows, self.columns] = flat.transpose(1, 2)
        return restored[:, :length].transpose(1, 2)


@dataclass(frozen=True, slots=True)
class Split:
    """How the rows of one pass are attended to.

    Args:
        start: Columns of the prefix in these rows; 0 where ``given`` holds it.
        suffixes: The suffixes; None where the rows are the prefix alone.
        blocks: The suffixes laid out for a CPU; None where they go another way.
        prefix_mask: Which key of the prefix each of its tokens sees; None for all earlier ones.
        given: Keys and values of prefixes; read where ``start`` is 0.
        chosen: Which of them each row has; None where there is one for all rows.
    """

    start: int
    suffixes: Suffixes | None
    blocks: Blocks | None
    prefix_mask: Bool[Tensor, "start start"] | None = None
    given: Cache | None = None
    chosen: Int[Tensor, " rows"] | None = None

    def prefix(self, layer: int, key: Tensor, value: Tensor) -> _PAIR:
        """Return keys and values of the prefix of each row, given those of its columns, in the dtype of ``value``."""
        if self.start:
            return key[:, :, : self.start], value[:, :, : self.start]
        held = self.given.layers[layer].keys.to(value.dtype), self.given.layers[layer].values
        if len(held[0]) == 1:
            return tuple(each.expand(len(key), -1, -1, -1) for each in held)
        return tuple(each.index_select(0, self.chosen.to(each.device)) for each in held)


def split_of(
    start: int,
    behind: Int[Tensor, "rows length"],
    device: torch.device,
    *,
    prefix_mask: Bool[Tensor, "start start"] | None = None,
    given: Cache | None = None,
    chosen: Int[Tensor, " rows"] | None = None,
) -> Split:
    """Return how rows are attended to.

    Args:
        start: See ``Split``.
        behind: The columns behind the prefix, of ``PackedRows.segments``; on the CPU, where it is read.
        device: Device of the pass.
        prefix_mask: See ``Split``.
        given: See ``Split``.
        chosen: See ``Split``.
    """
    is_prefix = not behind.numel() or int(behind.max()) < 1
    return Split(
        start,
        None if is_prefix else find_suffixes(behind, device),
        find_blocks(behind) if not is_prefix and device.type == "cpu" else None,
        prefix_mask,
        given,
        chosen,
    )


def find_blocks(behind: Int[Tensor, "rows length"]) -> Blocks | None:
    """Return the suffixes of the columns behind the prefix; None where suffix blocks would not be tiny."""
    rows, length = behind.shape
    num_suffixes = int(behind.max())
    # Tokens of each suffix of each row; column 0 stays 0, since padding is not counted.
    counts = torch.zeros(rows, num_suffixes + 1, dtype=torch.long)
    counts.scatter_add_(1, behind.clamp(min=0), (behind > 0).long())
    longest = int(counts.max())
    if rows * num_suffixes * longest**2 > _MAX_BLOCK_LOGITS:
        return None
    # Suffixes of one length lie in order already: a reshape is enough.
    if num_suffixes * longest == length and bool((counts[:, 1:] == longest).all()):
        return Blocks(num_suffixes, longest, None)
    # Each token goes to the place of its suffix and its rank within it; padding to one place too many.
    column = torch.arange(length).expand(rows, -1)
    first = (counts.cumsum(1) - counts).gather(1, behind.clamp(min=0))
    place = (behind - 1) * longest + column - first
    places = num_suffixes * longest
    columns = torch.full((rows, places + 1), length)
    columns.scatter_(1, place.where(behind > 0, places), column)
    return Blocks(num_suffixes, longest, columns[:, :places])


def split_attention(
    query: Float[Tensor, "rows heads length width"],
    prefix: _PAIR,
    behind: _PAIR,
    blocks: Blocks,
    scale: float,
) -> Float[Tensor, "rows heads length width"]:
    """Return the attention of each token behind the prefix over the prefix and its own suffix up to itself.

    Args:
        query: Queries of the tokens behind the prefix.
        prefix: Keys and values of the prefix, (rows, key heads, prefix, width).
        behind: Keys and values of the tokens behind it, (rows, key heads, length, width).
        blocks: Which of them are one suffix. Padding sees the prefix alone.
        scale: Factor of the products.
    """
    groups = query.shape[1] // behind[0].shape[1]
    return _SplitAttention.apply(query, *prefix, *(repeat_kv(tensor, groups) for tensor in behind), blocks, scale)


class _SplitAttention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: FunctionCtx,
        query: Tensor,
        prefix_key: Tensor,
        prefix_value: Tensor,
        key: Tensor,
        value: Tensor,
        blocks: Blocks,
        scale: float,
    ) -> Tensor:
        # 1. All queries over the shared prefix, without a mask: its average, and the log of the sum under its softmax.
        mixed, total = _attend(_fold(query, prefix_key), prefix_key, prefix_value, scale)
        mixed, total = mixed.reshape(query.shape[:3] + value.shape[3:]), total.reshape(query.shape[:3])
        # 2. Each suffix over itself, in small causal squares, one per suffix.
        logits = _block_logits(blocks.lay(query), blocks.lay(key), scale)
        block_total = logits.logsumexp(-1, keepdim=True)
        block = (logits - block_total).exp().to(value.dtype) @ blocks.lay(value)
        # 3. Back into columns. Padding has no block: the log of its sum is -inf, so that the prefix alone counts.
        block_total = blocks.restore(block_total, query.shape[2], -torch.inf)[..., 0]
        block = blocks.restore(block, query.shape[2])
        # 4. Merge: each piece weighs as much as the sum under its softmax, which for two is a sigmoid of the logs.
        share = (block_total - total).sigmoid()[..., None]
        mixed = torch.lerp(mixed.to(share.dtype), block.to(share.dtype), share).to(value.dtype)
        ctx.save_for_backward(query, prefix_key, prefix_value, key, value, mixed, torch.logaddexp(total, block_total))
        ctx.blocks, ctx.scale = blocks, scale
        return mixed

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, gradient: Tensor) -> tuple[Tensor | None, ...]:
        query, prefix_key, prefix_value, key, value, mixed, total = ctx.saved_tensors
        blocks, scale, length = ctx.blocks, ctx.scale, query.shape[2]
        # 1. The prefix: with the joint result and the joint sum, its kernel's own backward gives the joint gradient.
        folded = [_fold(tensor, prefix_key) for tensor in (gradient, query, mixed)]
        joint = _fold(total[..., None], prefix_key)[..., 0]
        query_grad, prefix_key_grad, prefix_value_grad = _attend_backward(
            *folded, joint, prefix_key, prefix_value, scale
        )
        # 2. The blocks: their weights are computed again, now as shares of the joint sum.
        lay = blocks.lay
        weights = (_block_logits(lay(query), lay(key), scale) - lay(total[..., None])).exp()
        if blocks.columns is not None:
            weights = weights.masked_fill(~blocks.filled(length).to(weights.device), 0)
        # 3. Through the softmax: the slope of the joint result stands for the sum over all keys, of both pieces.
        slope = (_precise(gradient) * _precise(mixed)).sum(-1, keepdim=True)
        back = (lay(gradient) @ lay(value).transpose(-1, -2) - lay(slope)) * weights * scale
        weights, back = weights.to(value.dtype), back.to(value.dtype)
        laid = (back @ lay(key), back.transpose(-1, -2) @ lay(query), weights.transpose(-1, -2) @ lay(gradient))
        block_query_grad, key_grad, value_grad = (blocks.restore(tensor, length) for tensor in laid)
        # 4. A query has a share of both pieces; keys and values belong to one.
        query_grad = query_grad.reshape(query.shape) + block_query_grad
        return query_grad, prefix_key_grad, prefix_value_grad, key_grad, value_grad, None, None


def _block_logits(query: Tensor, key: Tensor, scale: float) -> Float[Tensor, "rows heads suffixes longest longest"]:
    logits = (_precise(query) * scale) @ _precise(key).transpose(-1, -2)
    # Within a suffix attention is causal.
    future = torch.ones(logits.shape[-2:], dtype=torch.bool, device=logits.device).triu(1)
    return logits.masked_fill(future, -torch.inf)


def _fold(tokens: Float[Tensor, "rows heads length width"], key: Tensor) -> Float[Tensor, "rows key_heads many width"]:
    """Lay the heads that share keys one after the other: without a mask they are further queries of one head."""
    rows, heads, length, width = tokens.shape
    return tokens.reshape(rows, key.shape[1], heads // key.shape[1] * length, width)


def _attend(
    query: Tensor, key: Tensor, value: Tensor, scale: float
) -> tuple[Tensor, Float[Tensor, "rows heads length"]]:
    """Return attention without a mask, and the logarithm of the sum under its softmax."""
    return torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(query, key, value, 0.0, False, scale=scale)


def _attend_backward(
    gradient: Tensor, query: Tensor, mixed: Tensor, total: Tensor, key: Tensor, value: Tensor, scale: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of queries, keys and values, given the joint result and the joint logarithm of the sum."""
    return torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward(
        gradient, query, key, value, mixed, total, 0.0, False, scale=scale
    )


def _precise(tensor: Tensor) -> Tensor:
    return tensor if tensor.dtype == torch.float64 else tensor.float()


def _attention_forward(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    scaling: float | None = None,
    split: Split | None = None,
    **options: object,
) -> tuple[Tensor, None]:
    """Return what transformers' attention functions return: (rows, length, heads, width) and no weights."""
    if split is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, scaling=scaling, **options)
    # Under autocast positions leave queries and keys in float32.
    query, key = query.to(value.dtype), key.to(value.dtype)
    start, scale = split.start, query.shape[-1] ** -0.5 if scaling is None else scaling
    # One suffix in each row is plain causal attention; the padding behind it is not read.
    has_kernel = split.blocks is not None and query.shape[-1] == value.shape[-1]
    if start and split.prefix_mask is None and not has_kernel and (split.suffixes is None or split.suffixes.most == 1):
        return sdpa_attention_forward(module, query, key, value, None, scaling=scale, is_causal=True)
    pieces, prefix = [], split.prefix(module.layer_idx, key, value)
    if start:
        # The prefix attends to itself, causally unless the family opens it.
        mask = None if split.prefix_mask is None else split.prefix_mask[None, None]
        itself = sdpa_attention_forward(
            module, query[:, :, :start], *prefix, mask, scaling=scale, is_causal=mask is None
        )
        pieces.append(itself[0])
    if split.suffixes is not None:
        inputs = query[:, :, start:], prefix, (key[:, :, start:], value[:, :, start:])
        if has_kernel:
            mixed = split_attention(*inputs, split.blocks, scale)
        else:
            mixed = chunked_attention(*inputs, split.suffixes, scale)
        pieces.append(mixed.transpose(1, 2))
    return torch.cat(pieces, 1), None


AttentionInterface.register(SPLIT, _attention_forward)
AttentionMaskInterface.register(SPLIT, sdpa_mask)

"""Attention of packed rows on any device: a chunk of queries at a time, with logits and sums in float32.

A chunk of neighbouring columns sees the prefix, and the suffix keys from the first column of its suffixes to its
last column, so the masked square over prefix and suffixes is never formed. The backward pass forms the weights of a
chunk again.

Memory beside inputs, results and the float32 gradients of keys and values: a few tensors of ``logit_bytes``, which are
at most the larger of ``MAX_BYTES`` and what one row needs, 4 * H * 128 * (P + 128 + longest suffix) bytes.

Legend: R rows, H heads, K heads of the keys, S tokens behind the prefix, P tokens of the prefix, D width of a head, V
width of a value.
Source: the statistics that are kept, and the gradients from them, are those of Dao et al., "FlashAttention" (2022).
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable

from lumen.ops.precision import without_autocast

MAX_BYTES = 128 * 2**20
"""Bound on the logits of one chunk, where one row does not need more."""
CHUNK = 128
"""Columns of a chunk."""


@dataclass(frozen=True, slots=True)
class Suffixes:
    """Which columns behind the prefix belong together.

    Args:
        segments: Number of the suffix of each column, from 1; -1 in the padding. On the device of the pass.
        most: Most suffixes of a row.
        first: For each column, the first column of the suffix that it lies in, the smallest over all rows.
    """

    segments: Int[Tensor, "rows length"]
    most: int
    first: tuple[int, ...]

    def sees(self, chunk: slice) -> Bool[Tensor, "rows chunk keys"]:
        """Return which suffix keys, from the first that ``chunk`` sees to its last column, each of its columns sees."""
        keys = self.keys(chunk)
        query, key = self.segments[:, chunk, None], self.segments[:, None, keys]
        causal = torch.ones(query.shape[1], key.shape[2], dtype=torch.bool, device=query.device)
        return causal.tril(chunk.start - keys.start) & (query == key) & (query > 0)

    def keys(self, chunk: slice) -> slice:
        """Return the columns of the suffix keys that a chunk sees."""
        return slice(self.first[chunk.start], chunk.stop)

    @property
    def widest(self) -> int:
        """Most suffix keys that a chunk sees."""
        return max(keys.stop - keys.start for keys in map(self.keys, self.chunks()))

    def chunks(self) -> list[slice]:
        """Return the columns of each chunk."""
        length = len(self.first)
        return [slice(start, min(start + CHUNK, length)) for start in range(0, length, CHUNK)]


def find_suffixes(segments: Int[Tensor, "rows length"], device: torch.device) -> Suffixes:
    """Return the suffixes of the columns behind the prefix.

    Args:
        segments: As in ``PackedRows``, on the CPU: nothing of it is read from ``device``.
        device: Device of the pass.
    """
    column = torch.arange(segments.shape[1]).expand_as(segments)
    # A suffix starts where the segment number changes; padding counts as one suffix per column.
    is_first = torch.ones_like(segments, dtype=torch.bool)
    is_first[:, 1:] = segments[:, 1:] != segments[:, :-1]
    # The smallest over all rows, so that one slice of keys serves every row of a chunk.
    first = column.where(is_first | (segments < 1), 0).cummax(1).values.amin(0)
    return Suffixes(segments.to(device, non_blocking=True), int(segments.max()), tuple(first.tolist()))


def logit_bytes(rows: int, heads: int, prefix: int, suffixes: Suffixes) -> int:
    """Return the bytes of the largest logits that are formed at once."""
    step = _rows_at_once(rows, heads, prefix, suffixes)
    return step * heads * min(CHUNK, len(suffixes.first)) * (prefix + suffixes.widest) * 4


def _rows_at_once(rows: int, heads: int, prefix: int, suffixes: Suffixes) -> int:
    one = heads * min(CHUNK, len(suffixes.first)) * (prefix + suffixes.widest) * 4
    return min(rows, max(1, MAX_BYTES // one))


def chunked_attention(
    query: Float[Tensor, "rows heads length width"],
    prefix: tuple[Tensor, Tensor],
    behind: tuple[Tensor, Tensor],
    suffixes: Suffixes,
    scale: float,
) -> Float[Tensor, "rows heads length values"]:
    """Return the attention of each token behind the prefix over the prefix and its own suffix up to itself.

    Args:
        query: Queries of the tokens behind the prefix.
        prefix: Keys and values of the prefix, (rows, key heads, prefix, width).
        behind: Keys and values of the tokens behind it, (rows, key heads, length, width).
        suffixes: Which of them are one suffix. Padding sees the prefix alone.
        scale: Factor of the products.
    """
    return _ChunkedAttention.apply(query, *prefix, *behind, suffixes, scale)


class _ChunkedAttention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: FunctionCtx,
        query: Tensor,
        prefix_key: Tensor,
        prefix_value: Tensor,
        key: Tensor,
        value: Tensor,
        suffixes: Suffixes,
        scale: float,
    ) -> Tensor:
        mixed = value.new_empty(*query.shape[:3], value.shape[3])
        total = query.new_empty(query.shape[:3], dtype=_wide(query.dtype))
        # 1. The weights over the prefix and the suffix keys, under one softmax.
        for rows, chunk, keys in _parts(query, prefix_key, suffixes):
            weights = _logits(query, prefix_key, key, suffixes, (rows, chunk, keys)).mul_(scale)
            sums = weights.logsumexp(-1, keepdim=True)
            weights = weights.sub_(sums).exp_().to(value.dtype)
            # 2. The average of the values, in two products, without joining the keys.
            shared, behind = weights.split([prefix_key.shape[2], keys.stop - keys.start], -1)
            part = _product(shared, _flat(prefix_value[rows])) + _product(behind, _flat(value[rows, :, keys]))
            mixed[rows, :, chunk] = part.view_as(mixed[rows, :, chunk]).to(mixed.dtype)
            total[rows, :, chunk] = sums.view_as(total[rows, :, chunk])
        # Kept: the result and the log of each sum. The weights would take as much memory as the masked square.
        ctx.save_for_backward(query, prefix_key, prefix_value, key, value, mixed, total)
        ctx.suffixes, ctx.scale = suffixes, scale
        return mixed

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, gradient: Tensor) -> tuple[Tensor | None, ...]:
        query, prefix_key, prefix_value, key, value, mixed, total = ctx.saved_tensors
        query_grad = torch.empty_like(query)
        sums = [torch.zeros_like(each, dtype=_wide(each.dtype)) for each in (prefix_key, prefix_value, key, value)]
        prefix_key_grad, prefix_value_grad, key_grad, value_grad = sums
        # 1. The weights of a chunk again, from the logs of their sums.
        for rows, chunk, keys in _parts(query, prefix_key, ctx.suffixes):
            weights = _logits(query, prefix_key, key, ctx.suffixes, (rows, chunk, keys)).mul_(ctx.scale)
            weights = weights.sub_(_fold(total[rows, :, chunk, None], prefix_key)).exp_()
            asked, back = _fold(query[rows, :, chunk], prefix_key), _fold(gradient[rows, :, chunk], prefix_key)
            slope = (gradient[rows, :, chunk].to(total.dtype) * mixed[rows, :, chunk]).sum(-1, keepdim=True)
            # 2. What each logit changes: its weight times how far its value is from the average.
            values = (_flat(prefix_value[rows]), _flat(value[rows, :, keys]))
            change = torch.cat([_product(back, each.transpose(1, 2)) for each in values], -1)
            change = change.sub_(_fold(slope, prefix_key)).mul_(weights).mul_(ctx.scale).to(query.dtype)
            weights = weights.to(value.dtype)
            sizes = [prefix_key.shape[2], keys.stop - keys.start]
            # 3. Gradients of both pieces; prefix and suffix keys add up over chunks.
            (shared, behind), (shared_change, behind_change) = weights.split(sizes, -1), change.split(sizes, -1)
            part = _product(shared_change, _flat(prefix_key[rows])) + _product(behind_change, _flat(key[rows, :, keys]))
            query_grad[rows, :, chunk] = part.view_as(query_grad[rows, :, chunk]).to(query.dtype)
            for grads, columns, parts, other in (
                (prefix_key_grad, slice(None), shared_change, asked),
                (prefix_value_grad, slice(None), shared, back),
                (key_grad, keys, behind_change, asked),
                (value_grad, keys, behind, back),
            ):
                grads[rows, :, columns] += _product(parts.transpose(1, 2), other).view_as(grads[rows, :, columns])
        return query_grad, *(each.to(query.dtype) for each in sums), None, None


def _parts(query: Tensor, prefix_key: Tensor, suffixes: Suffixes) -> Iterator[tuple[slice, slice, slice]]:
    """Yield rows, columns of the queries and columns of the suffix keys."""
    count, heads = query.shape[:2]
    step = _rows_at_once(count, heads, prefix_key.shape[2], suffixes)
    for start in range(0, count, step):
        for chunk in suffixes.chunks():
            yield slice(start, start + step), chunk, suffixes.keys(chunk)


def _logits(
    query: Tensor, prefix_key: Tensor, key: Tensor, suffixes: Suffixes, part: tuple[slice, slice, slice]
) -> Float[Tensor, "batch queries keys"]:
    rows, chunk, keys = part
    asked = _fold(query[rows, :, chunk], prefix_key)
    behind = _product(asked, _flat(key[rows, :, keys]).transpose(1, 2))
    # The mask covers suffix keys only: every query sees the whole prefix.
    hidden = ~suffixes.sees(chunk)[rows].to(query.device)
    groups = behind.view(len(hidden), query.shape[1], *hidden.shape[1:])
    groups.masked_fill_(hidden[:, None], -torch.inf)
    return torch.cat([_product(asked, _flat(prefix_key[rows]).transpose(1, 2)), behind], -1)


def _fold(tokens: Float[Tensor, "rows heads length width"], key: Tensor) -> Float[Tensor, "batch queries width"]:
    """Lay the heads that share keys behind each other: batch is rows times key heads."""
    rows, heads, length, width = tokens.shape
    return tokens.reshape(rows * key.shape[1], heads // key.shape[1] * length, width)


def _flat(tokens: Float[Tensor, "rows key_heads length width"]) -> Float[Tensor, "batch length width"]:
    return tokens.flatten(0, 1)


def _wide(dtype: torch.dtype) -> torch.dtype:
    return torch.promote_types(dtype, torch.float32)


def _product(left: Float[Tensor, "batch n k"], right: Float[Tensor, "batch k m"]) -> Float[Tensor, "batch n m"]:
    """Return a product that is never rounded to the dtype of its factors."""
    with without_autocast(left):
        # On a GPU the product of 16-bit factors is accumulated and returned in float32.
        if left.is_cuda and left.dtype != _wide(left.dtype):
            return torch.bmm(left, right, out_dtype=torch.float32)
        return left.to(_wide(left.dtype)) @ right.to(_wide(left.dtype))

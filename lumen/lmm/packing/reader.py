"""Packed rows through the LLM of any family, chunk by chunk, in bounded memory."""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import PreTrainedModel

from lumen.lmm.encoded import EncodedImages, PrefixKV
from lumen.lmm.families import Family
from lumen.lmm.options import LAST
from lumen.lmm.packing.prefix_attention import Split, find_blocks
from lumen.lmm.packing.rows import PackedRows, additive_mask, block_mask, open_prefix, place_rows, prefix_row
from lumen.lmm.usage import Usage


@dataclass(frozen=True, slots=True)
class PassOptions:
    """How rows are read.

    Args:
        prefix: The prefix that all rows share.
        packed: Whether a row may hold several suffixes; otherwise the model makes its mask itself.
        splits: Whether packed rows go through ``lumen.lmm.packing.prefix_attention`` instead of one masked square.
        layers: Whose states are wanted, as indices into ``hidden_states``; ``LAST`` is cheapest.
        wants_prefix: Whether the states of the prefix are wanted for each image.
    """

    prefix: Sequence[int]
    packed: bool
    splits: bool = False
    layers: tuple[int, ...] = (LAST,)
    wants_prefix: bool = False


def read_rows(
    base_model: PreTrainedModel, family: Family, rows: PackedRows, encoded: EncodedImages, options: PassOptions
) -> list[Float[Tensor, "rows length dim"]]:
    """Return the states of the wanted layers, in one pass."""
    device = base_model.device
    ids, segments = rows.input_ids.to(device), rows.segments.to(device)
    prefix = torch.tensor(options.prefix, dtype=torch.long, device=device)
    # The tower has run already: the model takes its output in place of pixels, once per row.
    images = {"image": family.take(encoded.states, rows.row_image.tolist())}
    if options.packed and options.splits:
        inputs = _split_inputs(_split_of(base_model, family, segments, prefix), device)
    elif options.packed:
        inputs = _packed_inputs(base_model, family, segments, prefix)
    else:
        inputs = _plain_inputs(base_model, family, ids, segments, prefix)
    positions = _positions(base_model, family, rows, encoded, options)
    return _run(base_model, options, input_ids=ids, position_ids=positions, mm_encoder_outputs=images, **inputs)


def keep_prefix(
    base_model: PreTrainedModel, family: Family, encoded: EncodedImages, image: int, options: PassOptions
) -> PrefixKV:
    """Run the prefix alone and keep what suffixes need of it; for ``options.splits``, without gradients."""
    row = prefix_row(options.prefix, image)
    prefix = row.input_ids[0].to(base_model.device)
    split = replace(_split_of(base_model, family, row.segments.to(base_model.device), prefix), kept={})
    states = _run(
        base_model,
        options,
        input_ids=prefix[None],
        position_ids=_positions(base_model, family, row, encoded, options),
        mm_encoder_outputs={"image": family.take(encoded.states, [image])},
        **_split_inputs(split, base_model.device),
    )
    return PrefixKV(split.kept, states)


def read_behind(
    base_model: PreTrainedModel,
    family: Family,
    rows: PackedRows,
    encoded: EncodedImages,
    kept: PrefixKV,
    options: PassOptions,
) -> list[Float[Tensor, "rows behind dim"]]:
    """Return the states of the columns behind the prefix; all rows show the image that ``kept`` knows."""
    start, device = len(options.prefix), base_model.device
    split = Split(0, find_blocks(rows.segments[:, start:].to(device)), given=kept.layers)
    return _run(
        base_model,
        options,
        input_ids=rows.input_ids[:, start:].to(device),
        position_ids=_positions(base_model, family, rows, encoded, options)[..., start:],
        **_split_inputs(split, device),
    )


def _positions(
    base_model: PreTrainedModel, family: Family, rows: PackedRows, encoded: EncodedImages, options: PassOptions
) -> Tensor:
    prefix = torch.tensor(options.prefix, dtype=torch.long, device=base_model.device)
    positions = family.positions(base_model.model, prefix, encoded.token_hw)
    return place_rows(rows.position_ids.to(base_model.device), positions)


def _run(base_model: PreTrainedModel, options: PassOptions, **inputs: object) -> list[Float[Tensor, "rows length dim"]]:
    # All hidden states cost memory, so they are asked for only where another layer than the last is read.
    wants_layers = any(layer != LAST for layer in options.layers)
    output = base_model.model(use_cache=False, output_hidden_states=wants_layers, **inputs)
    return [output.last_hidden_state if layer == LAST else output.hidden_states[layer] for layer in options.layers]


def _split_of(
    base_model: PreTrainedModel, family: Family, segments: Int[Tensor, "rows length"], prefix: Tensor
) -> Split:
    start = len(prefix)
    sees_future = family.sees_future(base_model.config, prefix)
    mask = None if sees_future is None else open_prefix(block_mask(segments[:1, :start]), sees_future)[0, 0]
    return Split(start, find_blocks(segments[:, start:]), mask)


def _split_inputs(split: Split, device: torch.device) -> dict[str, object]:
    """Return ``split`` beside a mask that no one reads: the model makes none where it is given one with four axes."""
    return {"split": split, "attention_mask": torch.ones(1, 1, 1, 1, dtype=torch.bool, device=device)}


def _packed_inputs(
    base_model: PreTrainedModel, family: Family, segments: Int[Tensor, "rows length"], prefix: Tensor
) -> dict[str, Tensor]:
    mask = block_mask(segments)
    sees_future = family.sees_future(base_model.config, prefix)
    mask = mask if sees_future is None else open_prefix(mask, sees_future)
    is_eager = base_model.config._attn_implementation == "eager"
    return {"attention_mask": additive_mask(mask, base_model.dtype) if is_eager else mask}


def _plain_inputs(
    base_model: PreTrainedModel, family: Family, ids: Tensor, segments: Int[Tensor, "rows length"], prefix: Tensor
) -> dict[str, Tensor]:
    further = family.plain_inputs(base_model.config, ids, len(prefix))
    return {"attention_mask": (segments >= 0).long(), **further}


@dataclass(frozen=True, slots=True)
class RowChunk:
    """Some rows after their pass.

    Args:
        rows: The columns that were read, and the pairs in them.
        pairs: The number of each of these pairs among all.
        states: States of the wanted layers.
        prefix_states: Last wanted layer at the prefix, for each image whose first row is here; None where not wanted.
    """

    rows: PackedRows
    pairs: Int[Tensor, " pairs"]
    states: list[Float[Tensor, "rows length dim"]]
    prefix_states: Float[Tensor, "images prefix dim"] | None


@dataclass(frozen=True, slots=True)
class RowRunner:
    """Runs rows through one LMM.

    Args:
        base_model: The LMM.
        family: Its family.
        usage: What counts the tokens.
        max_pass_tokens: Bound on the tokens of one LLM call when no gradient is needed.
    """

    base_model: PreTrainedModel
    family: Family
    usage: Usage
    max_pass_tokens: int

    def run(
        self,
        rows: PackedRows,
        options: PassOptions,
        encoded: EncodedImages,
        *,
        fallback_states: list[Tensor] | None = None,
    ) -> Iterator[RowChunk]:
        """Yield the rows in chunks: at once while training, in bounded ones otherwise.

        Without gradients, the prefix of an image that has several rows, or a ``prefix_cache``, runs once.

        Args:
            rows: The rows.
            options: How they are read.
            encoded: The images.
            fallback_states: States that stand in for those of no rows. Without them a pass that nobody reads
                takes place while training: so every parameter has a gradient.
        """
        count = len(rows.row_image)
        has_shared_prefix = encoded.prefix_cache is not None or count > len(rows.row_image.unique())
        # While training, chunks would save nothing: the graph keeps all activations until the backward pass.
        if not count:
            yield self._no_rows(rows, options, encoded, fallback_states)
        elif torch.is_grad_enabled():
            yield self._run_chunk(rows, slice(0, count), options, encoded)
        elif options.packed and options.splits and has_shared_prefix:
            yield from self._image_by_image(rows, options, encoded)
        else:
            for chosen in _slices(0, count, self.max_pass_tokens // rows.input_ids.shape[1]):
                yield self._run_chunk(rows, chosen, options, encoded)

    def _run_chunk(self, rows: PackedRows, chosen: slice, options: PassOptions, encoded: EncodedImages) -> RowChunk:
        chunk, pairs = take_rows(rows, chosen)
        self._count(chunk.segments)
        states = read_rows(self.base_model, self.family, chunk, encoded, options)
        if not options.wants_prefix:
            return RowChunk(chunk, pairs, states, None)
        # Rows of one image follow each other; the prefix of the first one stands for all of them.
        is_first = torch.ones_like(rows.row_image, dtype=torch.bool)
        is_first[1:] = rows.row_image[1:] != rows.row_image[:-1]
        prefix_states = states[-1][is_first[chosen].to(states[-1].device), : len(options.prefix)]
        return RowChunk(chunk, pairs, states, prefix_states)

    def _image_by_image(self, rows: PackedRows, options: PassOptions, encoded: EncodedImages) -> Iterator[RowChunk]:
        start, first_row = len(options.prefix), 0
        rows_at_once = self.max_pass_tokens // max(1, rows.input_ids.shape[1] - start)
        for image, size in zip(*(found.tolist() for found in rows.row_image.unique(return_counts=True)), strict=True):
            # The prefix runs once; then only what stands behind it goes through the LLM, chunk by chunk.
            kept = self._prefix(options, encoded, image)
            for chosen in _slices(first_row, first_row + size, rows_at_once):
                chunk, pairs = take_rows(rows, chosen)
                behind = without_prefix(chunk, start)
                if len(pairs):
                    self._count(behind.segments)
                    states = read_behind(self.base_model, self.family, chunk, encoded, kept, options)
                else:  # the image is asked nothing: its one row is prefix and padding
                    states = [layer.new_zeros(*behind.input_ids.shape, layer.shape[-1]) for layer in kept.states]
                is_first = chosen.start == first_row
                yield RowChunk(behind, pairs, states, kept.states[-1] if options.wants_prefix and is_first else None)
            first_row += size

    def _prefix(self, options: PassOptions, encoded: EncodedImages, image: int) -> PrefixKV:
        # Phrases and questions have different prefixes, so the tokens are part of the key.
        key, cache = (tuple(options.prefix), image), encoded.prefix_cache
        if cache is not None and key in cache.kept:
            return cache.kept[key]
        self.usage.passes += 1
        self.usage.tokens += len(options.prefix)
        kept = keep_prefix(self.base_model, self.family, encoded, image, options)
        if cache is not None:
            cache.kept[key] = kept
        return kept

    def _no_rows(
        self, rows: PackedRows, options: PassOptions, encoded: EncodedImages, fallback_states: list[Tensor] | None
    ) -> RowChunk:
        # A loss of no pairs must still reach every parameter, or ranks would wait for each other's gradients.
        if fallback_states is None and torch.is_grad_enabled():
            fallback_states = self._run_chunk(prefix_row(options.prefix), slice(0, 1), options, encoded).states
        if fallback_states is None:
            width = self.base_model.config.text_config.hidden_size
            place = {"dtype": self.base_model.dtype, "device": self.base_model.device}
            fallback_states = [torch.zeros(0, len(options.prefix), width, **place)] * len(options.layers)
        none = [states[:0] for states in fallback_states]
        return RowChunk(rows, torch.zeros(0, dtype=torch.long), none, none[-1] if options.wants_prefix else None)

    def _count(self, segments: Int[Tensor, "rows length"]) -> None:
        self.usage.passes += len(segments)
        num_tokens = int((segments >= 0).sum())
        self.usage.tokens += num_tokens
        self.usage.padding += segments.numel() - num_tokens


def take_rows(rows: PackedRows, chosen: slice) -> tuple[PackedRows, Int[Tensor, " pairs"]]:
    """Return some rows, and the numbers of the pairs in them."""
    pairs = ((rows.pair_row >= chosen.start) & (rows.pair_row < chosen.stop)).nonzero()[:, 0]
    chunk = PackedRows(
        input_ids=rows.input_ids[chosen],
        position_ids=rows.position_ids[chosen],
        segments=rows.segments[chosen],
        row_image=rows.row_image[chosen],
        pair_row=rows.pair_row[pairs] - chosen.start,
        pair_start=rows.pair_start[pairs],
        answer_targets=rows.answer_targets[chosen],
    )
    return chunk, pairs


def without_prefix(rows: PackedRows, start: int) -> PackedRows:
    """Return the columns behind a prefix of so many tokens."""
    return replace(
        rows,
        input_ids=rows.input_ids[:, start:],
        position_ids=rows.position_ids[:, start:],
        segments=rows.segments[:, start:],
        pair_start=rows.pair_start - start,
        answer_targets=rows.answer_targets[:, start:],
    )


def add_up(losses: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Return the sum of each loss over all chunks that have it."""
    names = dict.fromkeys(itertools.chain.from_iterable(losses))
    return {name: sum(chunk[name] for chunk in losses if name in chunk) for name in names}


def _slices(start: int, stop: int, step: int) -> list[slice]:
    step = max(1, step)
    return [slice(first, min(first + step, stop)) for first in range(start, stop, step)]

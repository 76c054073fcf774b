"""Packed rows through the LLM of any family, chunk by chunk, in bounded memory."""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPooling

from lumen.lmm.families import Family
from lumen.lmm.packing.prefix_attention import Split, find_blocks
from lumen.lmm.packing.rows import PackedRows, additive_mask, block_mask, open_prefix, place_rows, prefix_row
from lumen.lmm.usage import Usage

LAST = -1


@dataclass(frozen=True, slots=True)
class PassOptions:
    """How rows are read.

    Args:
        prefix: The prefix that all rows share.
        token_hw: Grid of the image tokens in it.
        packed: Whether a row may hold several suffixes; otherwise the model makes its mask itself.
        splits: Whether packed rows go through ``lumen.lmm.packing.prefix_attention`` instead of one masked square.
        layers: Whose states are wanted, as indices into ``hidden_states``; ``LAST`` is cheapest.
        wants_prefix: Whether the states of the prefix are wanted for each image.
    """

    prefix: Sequence[int]
    token_hw: tuple[int, int]
    packed: bool
    splits: bool = False
    layers: tuple[int, ...] = (LAST,)
    wants_prefix: bool = False


@dataclass(frozen=True, slots=True)
class PrefixKV:
    """What the LLM made of the prefix with one image.

    Args:
        layers: Keys and values by layer, (1, heads, prefix, width) each.
        states: States of the wanted layers.
    """

    layers: dict[int, tuple[Tensor, Tensor]]
    states: list[Float[Tensor, "1 prefix dim"]]

    @property
    def num_bytes(self) -> int:
        """Memory that it takes."""
        tensors = {id(one): one for one in (*itertools.chain.from_iterable(self.layers.values()), *self.states)}
        return sum(one.numel() * one.element_size() for one in tensors.values())


def read_rows(
    lmm: PreTrainedModel, family: Family, rows: PackedRows, encoded: BaseModelOutputWithPooling, options: PassOptions
) -> list[Float[Tensor, "rows length dim"]]:
    """Return the states of the wanted layers, in one pass."""
    device = lmm.device
    ids, segments = rows.input_ids.to(device), rows.segments.to(device)
    prefix = torch.tensor(options.prefix, dtype=torch.long, device=device)
    images = {"image": family.take(encoded, rows.row_image.tolist())}
    if options.packed and options.splits:
        inputs = _split_inputs(_split_of(lmm, family, segments, prefix), device)
    elif options.packed:
        inputs = _packed_inputs(lmm, family, segments, prefix)
    else:
        inputs = _plain_inputs(lmm, family, ids, segments, prefix)
    positions = _positions(lmm, family, rows, options)
    return _run(lmm, options, input_ids=ids, position_ids=positions, mm_encoder_outputs=images, **inputs)


def keep_prefix(
    lmm: PreTrainedModel, family: Family, encoded: BaseModelOutputWithPooling, image: int, options: PassOptions
) -> PrefixKV:
    """Run the prefix alone and keep what suffixes need of it; for ``options.splits``, without gradients."""
    row = prefix_row(options.prefix, image)
    prefix = row.input_ids[0].to(lmm.device)
    split = replace(_split_of(lmm, family, row.segments.to(lmm.device), prefix), kept={})
    states = _run(
        lmm,
        options,
        input_ids=prefix[None],
        position_ids=_positions(lmm, family, row, options),
        mm_encoder_outputs={"image": family.take(encoded, [image])},
        **_split_inputs(split, lmm.device),
    )
    return PrefixKV(split.kept, states)


def read_behind(
    lmm: PreTrainedModel, family: Family, rows: PackedRows, kept: PrefixKV, options: PassOptions
) -> list[Float[Tensor, "rows behind dim"]]:
    """Return the states of the columns behind the prefix; all rows show the image that ``kept`` knows."""
    start, device = len(options.prefix), lmm.device
    split = Split(0, find_blocks(rows.segments[:, start:].to(device)), given=kept.layers)
    return _run(
        lmm,
        options,
        input_ids=rows.input_ids[:, start:].to(device),
        position_ids=_positions(lmm, family, rows, options)[..., start:],
        **_split_inputs(split, device),
    )


def _positions(lmm: PreTrainedModel, family: Family, rows: PackedRows, options: PassOptions) -> Tensor:
    prefix = torch.tensor(options.prefix, dtype=torch.long, device=lmm.device)
    return place_rows(rows.position_ids.to(lmm.device), family.positions(lmm.model, prefix, options.token_hw))


def _run(lmm: PreTrainedModel, options: PassOptions, **inputs: object) -> list[Float[Tensor, "rows length dim"]]:
    wants_layers = any(layer != LAST for layer in options.layers)
    output = lmm.model(use_cache=False, output_hidden_states=wants_layers, **inputs)
    return [output.last_hidden_state if layer == LAST else output.hidden_states[layer] for layer in options.layers]


def _split_of(lmm: PreTrainedModel, family: Family, segments: Int[Tensor, "rows length"], prefix: Tensor) -> Split:
    start = len(prefix)
    sees_future = family.sees_future(lmm.config, prefix)
    mask = None if sees_future is None else open_prefix(block_mask(segments[:1, :start]), sees_future)[0, 0]
    return Split(start, find_blocks(segments[:, start:]), mask)


def _split_inputs(split: Split, device: torch.device) -> dict[str, object]:
    """Return ``split`` beside a mask that no one reads: the model makes none where it is given one with four axes."""
    return {"split": split, "attention_mask": torch.ones(1, 1, 1, 1, dtype=torch.bool, device=device)}


def _packed_inputs(
    lmm: PreTrainedModel, family: Family, segments: Int[Tensor, "rows length"], prefix: Tensor
) -> dict[str, Tensor]:
    mask = block_mask(segments)
    sees_future = family.sees_future(lmm.config, prefix)
    mask = mask if sees_future is None else open_prefix(mask, sees_future)
    return {"attention_mask": additive_mask(mask, lmm.dtype) if lmm.config._attn_implementation == "eager" else mask}


def _plain_inputs(
    lmm: PreTrainedModel, family: Family, ids: Tensor, segments: Int[Tensor, "rows length"], prefix: Tensor
) -> dict[str, Tensor]:
    return {"attention_mask": (segments >= 0).long(), **family.plain_inputs(lmm.config, ids, len(prefix))}


@dataclass(slots=True)
class PrefixCache:
    """What the LLM made of the prefixes of some encoded images, for the questions to come; it fills itself.

    Belongs to one output of ``encode_images`` and to the weights of that moment: make a new one for the next.

    Args:
        kept: By tokens of the prefix and number of the image.
    """

    kept: dict[tuple[tuple[int, ...], int], PrefixKV] = field(default_factory=dict)

    @property
    def num_bytes(self) -> int:
        """Memory that it takes."""
        return sum(one.num_bytes for one in self.kept.values())


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
    """Reads rows with one LMM.

    Args:
        lmm: The LMM.
        family: Its family.
        usage: What counts the tokens.
        max_pass_tokens: Bound on the tokens of one LLM call when no gradient is needed.
    """

    lmm: PreTrainedModel
    family: Family
    usage: Usage
    max_pass_tokens: int

    def read(
        self,
        rows: PackedRows,
        options: PassOptions,
        encoded: BaseModelOutputWithPooling,
        *,
        memory: PrefixCache | None = None,
        fallback_states: list[Tensor] | None = None,
    ) -> Iterator[RowChunk]:
        """Yield the rows in parts: at once while training, in bounded ones otherwise.

        Without gradients, the prefix of an image that has several rows, or a place in ``memory``, runs once.

        Args:
            rows: The rows.
            options: How they are read.
            encoded: The images.
            memory: Where what the LLM made of a prefix lies, or is put.
            fallback_states: States that stand in for those of no rows. Without them a pass that nobody reads
                takes place while training: so every parameter has a gradient.
        """
        count = len(rows.row_image)
        if not count:
            yield self._no_rows(rows, options, encoded, fallback_states)
        elif torch.is_grad_enabled():
            yield self._part(rows, slice(0, count), options, encoded)
        elif options.packed and options.splits and (memory is not None or count > len(rows.row_image.unique())):
            yield from self._image_by_image(rows, options, encoded, memory)
        else:
            for part in _slices(0, count, self.max_pass_tokens // rows.input_ids.shape[1]):
                yield self._part(rows, part, options, encoded)

    def _part(
        self, rows: PackedRows, part: slice, options: PassOptions, encoded: BaseModelOutputWithPooling
    ) -> RowChunk:
        own, pairs = part_of(rows, part)
        self._count(own.segments)
        states = read_rows(self.lmm, self.family, own, encoded, options)
        if not options.wants_prefix:
            return RowChunk(own, pairs, states, None)
        is_first = torch.ones_like(rows.row_image, dtype=torch.bool)
        is_first[1:] = rows.row_image[1:] != rows.row_image[:-1]
        first = states[-1][is_first[part].to(states[-1].device), : len(options.prefix)]
        return RowChunk(own, pairs, states, first)

    def _image_by_image(
        self, rows: PackedRows, options: PassOptions, encoded: BaseModelOutputWithPooling, memory: PrefixCache | None
    ) -> Iterator[RowChunk]:
        start, at = len(options.prefix), 0
        room = self.max_pass_tokens // max(1, rows.input_ids.shape[1] - start)
        for image, size in zip(*(found.tolist() for found in rows.row_image.unique(return_counts=True)), strict=True):
            kept = self._prefix(options, encoded, image, memory)
            for part in _slices(at, at + size, room):
                own, pairs = part_of(rows, part)
                behind = without_prefix(own, start)
                self._count(behind.segments)
                states = read_behind(self.lmm, self.family, own, kept, options)
                wanted = kept.states[-1] if options.wants_prefix and part.start == at else None
                yield RowChunk(behind, pairs, states, wanted)
            at += size

    def _prefix(
        self, options: PassOptions, encoded: BaseModelOutputWithPooling, image: int, memory: PrefixCache | None
    ) -> PrefixKV:
        key = (tuple(options.prefix), image)
        if memory is not None and key in memory.kept:
            return memory.kept[key]
        self.usage.passes += 1
        self.usage.tokens += len(options.prefix)
        kept = keep_prefix(self.lmm, self.family, encoded, image, options)
        if memory is not None:
            memory.kept[key] = kept
        return kept

    def _no_rows(
        self,
        rows: PackedRows,
        options: PassOptions,
        encoded: BaseModelOutputWithPooling,
        fallback_states: list[Tensor] | None,
    ) -> RowChunk:
        if fallback_states is None and torch.is_grad_enabled():
            fallback_states = self._part(prefix_row(options.prefix), slice(0, 1), options, encoded).states
        if fallback_states is None:
            width = self.lmm.config.text_config.hidden_size
            blank = torch.zeros(0, len(options.prefix), width, dtype=self.lmm.dtype, device=self.lmm.device)
            fallback_states = [blank] * len(options.layers)
        none = [one[:0] for one in fallback_states]
        return RowChunk(rows, torch.zeros(0, dtype=torch.long), none, none[-1] if options.wants_prefix else None)

    def _count(self, segments: Int[Tensor, "rows length"]) -> None:
        self.usage.passes += len(segments)
        num_tokens = int((segments >= 0).sum())
        self.usage.tokens += num_tokens
        self.usage.padding += segments.numel() - num_tokens


def part_of(rows: PackedRows, part: slice) -> tuple[PackedRows, Int[Tensor, " pairs"]]:
    """Return some rows, and which pairs lie in them."""
    pairs = ((rows.pair_row >= part.start) & (rows.pair_row < part.stop)).nonzero()[:, 0]
    own = PackedRows(
        input_ids=rows.input_ids[part],
        position_ids=rows.position_ids[part],
        segments=rows.segments[part],
        row_image=rows.row_image[part],
        pair_row=rows.pair_row[pairs] - part.start,
        pair_start=rows.pair_start[pairs],
        answer_targets=rows.answer_targets[part],
    )
    return own, pairs


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
    """Return the sum of each loss over all parts that have it."""
    names = dict.fromkeys(itertools.chain.from_iterable(losses))
    return {name: sum(own[name] for own in losses if name in own) for name in names}


def _slices(start: int, stop: int, step: int) -> list[slice]:
    step = max(1, step)
    return [slice(at, min(at + step, stop)) for at in range(start, stop, step)]

"""Rows through the LLM part by part, in bounded memory: what is read from a part is small, its states are not."""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPooling

from lumen.lmm.families import Family
from lumen.lmm.packing import PackedRows, prefix_row
from lumen.lmm.passes import KeptPrefix, Reading, keep_prefix, read_behind, read_rows
from lumen.lmm.usage import Usage


@dataclass(slots=True)
class PrefixMemory:
    """What the LLM made of the prefixes of some encoded images, for the questions to come; it fills itself.

    Belongs to one output of ``encode_images`` and to the weights of that moment: make a new one for the next.

    Args:
        kept: By tokens of the prefix and number of the image.
    """

    kept: dict[tuple[tuple[int, ...], int], KeptPrefix] = field(default_factory=dict)

    @property
    def num_bytes(self) -> int:
        """Memory that it takes."""
        return sum(one.num_bytes for one in self.kept.values())


@dataclass(frozen=True, slots=True)
class Part:
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
class Reader:
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
        reading: Reading,
        encoded: BaseModelOutputWithPooling,
        *,
        memory: PrefixMemory | None = None,
        lent: list[Tensor] | None = None,
    ) -> Iterator[Part]:
        """Yield the rows in parts: at once while training, in bounded ones otherwise.

        Without gradients, the prefix of an image that has several rows, or a place in ``memory``, runs once.

        Args:
            rows: The rows.
            reading: How they are read.
            encoded: The images.
            memory: Where what the LLM made of a prefix lies, or is put.
            lent: States that stand in for those of no rows. Without them a pass that nobody reads takes place while
                training: so every parameter has a gradient.
        """
        count = len(rows.row_image)
        if not count:
            yield self._no_rows(rows, reading, encoded, lent)
        elif torch.is_grad_enabled():
            yield self._part(rows, slice(0, count), reading, encoded)
        elif reading.packed and reading.splits and (memory is not None or count > len(rows.row_image.unique())):
            yield from self._image_by_image(rows, reading, encoded, memory)
        else:
            for part in _slices(0, count, self.max_pass_tokens // rows.input_ids.shape[1]):
                yield self._part(rows, part, reading, encoded)

    def _part(self, rows: PackedRows, part: slice, reading: Reading, encoded: BaseModelOutputWithPooling) -> Part:
        own, pairs = part_of(rows, part)
        self._count(own.segments)
        states = read_rows(self.lmm, self.family, own, encoded, reading)
        if not reading.wants_prefix:
            return Part(own, pairs, states, None)
        is_first = torch.ones_like(rows.row_image, dtype=torch.bool)
        is_first[1:] = rows.row_image[1:] != rows.row_image[:-1]
        first = states[-1][is_first[part].to(states[-1].device), : len(reading.prefix)]
        return Part(own, pairs, states, first)

    def _image_by_image(
        self, rows: PackedRows, reading: Reading, encoded: BaseModelOutputWithPooling, memory: PrefixMemory | None
    ) -> Iterator[Part]:
        start, at = len(reading.prefix), 0
        room = self.max_pass_tokens // max(1, rows.input_ids.shape[1] - start)
        for image, size in zip(*(found.tolist() for found in rows.row_image.unique(return_counts=True)), strict=True):
            kept = self._prefix(reading, encoded, image, memory)
            for part in _slices(at, at + size, room):
                own, pairs = part_of(rows, part)
                behind = without_prefix(own, start)
                self._count(behind.segments)
                states = read_behind(self.lmm, self.family, own, kept, reading)
                wanted = kept.states[-1] if reading.wants_prefix and part.start == at else None
                yield Part(behind, pairs, states, wanted)
            at += size

    def _prefix(
        self, reading: Reading, encoded: BaseModelOutputWithPooling, image: int, memory: PrefixMemory | None
    ) -> KeptPrefix:
        key = (tuple(reading.prefix), image)
        if memory is not None and key in memory.kept:
            return memory.kept[key]
        self.usage.passes += 1
        self.usage.tokens += len(reading.prefix)
        kept = keep_prefix(self.lmm, self.family, encoded, image, reading)
        if memory is not None:
            memory.kept[key] = kept
        return kept

    def _no_rows(
        self, rows: PackedRows, reading: Reading, encoded: BaseModelOutputWithPooling, lent: list[Tensor] | None
    ) -> Part:
        if lent is None and torch.is_grad_enabled():
            lent = self._part(prefix_row(reading.prefix), slice(0, 1), reading, encoded).states
        if lent is None:
            width = self.lmm.config.text_config.hidden_size
            blank = torch.zeros(0, len(reading.prefix), width, dtype=self.lmm.dtype, device=self.lmm.device)
            lent = [blank] * len(reading.layers)
        none = [one[:0] for one in lent]
        return Part(rows, torch.zeros(0, dtype=torch.long), none, none[-1] if reading.wants_prefix else None)

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

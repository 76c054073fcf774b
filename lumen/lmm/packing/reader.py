"""Packed rows through the LLM, chunk by chunk, in bounded memory; a prefix that rows share runs once."""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lumen.lmm.encoded import EncodedImages, PrefixStates
from lumen.lmm.packing.passes import Passes, PassOptions
from lumen.lmm.packing.rows import PackedRows, prefix_row
from lumen.lmm.usage import Usage


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
        passes: Calls of its LLM.
        usage: What counts the tokens.
        max_pass_tokens: Bound on the tokens of one LLM call when no gradient is needed.
    """

    passes: Passes
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

        Without gradients, the prefix of an image that has several rows, or a ``prefix_cache``, runs once. With them, it
        runs once where prompts do not pack but expand.

        Args:
            rows: The rows.
            options: How they are run.
            encoded: The images.
            fallback_states: States that stand in for those of no rows. Without them a pass that nobody reads
                takes place while training: so every parameter has a gradient.
        """
        count = len(rows.row_image)
        if not count:
            yield self._no_rows(rows, options, encoded, fallback_states)
        elif self._shares_prefix(rows, encoded):
            yield from self._behind_prefixes(rows, options, encoded)
        else:
            for chosen in _slices(0, count, self._at_once(rows.input_ids.shape[1])):
                yield self._run_chunk(rows, chosen, options, encoded)

    def prefix(self, prefix: Sequence[int], images: Sequence[int], encoded: EncodedImages) -> PrefixStates:
        """Return what the LLM makes of a prefix with each of these images, from the cache where it has it."""
        # Phrases and questions have different prefixes, so the tokens are part of the key.
        key = (tuple(prefix), tuple(images))
        cache = None if torch.is_grad_enabled() else encoded.prefix_cache
        if cache is not None and key in cache.kept:
            return cache.kept[key]
        self.usage.passes += len(images)
        self.usage.tokens += len(images) * len(prefix)
        kept = self.passes.prefixes(images, encoded, prefix)
        if cache is not None:
            cache.kept[key] = kept
        return kept

    def _shares_prefix(self, rows: PackedRows, encoded: EncodedImages) -> bool:
        mode = self.passes.mode
        if torch.is_grad_enabled():
            # Whatever the rows are: ranks that train together must call the LLM equally often.
            return mode.expands
        has_several = len(rows.row_image) > len(rows.row_image.unique())
        return mode.keeps_prefix and (has_several or encoded.prefix_cache is not None)

    def _at_once(self, num_tokens: int) -> int:
        """Return how many sequences of so many tokens go into one call."""
        # While training, chunks would save nothing: the graph keeps all activations until the backward pass.
        return 2**31 if torch.is_grad_enabled() else max(1, self.max_pass_tokens // max(1, num_tokens))

    def _run_chunk(self, rows: PackedRows, chosen: slice, options: PassOptions, encoded: EncodedImages) -> RowChunk:
        chunk, pairs = take_rows(rows, chosen)
        self._count(chunk.segments)
        states = self.passes.rows(chunk, encoded, options.prefix)
        if not options.wants_prefix:
            return RowChunk(chunk, pairs, states, None)
        # Rows of one image follow each other; the prefix of the first one stands for all of them.
        is_first = torch.ones_like(rows.row_image, dtype=torch.bool)
        is_first[1:] = rows.row_image[1:] != rows.row_image[:-1]
        first = is_first[chosen].nonzero()[:, 0].to(states[-1].device, non_blocking=True)
        return RowChunk(chunk, pairs, states, states[-1][first, : len(options.prefix)])

    def _behind_prefixes(self, rows: PackedRows, options: PassOptions, encoded: EncodedImages) -> Iterator[RowChunk]:
        start, length = len(options.prefix), rows.input_ids.shape[1]
        layout = self.passes.layout(options.prefix, encoded.token_hw)
        # A copied cache takes the memory of whole rows, whatever is new in them.
        rows_at_once = self._at_once(length - start if self.passes.mode.splits else length)
        has_cache = encoded.prefix_cache is not None and not torch.is_grad_enabled()
        # With a cache all images are run: a later question may concern one that this one does not.
        images = list(range(len(encoded.images))) if has_cache else rows.row_image.unique().tolist()
        for group in _slices(0, len(images), self._at_once(start)):
            place = {image: number for number, image in enumerate(images[group])}
            of_group = [row for row, image in enumerate(rows.row_image.tolist()) if image in place]
            if not of_group:
                continue
            # The prefixes run once; then only what stands behind them goes through the LLM, chunk by chunk.
            kept = self.prefix(options.prefix, images[group], encoded)
            for chosen in _slices(of_group[0], of_group[-1] + 1, rows_at_once):
                chunk, pairs = take_rows(rows, chosen)
                behind = without_prefix(chunk, start)
                if len(pairs):
                    self._count(behind.segments)
                    prefix_of_row = [place[image] for image in chunk.row_image.tolist()]
                    states = self.passes.behind(chunk, prefix_of_row, kept, layout)
                else:  # these images are asked nothing: their rows are prefix and padding
                    states = [layer.new_zeros(*behind.input_ids.shape, layer.shape[-1]) for layer in kept.states]
                is_first = chosen.start == of_group[0]
                yield RowChunk(behind, pairs, states, kept.states[-1] if options.wants_prefix and is_first else None)

    def _no_rows(
        self, rows: PackedRows, options: PassOptions, encoded: EncodedImages, fallback_states: list[Tensor] | None
    ) -> RowChunk:
        # A loss of no pairs must still reach every parameter, or ranks would wait for each other's gradients.
        base_model = self.passes.base_model
        if fallback_states is None and torch.is_grad_enabled():
            fallback_states = self._run_chunk(prefix_row(options.prefix), slice(0, 1), options, encoded).states
        if fallback_states is None:
            width = base_model.config.text_config.hidden_size
            place = {"dtype": base_model.dtype, "device": base_model.device}
            fallback_states = [torch.zeros(0, len(options.prefix), width, **place)] * len(self.passes.mode.layers)
        none = [states[:0] for states in fallback_states]
        return RowChunk(rows, torch.zeros(0, dtype=torch.long), none, none[-1] if options.wants_prefix else None)

    def _count(self, segments: Int[Tensor, "rows length"]) -> None:
        self.usage.passes += len(segments)
        num_tokens = int((segments >= 0).sum())
        self.usage.tokens += num_tokens
        self.usage.padding += segments.numel() - num_tokens


def take_rows(rows: PackedRows, chosen: slice) -> tuple[PackedRows, Int[Tensor, " pairs"]]:
    """Return some rows, and the numbers of the pairs in them."""
    # Pairs keep their order; their numbers tell where they belong among all.
    pairs = ((rows.pair_row >= chosen.start) & (rows.pair_row < chosen.stop)).nonzero()[:, 0]
    chunk = PackedRows(
        input_ids=rows.input_ids[chosen],
        position_ids=rows.position_ids[chosen],
        segments=rows.segments[chosen],
        row_image=rows.row_image[chosen],
        pair_row=rows.pair_row[pairs] - chosen.start,
        pair_start=rows.pair_start[pairs],
        answer_targets=rows.answer_targets[chosen],
        answer_weights=rows.answer_weights[chosen],
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
        answer_weights=rows.answer_weights[:, start:],
    )


def add_up(losses: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Return the sum of each loss over all chunks that have it."""
    names = dict.fromkeys(itertools.chain.from_iterable(losses))
    return {name: sum(chunk[name] for chunk in losses if name in chunk) for name in names}


def _slices(start: int, stop: int, step: int) -> list[slice]:
    step = max(1, step)
    return [slice(first, min(first + step, stop)) for first in range(start, stop, step)]

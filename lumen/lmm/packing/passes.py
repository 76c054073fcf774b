"""One call of the LLM of any family: for whole rows, for prefixes, or for what stands behind prefixes that are kept.

What a pass needs of rows and prefix is worked out on the CPU and sent to the LLM's device without waiting for it.
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers import Cache, PretrainedConfig, PreTrainedModel

from lumen.errors import ConfigError
from lumen.lmm.encoded import EncodedImages, PrefixStates
from lumen.lmm.families import Family
from lumen.lmm.families.family import Size
from lumen.lmm.options import LAST, PackingOptions
from lumen.lmm.packing.plain_attention import ADDS_MASK
from lumen.lmm.packing.prefix_attention import split_of
from lumen.lmm.packing.rows import (
    PackedRows,
    Suffix,
    additive_mask,
    block_mask,
    gaps,
    open_prefix,
    pack_rows,
    place_rows,
)

LayoutKey = tuple[tuple[int, ...], Size, torch.device]


@dataclass(frozen=True, slots=True)
class PassMode:
    """How an LMM runs rows.

    Args:
        packed: Whether a row may hold several suffixes; otherwise the model makes its mask itself.
        splits: Whether packed rows go through ``lumen.lmm.packing.prefix_attention`` instead of one masked square.
        expands: Whether rows with one suffix go behind a copy of the cache of their prefix.
        layers: Whose states are wanted, as indices into ``hidden_states``; ``LAST`` is cheapest.
    """

    packed: bool
    splits: bool = False
    expands: bool = False
    layers: tuple[int, ...] = (LAST,)

    @property
    def keeps_prefix(self) -> bool:
        """Whether a prefix can run once for all rows of its image."""
        return self.splits or self.expands


@dataclass(frozen=True, slots=True)
class PassOptions:
    """What some rows have in common.

    Args:
        prefix: Their prefix.
        wants_prefix: Whether the states of the prefix are wanted for each image.
    """

    prefix: Sequence[int]
    wants_prefix: bool = False


def pack_pass(
    prefix: Sequence[int],
    suffixes: Sequence[Sequence[Suffix]],
    *,
    packing: PackingOptions,
    config: PretrainedConfig,
    pad_id: int,
    every_image: bool = False,
) -> tuple[PackedRows, PassOptions]:
    """Return the rows of some suffixes, as they are packed for an LMM, and what they have in common.

    Args:
        prefix: Tokens before the suffixes.
        suffixes: Those of each image.
        packing: How they are packed.
        config: Of the LMM.
        pad_id: Token in the padding.
        every_image: Whether the states of the prefix are wanted for each image, also of one without a suffix.
    """
    rows = pack_rows(
        prefix,
        suffixes,
        max_suffix_tokens=packing.max_suffix_tokens if packing.is_packed else 0,
        context=config.text_config.max_position_embeddings,
        pad_id=pad_id,
        every_image=every_image,
    )
    return rows, PassOptions(prefix, every_image)


@dataclass(frozen=True, slots=True)
class PrefixLayout:
    """What a pass needs of a prefix, on the LLM's device.

    Args:
        ids: Its tokens.
        positions: Their positions, as ``Family.positions``.
        sees_future: Which of them see each other in both directions; None where none do.
    """

    ids: Int[Tensor, " prefix"]
    positions: Int[Tensor, "axes prefix"]
    sees_future: Bool[Tensor, " prefix"] | None

    def mask(self) -> Bool[Tensor, "prefix prefix"] | None:
        """Return which key each token sees; None for all earlier ones."""
        if self.sees_future is None:
            return None
        return open_prefix(block_mask(torch.zeros_like(self.ids)[None]), self.sees_future)[0, 0]


@dataclass(frozen=True, slots=True)
class Passes:
    """Calls of one LMM's LLM.

    Args:
        base_model: The LMM.
        family: Its family.
        mode: How it runs rows.
        layouts: The layouts of the prefixes so far; fills itself.
    """

    base_model: PreTrainedModel
    family: Family
    mode: PassMode
    layouts: dict[LayoutKey, PrefixLayout] = field(default_factory=dict)

    def rows(
        self, rows: PackedRows, encoded: EncodedImages, prefix: Sequence[int]
    ) -> list[Float[Tensor, "rows length dim"]]:
        """Return the states of the layers that are read, of prefix and suffixes."""
        layout, device, start = self.layout(prefix, encoded.token_hw), self.base_model.device, len(prefix)
        ids, segments = rows.input_ids.to(device, non_blocking=True), rows.segments.to(device, non_blocking=True)
        if self.mode.splits:
            split = split_of(start, rows.segments[:, start:], device, prefix_mask=layout.mask())
            inputs = {"split": split, "attention_mask": self._no_mask()}
        elif self.mode.packed:
            inputs = {"attention_mask": self._square(segments, layout)}
        else:
            further = self.family.plain_inputs(self.base_model.config, ids, start)
            inputs = {"attention_mask": (segments >= 0).long(), **further}
        return self._run(
            input_ids=ids,
            position_ids=self._shown_positions(self._positions(rows, layout), rows, layout, encoded),
            # The tower has run already: the model takes its output in place of pixels, once per row.
            mm_encoder_outputs={"image": self.family.take(encoded.states, rows.row_image.tolist())},
            **inputs,
        )[0]

    def prefixes(self, images: Sequence[int], encoded: EncodedImages, prefix: Sequence[int]) -> PrefixStates:
        """Run the prefix with each of these images, and return what suffixes need of it.

        Raises:
            ConfigError: Some of the image tokens are left out: that is for whole rows.
        """
        if encoded.shown is not None:
            raise ConfigError("image tokens can be left out in training with packed prompts only")
        layout = self.layout(prefix, encoded.token_hw)
        ids = layout.ids.expand(len(images), -1)
        if self.mode.splits:
            split = split_of(
                ids.shape[1], torch.zeros(len(images), 0, dtype=torch.long), ids.device, prefix_mask=layout.mask()
            )
            inputs = {"split": split, "attention_mask": self._no_mask()}
        else:
            inputs = self.family.plain_inputs(self.base_model.config, ids, ids.shape[1])
        positions = layout.positions[:, None].expand(-1, len(images), -1)
        states, cache = self._run(
            input_ids=ids,
            # Models with one axis take positions without it.
            position_ids=positions if len(positions) > 1 else positions[0],
            mm_encoder_outputs={"image": self.family.take(encoded.states, images)},
            use_cache=True,
            **inputs,
        )
        return PrefixStates(cache, states)

    def behind(
        self, rows: PackedRows, prefix_of_row: Sequence[int], kept: PrefixStates, layout: PrefixLayout
    ) -> list[Float[Tensor, "rows behind dim"]]:
        """Return the states of the columns behind the prefix.

        Args:
            rows: The rows, with their prefix.
            prefix_of_row: Which of the kept prefixes each row has.
            kept: What ``prefixes`` gave.
            layout: Of the prefix.
        """
        start, device = len(layout.ids), self.base_model.device
        chosen = torch.tensor(prefix_of_row).to(device, non_blocking=True)
        if self.mode.splits:
            split = split_of(0, rows.segments[:, start:], device, given=kept.cache, chosen=chosen)
            inputs = {"split": split, "attention_mask": self._no_mask()}
        else:
            # Padding is on the right, where a causal model does not see it: it needs no mask.
            inputs = {"past_key_values": expanded(kept.cache, chosen), "use_cache": True}
        return self._run(
            input_ids=rows.input_ids[:, start:].to(device, non_blocking=True),
            position_ids=self._positions(rows, layout)[..., start:],
            **inputs,
        )[0]

    def layout(self, prefix: Sequence[int], token_hw: Size) -> PrefixLayout:
        """Return the layout of a prefix."""
        device = self.base_model.device
        key = (tuple(prefix), token_hw, device)
        if key not in self.layouts:
            with torch.inference_mode(False):  # it outlives the call, and may serve training next
                ids = torch.tensor(prefix, dtype=torch.long)
                positions = self.family.positions(self.base_model.base_model, ids, token_hw)
                sees = self.family.sees_future(self.base_model.config, ids)
                sees = None if sees is None else sees.to(device, non_blocking=True)
                moved = (each.to(device, non_blocking=True) for each in (ids, positions))
                self.layouts[key] = PrefixLayout(*moved, sees)
        return self.layouts[key]

    def _positions(self, rows: PackedRows, layout: PrefixLayout) -> Tensor:
        return place_rows(rows.position_ids.to(layout.ids.device, non_blocking=True), layout.positions)

    def _shown_positions(
        self, positions: Tensor, rows: PackedRows, layout: PrefixLayout, encoded: EncodedImages
    ) -> Tensor:
        """Return the positions as they are where no image token is left out."""
        if encoded.shown is None:
            return positions
        if positions.ndim > 2:
            raise ConfigError("image tokens cannot be left out of a model that has several axes of positions")
        is_image = layout.ids == self.base_model.config.image_token_id
        total = encoded.token_hw[0] * encoded.token_hw[1]
        return positions + gaps(is_image, encoded.shown[rows.row_image], total, positions.shape[1])

    def _no_mask(self) -> Bool[Tensor, "1 1 1 1"]:
        """Return a mask that ``split`` attention does not read: the model makes none where it gets one of four axes."""
        return torch.ones(1, 1, 1, 1, dtype=torch.bool, device=self.base_model.device)

    def _square(self, segments: Int[Tensor, "rows length"], layout: PrefixLayout) -> Tensor:
        mask = block_mask(segments)
        mask = mask if layout.sees_future is None else open_prefix(mask, layout.sees_future)
        adds = self.base_model.get_decoder().config._attn_implementation in ADDS_MASK
        return additive_mask(mask, self.base_model.dtype) if adds else mask

    def _run(
        self, *, use_cache: bool = False, **inputs: object
    ) -> tuple[list[Float[Tensor, "rows length dim"]], Cache | None]:
        # All hidden states cost memory, so they are asked for only where another layer than the last is read.
        core = self.base_model.base_model
        # A model that is not wrapped in one with a head gives its last states among all, and logits that are not used.
        is_bare = core is self.base_model
        wants_layers = is_bare or any(layer != LAST for layer in self.mode.layers)
        bare = {"logits_to_keep": 1} if is_bare else {}
        output = core(use_cache=use_cache, output_hidden_states=wants_layers, **bare, **inputs)
        last = output.hidden_states[LAST] if is_bare else output.last_hidden_state
        states = [last if layer == LAST else output.hidden_states[layer] for layer in self.mode.layers]
        return states, output.past_key_values


def expanded(cache: Cache, chosen: Int[Tensor, " rows"], *, goes_on: bool = False) -> Cache:
    """Return a copy of a cache with the chosen sequences, for the tokens behind them.

    Args:
        cache: Stays unchanged.
        chosen: Number of each sequence.
        goes_on: Whether further tokens follow these. Otherwise the state of a recurrent layer behind them is not put
            in place of the one before them, which gradients need.
    """
    copied = copy.copy(cache)
    copied.layers = [copy.copy(layer) for layer in cache.layers]
    for layer in copied.layers:
        for name, value in vars(layer).items():
            if isinstance(value, dict):  # the states of recurrent layers, which are put in place by number
                setattr(layer, name, dict(value))
        if not goes_on and hasattr(layer, "recurrent_states"):
            layer.update_recurrent_state = lambda states, *_, **__: states
    copied.reorder_cache(chosen)
    return copied

"""Passes of packed rows through the LLM of any family: its own mask, positions and further inputs."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPooling

from lumen.lmm.families import Family
from lumen.lmm.packing import PackedRows, additive_mask, block_mask, open_prefix, place_rows, prefix_row
from lumen.lmm.split import Split, find_blocks

LAST = -1


@dataclass(frozen=True, slots=True)
class Reading:
    """How rows are read.

    Args:
        prefix: The prefix that all rows share.
        token_hw: Grid of the image tokens in it.
        packed: Whether a row may hold several suffixes; otherwise the model makes its mask itself.
        splits: Whether packed rows go through ``lumen.lmm.split`` instead of one masked square.
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
class KeptPrefix:
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
    lmm: PreTrainedModel, family: Family, rows: PackedRows, encoded: BaseModelOutputWithPooling, reading: Reading
) -> list[Float[Tensor, "rows length dim"]]:
    """Return the states of the wanted layers, in one pass."""
    device = lmm.device
    ids, segments = rows.input_ids.to(device), rows.segments.to(device)
    prefix = torch.tensor(reading.prefix, dtype=torch.long, device=device)
    images = {"image": family.take(encoded, rows.row_image.tolist())}
    if reading.packed and reading.splits:
        inputs = _split_inputs(_split_of(lmm, family, segments, prefix), device)
    elif reading.packed:
        inputs = _packed_inputs(lmm, family, segments, prefix)
    else:
        inputs = _plain_inputs(lmm, family, ids, segments, prefix)
    positions = _positions(lmm, family, rows, reading)
    return _run(lmm, reading, input_ids=ids, position_ids=positions, mm_encoder_outputs=images, **inputs)


def keep_prefix(
    lmm: PreTrainedModel, family: Family, encoded: BaseModelOutputWithPooling, image: int, reading: Reading
) -> KeptPrefix:
    """Run the prefix alone and keep what suffixes need of it; for ``reading.splits``, without gradients."""
    row = prefix_row(reading.prefix, image)
    prefix = row.input_ids[0].to(lmm.device)
    split = replace(_split_of(lmm, family, row.segments.to(lmm.device), prefix), kept={})
    states = _run(
        lmm,
        reading,
        input_ids=prefix[None],
        position_ids=_positions(lmm, family, row, reading),
        mm_encoder_outputs={"image": family.take(encoded, [image])},
        **_split_inputs(split, lmm.device),
    )
    return KeptPrefix(split.kept, states)


def read_behind(
    lmm: PreTrainedModel, family: Family, rows: PackedRows, kept: KeptPrefix, reading: Reading
) -> list[Float[Tensor, "rows behind dim"]]:
    """Return the states of the columns behind the prefix; all rows show the image that ``kept`` knows."""
    start, device = len(reading.prefix), lmm.device
    split = Split(0, find_blocks(rows.segments[:, start:].to(device)), given=kept.layers)
    return _run(
        lmm,
        reading,
        input_ids=rows.input_ids[:, start:].to(device),
        position_ids=_positions(lmm, family, rows, reading)[..., start:],
        **_split_inputs(split, device),
    )


def _positions(lmm: PreTrainedModel, family: Family, rows: PackedRows, reading: Reading) -> Tensor:
    prefix = torch.tensor(reading.prefix, dtype=torch.long, device=lmm.device)
    return place_rows(rows.position_ids.to(lmm.device), family.positions(lmm.model, prefix, reading.token_hw))


def _run(lmm: PreTrainedModel, reading: Reading, **inputs: object) -> list[Float[Tensor, "rows length dim"]]:
    wants_layers = any(layer != LAST for layer in reading.layers)
    output = lmm.model(use_cache=False, output_hidden_states=wants_layers, **inputs)
    return [output.last_hidden_state if layer == LAST else output.hidden_states[layer] for layer in reading.layers]


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

"""Passes of packed rows through the LLM of any family: its own mask, positions and further inputs."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPooling

from lumen.lmm.families import Family
from lumen.lmm.packing import PackedRows, additive_mask, block_mask, open_prefix, place_rows

LAST = -1


@dataclass(frozen=True, slots=True)
class Reading:
    """How rows are read.

    Args:
        prefix: The prefix that all rows share.
        token_hw: Grid of the image tokens in it.
        packed: Whether a row may hold several suffixes; otherwise the model makes its mask itself.
        layers: Whose states are wanted, as indices into ``hidden_states``; ``LAST`` is cheapest.
    """

    prefix: Sequence[int]
    token_hw: tuple[int, int]
    packed: bool
    layers: tuple[int, ...] = (LAST,)


def read_rows(
    lmm: PreTrainedModel, family: Family, rows: PackedRows, encoded: BaseModelOutputWithPooling, reading: Reading
) -> list[Float[Tensor, "rows length dim"]]:
    """Return the states of the wanted layers, in one pass."""
    device = lmm.device
    ids = rows.input_ids.to(device)
    prefix = torch.tensor(reading.prefix, dtype=torch.long, device=device)
    positions = family.positions(lmm.model, prefix, reading.token_hw)
    inputs = _packed_inputs if reading.packed else _plain_inputs
    output = lmm.model(
        input_ids=ids,
        position_ids=place_rows(rows.position_ids.to(device), positions),
        mm_encoder_outputs={"image": family.take(encoded, rows.row_image.tolist())},
        use_cache=False,
        output_hidden_states=any(layer != LAST for layer in reading.layers),
        **inputs(lmm, family, ids, rows.segments.to(device), prefix),
    )
    return [output.last_hidden_state if layer == LAST else output.hidden_states[layer] for layer in reading.layers]


def part_of(rows: PackedRows, part: slice) -> PackedRows:
    """Return some rows; which pair lies in which row is left out of it."""
    return PackedRows(
        input_ids=rows.input_ids[part],
        position_ids=rows.position_ids[part],
        segments=rows.segments[part],
        row_image=rows.row_image[part],
        pair_row=rows.pair_row[:0],
        pair_start=rows.pair_start[:0],
        answer_targets=rows.answer_targets[part],
    )


def _packed_inputs(
    lmm: PreTrainedModel, family: Family, ids: Tensor, segments: Int[Tensor, "rows length"], prefix: Tensor
) -> dict[str, Tensor]:
    mask = block_mask(segments)
    sees_future = family.sees_future(lmm.config, prefix)
    mask = mask if sees_future is None else open_prefix(mask, sees_future)
    return {"attention_mask": additive_mask(mask, lmm.dtype) if lmm.config._attn_implementation == "eager" else mask}


def _plain_inputs(
    lmm: PreTrainedModel, family: Family, ids: Tensor, segments: Int[Tensor, "rows length"], prefix: Tensor
) -> dict[str, Tensor]:
    return {"attention_mask": (segments >= 0).long(), **family.plain_inputs(lmm.config, ids, len(prefix))}

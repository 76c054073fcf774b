"""What is read from the states of packed rows: mean states of phrases, and sums of text losses."""

import itertools
from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional
from transformers import PreTrainedModel

from lumen.lmm.packing import IGNORE, PackedRows


def answer_loss(lmm: PreTrainedModel, rows: PackedRows, states: Float[Tensor, "rows length dim"]) -> Float[Tensor, ""]:
    """Return the cross-entropy of the answers, summed over their tokens."""
    targets = rows.answer_targets.to(states.device)
    asked = (targets != IGNORE).nonzero(as_tuple=True)
    logits = lmm.get_output_embeddings()(states[asked]).float()
    return functional.cross_entropy(logits, targets[asked], reduction="sum")


def recall_loss(
    lmm: PreTrainedModel, rows: PackedRows, query: Float[Tensor, "pairs dim"], columns: Int[Tensor, "pairs 2"]
) -> Float[Tensor, ""]:
    """Return the cross-entropy of each phrase's tokens given its ``[LOC]`` state: a mean per pair, summed over pairs.

    Args:
        lmm: Gives the output layer.
        rows: The rows that the pairs lie in.
        query: State of each pair.
        columns: Columns [start, end) of each phrase in its row.
    """
    at = torch.arange(rows.input_ids.shape[1], device=query.device)
    inside = (at >= columns[:, :1]) & (at < columns[:, 1:])
    share = inside / inside.sum(1, keepdim=True).clamp(min=1)
    tokens = rows.input_ids.to(query.device)[rows.pair_row.to(query.device)]
    picked = lmm.get_output_embeddings()(query).float().log_softmax(-1).gather(1, tokens)
    return -(picked * share).sum()


def span_mean(
    states: Float[Tensor, "rows length dim"], row: Int[Tensor, " pairs"], columns: Int[Tensor, "pairs 2"]
) -> Float[Tensor, "pairs dim"]:
    """Mean state of the columns [start, end) of each pair's row, without copying a row per pair."""
    length = int((columns[:, 1] - columns[:, 0]).max()) if len(columns) else 0
    at = columns[:, :1] + torch.arange(length, device=states.device)
    inside = at < columns[:, 1:]
    picked = states[row[:, None], at.clamp(max=states.shape[1] - 1)] * inside[..., None]
    return picked.sum(1) / inside.sum(1, keepdim=True).clamp(min=1)


def add_up(losses: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Return the sum of each loss over all parts that have it."""
    names = dict.fromkeys(itertools.chain.from_iterable(losses))
    return {name: sum(own[name] for own in losses if name in own) for name in names}

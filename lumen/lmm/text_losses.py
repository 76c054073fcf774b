"""What an LLM learns to say, as sums: its answers, and the phrase behind a ``[LOC]``."""

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from lumen.lmm.packing import IGNORE, PackedRows


def answer_loss(head: nn.Module, rows: PackedRows, states: Float[Tensor, "rows length dim"]) -> Float[Tensor, ""]:
    """Return the cross-entropy of the answers, summed over their tokens; ``head`` turns states into logits."""
    targets = rows.answer_targets.to(states.device)
    asked = (targets != IGNORE).nonzero(as_tuple=True)
    return functional.cross_entropy(head(states[asked]).float(), targets[asked], reduction="sum")


def recall_loss(
    head: nn.Module, rows: PackedRows, query: Float[Tensor, "pairs dim"], columns: Int[Tensor, "pairs 2"]
) -> Float[Tensor, ""]:
    """Return the cross-entropy of each phrase's tokens, given its ``[LOC]`` state: the mean of a phrase, summed.

    Args:
        head: Turns states into logits.
        rows: The rows of the pairs.
        query: The ``[LOC]`` states.
        columns: Start and end of each pair's phrase in its row.
    """
    at = torch.arange(rows.input_ids.shape[1], device=query.device)
    inside = (at >= columns[:, :1]) & (at < columns[:, 1:])
    share = inside / inside.sum(1, keepdim=True).clamp(min=1)
    # Outside of phrases stand tokens that the head may not know: learned ones beside the base's own table.
    tokens = rows.input_ids.to(query.device)[rows.pair_row.to(query.device)] * inside
    picked = head(query).float().log_softmax(-1).gather(1, tokens)
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

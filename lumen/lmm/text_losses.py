"""What an LLM learns to say: its answers, the phrase behind a ``[LOC]``, and the names of what an image token shows."""

from collections.abc import Sequence

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
    tokens = rows.input_ids.to(query.device)[rows.pair_row.to(query.device)]
    picked = head(query).float().log_softmax(-1).gather(1, tokens)
    return -(picked * share).sum()


def name_scores(
    head: nn.Module,
    tokens: Float[Tensor, "images rows columns dim"],
    phrases: Sequence[Sequence[int]],
    image_index: Int[Tensor, " pairs"],
) -> Float[Tensor, "pairs rows columns"]:
    """Return the log-probability of each phrase at each image token of its image: the mean over the phrase's tokens.

    Args:
        head: Turns states into logits.
        tokens: The image tokens as the LLM takes them, on their grid.
        phrases: Token ids of each pair's phrase; one without ids scores 0.
        image_index: Image of each pair.
    """
    cells = functional.rms_norm(tokens.flatten(1, 2).float(), tokens.shape[-1:])
    scores = head(cells).float().log_softmax(-1)
    length = max((len(ids) for ids in phrases), default=0)
    sizes = torch.tensor([len(ids) for ids in phrases], dtype=torch.long)
    ids = torch.tensor([[*own, *[0] * (length - len(own))] for own in phrases], dtype=torch.long).view(
        len(phrases), length
    )
    share = (torch.arange(length) < sizes[:, None]) / sizes[:, None].clamp(min=1)
    picked = scores[image_index[:, None], :, ids.to(scores.device)]
    return (picked * share.to(scores.device)[..., None]).sum(1).unflatten(1, tokens.shape[1:3])


def span_mean(
    states: Float[Tensor, "rows length dim"], row: Int[Tensor, " pairs"], columns: Int[Tensor, "pairs 2"]
) -> Float[Tensor, "pairs dim"]:
    """Mean state of the columns [start, end) of each pair's row, without copying a row per pair."""
    length = int((columns[:, 1] - columns[:, 0]).max()) if len(columns) else 0
    at = columns[:, :1] + torch.arange(length, device=states.device)
    inside = at < columns[:, 1:]
    picked = states[row[:, None], at.clamp(max=states.shape[1] - 1)] * inside[..., None]
    return picked.sum(1) / inside.sum(1, keepdim=True).clamp(min=1)

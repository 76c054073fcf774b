"""What an LMM learns to say, as sums: its answers, the phrase behind a ``[LOC]``, names at its image tokens."""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from lumen.errors import ConfigError
from lumen.lmm.packing.rows import IGNORE, PackedRows, Suffix
from lumen.structures import NameScores


def answer_loss(head: nn.Module, rows: PackedRows, states: Float[Tensor, "rows length dim"]) -> Float[Tensor, ""]:
    """Return the cross-entropy of the answers, summed over their tokens; ``head`` turns states into logits."""
    targets = rows.answer_targets.to(states.device)
    asked = (targets != IGNORE).nonzero(as_tuple=True)
    return functional.cross_entropy(head(states[asked]).float(), targets[asked], reduction="sum")


def phrase_reconstruction_loss(
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


def names_of(suffixes: Sequence[Suffix], max_tokens: int) -> list[tuple[int, ...]]:
    """Return the token ids of each phrase, none where the phrase is too long for a name."""
    phrases = [suffix.ids[slice(*suffix.phrase)] for suffix in suffixes]
    return [ids if len(ids) <= max_tokens else () for ids in phrases]


def token_grid(tokens: Sequence[Tensor], token_hw: tuple[int, int]) -> Float[Tensor, "images rows columns dim"]:
    """Return the image tokens of all images on their grid.

    Raises:
        ConfigError: If they are no grid: some families put separators between them.
    """
    stacked = torch.stack(list(tokens))
    if stacked.shape[1] != token_hw[0] * token_hw[1]:
        raise ConfigError(
            f"name_tokens needs image tokens on a grid of {token_hw}, this LMM has {stacked.shape[1]}: set it to 0"
        )
    return stacked.unflatten(1, token_hw)


def name_scores(
    head: nn.Module,
    tokens: Float[Tensor, "images rows columns dim"],
    phrases: Sequence[Sequence[int]],
    image_index: Int[Tensor, " pairs"],
    nothing: int,
) -> NameScores:
    """Return what the image tokens say.

    Args:
        head: Turns states into logits.
        tokens: The image tokens as the LLM takes them, on their grid.
        phrases: Token ids of each pair's phrase; one without ids scores 0.
        image_index: Image of each pair.
        nothing: Token id that says that there is nothing to name.
    """
    states = functional.rms_norm(tokens.float(), tokens.shape[-1:])
    scores = head(states).float().log_softmax(-1)
    length = max((len(ids) for ids in phrases), default=0)
    sizes = torch.tensor([len(ids) for ids in phrases], dtype=torch.long)
    ids = torch.tensor([[*own, *[0] * (length - len(own))] for own in phrases], dtype=torch.long)
    ids = ids.view(len(phrases), length).to(scores.device)
    share = (torch.arange(length) < sizes[:, None]) / sizes[:, None].clamp(min=1)
    picked = scores.permute(0, 3, 1, 2)[image_index[:, None], ids]
    return NameScores((picked * share.to(scores.device)[..., None, None]).sum(1), scores[..., nothing])

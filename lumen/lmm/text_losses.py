"""The losses of an LMM, as sums: its answers, the phrase behind a ``[LOC]``, names at its image tokens."""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from lumen.errors import ConfigError
from lumen.lmm.packing.rows import IGNORE, PackedRows, Suffix
from lumen.structures import LocFeatures, NameScores, PerceptionSample, targets_per_pair

LOSSES = {
    "loss_answer": "answer_tokens",
    "loss_text": "text_tokens",
    "loss_phrase_reconstruction": "pairs",
    "loss_name": "objects",
    "loss_proposals": "objects",
}
"""All losses that an adapter can give, and what their sums are divided by, as ``TaskSpec.losses``."""

NOTHING_WEIGHT = 0.05  # a tenth of the cells show something


NEIGHBOUR_SHARE = 0.25
"""Probability that each neighbour of an ordered word shall have, see ``answer_loss``."""


def answer_loss(
    head: nn.Module,
    rows: PackedRows,
    states: Float[Tensor, "rows length dim"],
    neighbours: Int[Tensor, "2 tokens"] | None = None,
) -> Float[Tensor, ""]:
    """Return the cross-entropy of the answers, each times its weight, summed over their tokens.

    Args:
        head: Turns states into logits.
        rows: The rows, with the answers and their weights.
        states: States of the rows.
        neighbours: The tokens before and behind each token in an order, itself where it has none: each shall be
            answered with a probability of ``NEIGHBOUR_SHARE``. None where no tokens are ordered.
    """
    asked = (rows.answer_targets != IGNORE).nonzero(as_tuple=True)
    known = (rows.answer_targets[asked], rows.answer_weights[asked], *asked)
    targets, weights, *places = (each.to(states.device, non_blocking=True) for each in known)
    logits = head(states[tuple(places)]).float()
    if neighbours is None:
        loss = functional.cross_entropy(logits, targets, reduction="none")
    else:
        shares = logits.new_tensor([1 - 2 * NEIGHBOUR_SHARE, NEIGHBOUR_SHARE, NEIGHBOUR_SHARE])
        wanted = torch.cat([targets[None], neighbours[:, targets]]).T
        loss = -(logits.log_softmax(-1).gather(1, wanted) * shares).sum(1)
    return (loss * weights).sum()


def neighbours_of(tables: Sequence[Sequence[int]], num_tokens: int) -> Int[Tensor, "2 tokens"]:
    """Return the tokens before and behind each token; a token without such a one is its own.

    Args:
        tables: Tokens in order, one table for each order.
        num_tokens: Tokens of the vocabulary.
    """
    neighbours = torch.arange(num_tokens).repeat(2, 1)
    for table in tables:
        tokens = torch.tensor(table)
        neighbours[0, tokens[1:]], neighbours[1, tokens[:-1]] = tokens[:-1], tokens[1:]
    return neighbours


def phrase_reconstruction_loss(
    head: nn.Module, rows: PackedRows, query: Float[Tensor, "pairs dim"], columns: Int[Tensor, "pairs 2"]
) -> Float[Tensor, ""]:
    """Return the cross-entropy of each phrase's tokens, given its ``[LOC]`` state: the mean of a phrase, summed.

    Args:
        head: Turns states into logits.
        rows: The rows of the pairs.
        query: The ``[LOC]`` states.
        columns: Start and end of each pair's phrase in its row, on the CPU.
    """
    column = torch.arange(rows.input_ids.shape[1])
    inside = (column >= columns[:, :1]) & (column < columns[:, 1:])
    share = inside / inside.sum(1, keepdim=True).clamp(min=1)
    # Outside of phrases stand tokens that the head may not have: learned ones beside the base's own table.
    tokens = rows.input_ids[rows.pair_row] * inside
    tokens, share = (each.to(query.device, non_blocking=True) for each in (tokens, share))
    picked = head(query).float().log_softmax(-1).gather(1, tokens)
    return -(picked * share).sum()


def span_mean(
    states: Float[Tensor, "rows length dim"], row: Int[Tensor, " pairs"], columns: Int[Tensor, "pairs 2"]
) -> Float[Tensor, "pairs dim"]:
    """Return the mean state of the columns [start, end) of each pair's row, without copying a row per pair.

    Args:
        states: States of the rows.
        row: Row of each pair, on the CPU.
        columns: Start and end, on the CPU.
    """
    length = int((columns[:, 1] - columns[:, 0]).max()) if len(columns) else 0
    column = columns[:, :1] + torch.arange(length)
    inside = column < columns[:, 1:]
    places = (row[:, None], column.clamp(max=states.shape[1] - 1), inside)
    row, column, inside = (each.to(states.device, non_blocking=True) for each in places)
    picked = states[row, column] * inside[..., None]
    return picked.sum(1) / inside.sum(1, keepdim=True).clamp(min=1)


def names_of(suffixes: Sequence[Suffix], max_tokens: int) -> list[tuple[int, ...]]:
    """Return the token ids of each phrase, none where the phrase is too long for a name."""
    phrases = [suffix.ids[slice(*suffix.phrase)] for suffix in suffixes]
    return [ids if len(ids) <= max_tokens else () for ids in phrases]


def token_grid(tokens: Sequence[Tensor], token_hw: tuple[int, int]) -> Float[Tensor, "images rows columns dim"]:
    """Return the image tokens of all images on their grid.

    Raises:
        ConfigError: If they do not fill a grid: some families put separators between them.
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
    """Return how probable each phrase is at each image token, if the LMM's output layer reads the token itself.

    Args:
        head: Turns states into logits.
        tokens: The image tokens as the LLM takes them, on their grid.
        phrases: Token ids of each pair's phrase; one without ids scores 0.
        image_index: Image of each pair.
        nothing: Token id that stands for nothing to name.
    """
    states = functional.rms_norm(tokens.float(), tokens.shape[-1:])
    scores = head(states).float().log_softmax(-1)
    length = max((len(ids) for ids in phrases), default=0)
    sizes = torch.tensor([len(ids) for ids in phrases], dtype=torch.long)
    ids = torch.tensor([[*phrase, *[0] * (length - len(phrase))] for phrase in phrases], dtype=torch.long)
    ids = ids.view(len(phrases), length).to(scores.device, non_blocking=True)
    share = (torch.arange(length) < sizes[:, None]) / sizes[:, None].clamp(min=1)
    picked = scores.permute(0, 3, 1, 2)[image_index[:, None], ids]
    return NameScores(
        (picked * share.to(scores.device, non_blocking=True)[..., None, None]).sum(1), scores[..., nothing]
    )


def naming_loss(features: LocFeatures, samples: Sequence[PerceptionSample]) -> Float[Tensor, ""]:
    """Return how improbable the image tokens find the phrases that hold there, summed over objects.

    Of an object count all cells whose centre its box covers, and the one that holds its own centre, evenly. Cells
    outside of all objects learn that there is nothing, in images with boxes: those with points show more than is asked.

    Source:
        In place of a tower that was trained on pairs of image and text; after the alignment of words with regions in
        Li et al., "Grounded Language-Image Pre-training" (2022), section 3.1.
    """
    targets, names = targets_per_pair(samples, features), features.names
    ignored = targets_per_pair(samples, features, "ignored_instances")
    stride = features.grid.shape[-1] * features.stride / names.phrases.shape[-1]
    size_hw = tuple(names.phrases.shape[1:])
    # Each object spreads evenly over its cells.
    inside = _cells_of(targets.bboxes / stride, size_hw)
    share = inside / inside.sum((1, 2), keepdim=True)
    missing = -(names.phrases[targets.pair_index] * share).sum()
    # What no object and no ignored region covers is empty, in images that are annotated with boxes.
    covered = torch.zeros_like(names.nothing)
    for table in (targets, ignored):
        image = features.image_index[table.pair_index]
        covered.index_add_(0, image, _cells_of(table.bboxes / stride, size_hw))
    has_extent = (targets.bboxes[:, 2:] > targets.bboxes[:, :2]).all(1)
    image = features.image_index[targets.pair_index]
    with_boxes = torch.zeros(len(covered), dtype=torch.bool, device=image.device)
    with_boxes[image[has_extent]] = True
    with_boxes[image[~has_extent]] = False
    is_empty = (covered == 0) & with_boxes[:, None, None]
    return missing - NOTHING_WEIGHT * (names.nothing * is_empty).sum()


def _cells_of(boxes: Float[Tensor, "n 4"], size_hw: tuple[int, int]) -> Float[Tensor, "n rows columns"]:
    """Return 1 in each cell whose centre a box covers, and in that of the box's own centre; boxes in cells."""
    spans = []
    for axis, length in enumerate(reversed(size_hw)):
        cell = torch.arange(length, device=boxes.device)
        low, high = boxes[:, axis, None], boxes[:, axis + 2, None]
        middle = ((low + high) / 2).long().clamp(0, length - 1)
        spans.append((cell == middle) | ((low <= cell + 0.5) & (cell + 0.5 < high)))
    return (spans[1][:, :, None] & spans[0][:, None, :]).float()

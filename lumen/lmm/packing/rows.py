"""Packed prompts: many suffixes behind one prefix, in one row, with a block mask and restarted positions.

A suffix sees the prefix and itself, never another suffix; its positions start where the prefix ends. So the states of
a packed suffix equal those of a pass of its own, and the prefix is computed once. Legend: R rows, L row length.

A row with a prefix of 4 tokens (image tokens among them), suffixes ``a`` and ``b``, and one column of padding; ``x``
marks the keys that a query sees:

                      keys    p p p p   a a a   b b   .
    position  segment         0 1 2 3   4 5 6   4 5   0
       0         0    p       x
       1         0    p       x x
       2         0    p       x x x
       3         0    p       x x x x
       4         1    a       x x x x   x
       5         1    a       x x x x   x x
       6         1    a       x x x x   x x x
       4         2    b       x x x x           x
       5         2    b       x x x x           x x
       0        -1    .       x x x x                 x
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from lumen.errors import PromptError

IGNORE = -100
_PREFIX, _PAD = 0, -1
_MAX_PARTS = 8


@dataclass(frozen=True, slots=True)
class Suffix:
    """The tokens of one pair behind the prefix.

    Args:
        ids: Token ids: phrase, wording, answer.
        phrase: Start and end of the phrase within ``ids``.
        slots: Positions of the template's slots within ``ids``, in its order; none where the answer is free text.
        answer: Where the answer starts within ``ids``; its length when there is none.
        weight: How much the answer counts where it is learned.
    """

    ids: tuple[int, ...]
    phrase: tuple[int, int]
    slots: tuple[int, ...]
    answer: int
    weight: float = 1.0

    @property
    def num_answer_tokens(self) -> int:
        """Number of tokens the LMM is trained to give."""
        return len(self.ids) - self.answer


@dataclass(frozen=True, slots=True)
class PackedRows:
    """Rows ready for the LLM. Pairs are numbered in the order in which they were given.

    Args:
        input_ids: Tokens, padded on the right.
        position_ids: Positions, restarted for every suffix.
        segments: 0 in the prefix, k in the k-th suffix of the row, -1 in the padding.
        row_image: Image of each row.
        pair_row: Row of each pair.
        pair_start: Column at which the suffix of each pair starts.
        answer_targets: The token that each position has to predict, -100 where none. Shifted within a suffix, so the
            first token of a suffix is never a target.
        answer_weights: How much each of these predictions counts; 0 where there is none.
    """

    input_ids: Int[Tensor, "rows length"]
    position_ids: Int[Tensor, "rows length"]
    segments: Int[Tensor, "rows length"]
    row_image: Int[Tensor, " rows"]
    pair_row: Int[Tensor, " pairs"]
    pair_start: Int[Tensor, " pairs"]
    answer_targets: Int[Tensor, "rows length"]
    answer_weights: Float[Tensor, "rows length"]


def pack_rows(
    prefix: Sequence[int],
    suffixes: Sequence[Sequence[Suffix]],
    *,
    max_suffix_tokens: int,
    context: int,
    pad_id: int,
    every_image: bool = False,
) -> PackedRows:
    """Pack the suffixes of each image into rows, so that little is padding.

    Rows are as long as the longest of them. Where images differ in the number of their prompts, an image with many may
    take several rows, as long as that costs less than the padding of the others.

    Args:
        prefix: Tokens before the phrase, image tokens included; the same for all images.
        suffixes: One list of suffixes per image; an image without one gets no row.
        max_suffix_tokens: Bound on the suffix tokens of a row; a longer single suffix gets a row of its own.
        context: Longest sequence the LLM was made for; counts the prefix and one suffix, since positions restart.
        pad_id: Token in the padding.
        every_image: Give an image without a suffix a row with the prefix alone.

    Raises:
        PromptError: If the prefix and one suffix do not fit the context.
    """
    # Positions restart, so the context bounds the prefix with one suffix, not the whole row.
    longest = longest_suffix(suffixes)
    if len(prefix) + longest > context:
        raise PromptError(
            f"a prompt of {longest} tokens behind a prefix of {len(prefix)} does not fit the context of {context} "
            "tokens: shorten the phrase"
        )
    # All rows are as long as the longest, so their length is chosen for the batch and not for each image.
    capacity = _capacity(suffixes, len(prefix), longest, max_suffix_tokens)
    # A row belongs to one image; pairs keep the numbers in which they were given, whatever row they come into.
    rows, row_image, first_pair = [], [], 0
    for image, of_image in enumerate(suffixes):
        for group in _groups(of_image, capacity) or [[]] * every_image:
            rows.append([(first_pair + index, of_image[index]) for index in group])
            row_image.append(image)
        first_pair += len(of_image)
    return _fill_rows(prefix, rows, torch.tensor(row_image, dtype=torch.long), pad_id)


def prefix_row(prefix: Sequence[int], image: int = 0) -> PackedRows:
    """Return one row of an image that holds no pair: the prefix alone."""
    return _fill_rows(prefix, [[]], torch.tensor([image]), 0)


def longest_suffix(suffixes: Sequence[Sequence[Suffix]]) -> int:
    """Return the tokens of the longest suffix of all images; 0 where there is none."""
    return max((len(suffix.ids) for of_image in suffixes for suffix in of_image), default=0)


def _capacity(suffixes: Sequence[Sequence[Suffix]], start: int, longest: int, bound: int) -> int:
    """Return how many suffix tokens a row may hold, at most ``bound``, so that all rows together are cheapest.

    Cost is what goes through the LLM: rows times their length, prefix and padding included.
    """
    totals = [sum(len(suffix.ids) for suffix in of_image) for of_image in suffixes]
    # Worth trying: an image in one row, in two, and so on.
    tried = {max(longest, -(-total // parts)) for total in totals for parts in range(1, _MAX_PARTS + 1)}
    tried = {min(capacity, bound) for capacity in tried if capacity} or {bound}

    def cost(capacity: int) -> tuple[int, int]:
        num_rows = sum(-(-total // max(capacity, 1)) for total in totals)
        return num_rows * (start + capacity), -capacity  # of equal costs the longer row

    return min(tried, key=cost)


def _groups(suffixes: Sequence[Suffix], capacity: int) -> list[list[int]]:
    """Return the numbers of the suffixes of each row: the longest first, each where it leaves the fewest tokens free.

    A suffix that is longer than ``capacity`` gets a row of its own.
    """
    groups: list[list[int]] = []
    # Rows with free tokens; a full one is never looked at again.
    left: dict[int, int] = {}
    for index in sorted(range(len(suffixes)), key=lambda index: -len(suffixes[index].ids)):
        size = len(suffixes[index].ids)
        fitting = [(free, number) for number, free in left.items() if free >= size]
        number = min(fitting)[1] if fitting else len(groups)
        if not fitting:
            groups.append([])
        groups[number].append(index)
        left[number] = left.get(number, capacity) - size
        if left[number] <= 0:
            del left[number]
    # Back in the order of the prompts, which makes rows easier to read and changes nothing.
    return sorted(sorted(group) for group in groups)


def _fill_rows(
    prefix: Sequence[int], rows: list[list[tuple[int, Suffix]]], row_image: Tensor, pad_id: int
) -> PackedRows:
    start = len(prefix)
    length = start + max((sum(len(suffix.ids) for _, suffix in row) for row in rows), default=0)
    pair_row, pair_start = torch.zeros(2, sum(map(len, rows)), dtype=torch.long)
    ids, positions, segments, targets, weights = [], [], [], [], []
    for number, row in enumerate(rows):
        # Every row starts with the prefix, in segment 0, which every suffix may see.
        row_ids, row_positions, row_segments = list(prefix), list(range(start)), [_PREFIX] * start
        row_targets, row_weights = [IGNORE] * start, [0.0] * start
        for index, (pair, suffix) in enumerate(row):
            pair_row[pair], pair_start[pair] = number, len(row_ids)
            size = len(suffix.ids)
            row_ids += suffix.ids
            # As if the suffix stood alone behind the prefix.
            row_positions += range(start, start + size)
            row_segments += [index + 1] * size
            # Each position predicts the next token of its own suffix; the last one predicts nothing.
            answer = [token if place >= max(suffix.answer, 1) else IGNORE for place, token in enumerate(suffix.ids)]
            row_targets += [*answer[1:], IGNORE]
            row_weights += [suffix.weight * (target != IGNORE) for target in row_targets[-size:]]
        padding = length - len(row_ids)
        ids.append(row_ids + [pad_id] * padding)
        positions.append(row_positions + [0] * padding)
        segments.append(row_segments + [_PAD] * padding)
        targets.append(row_targets + [IGNORE] * padding)
        weights.append(row_weights + [0.0] * padding)

    def table(values: list, dtype: torch.dtype = torch.long) -> Tensor:
        return torch.tensor(values, dtype=dtype).reshape(len(rows), length)

    return PackedRows(
        input_ids=table(ids),
        position_ids=table(positions),
        segments=table(segments),
        row_image=row_image,
        pair_row=pair_row,
        pair_start=pair_start,
        answer_targets=table(targets),
        answer_weights=table(weights, torch.float32),
    )


def block_mask(segments: Int[Tensor, "rows length"]) -> Bool[Tensor, "rows 1 length length"]:
    """Return which key each query sees: earlier keys of the prefix or of its own suffix, and itself.

    transformers passes a 4-D mask on unchanged, so it carries causality too. Every query sees some key: padding sees
    the prefix and itself.
    """
    length = segments.shape[1]
    causal = torch.ones(length, length, dtype=torch.bool, device=segments.device).tril()
    query, key = segments[:, :, None], segments[:, None, :]
    return (causal & ((key == _PREFIX) | (key == query)))[:, None]


def open_prefix(
    mask: Bool[Tensor, "rows 1 length length"], sees_future: Bool[Tensor, " prefix"]
) -> Bool[Tensor, "rows 1 length length"]:
    """Return the mask with the named tokens of the prefix seeing each other, later ones too."""
    start = len(sees_future)
    opened = mask.clone()
    opened[..., :start, :start] |= sees_future[:, None] & sees_future
    return opened


def place_rows(
    position_ids: Int[Tensor, "rows length"], prefix: Int[Tensor, "axes start"]
) -> Int[Tensor, "rows length"] | Int[Tensor, "axes rows length"]:
    """Return the positions of packed rows behind a prefix whose own positions are not 0, 1, 2 and so on.

    A suffix continues at the largest position of the prefix plus 1, the same on every axis.
    """
    # The rows count the prefix as 0, 1, 2; models with a grid of positions count it otherwise.
    start = prefix.shape[1]
    behind = (position_ids[:, start:] - start + prefix.max() + 1).clamp(min=0)
    placed = torch.cat([prefix[:, None].expand(-1, len(position_ids), -1), behind.expand(len(prefix), -1, -1)], 2)
    return placed if len(prefix) > 1 else placed[0]


def gaps(
    is_image: Bool[Tensor, " start"], shown: Int[Tensor, "rows tokens"], total: int, length: int
) -> Int[Tensor, "rows length"]:
    """Return how many image tokens are left out before each column of rows.

    Args:
        is_image: Which columns of the prefix are image tokens.
        shown: Numbers of the image tokens in each row, ascending, among ``total``.
        total: Image tokens of an image.
        length: Columns of the rows, the prefix included.
    """
    columns = is_image.nonzero()[:, 0]
    missing = torch.zeros(len(shown), length, dtype=torch.long, device=shown.device)
    missing[:, columns] = shown - torch.arange(shown.shape[1], device=shown.device)
    missing[:, int(columns[-1]) + 1 :] = total - shown.shape[1]
    return missing


def additive_mask(
    mask: Bool[Tensor, "rows 1 length length"], dtype: torch.dtype
) -> Float[Tensor, "rows 1 length length"]:
    """Return the mask as numbers to add: eager attention would read a boolean 4-D mask as numbers, without an error."""
    return torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill_(~mask, torch.finfo(dtype).min)

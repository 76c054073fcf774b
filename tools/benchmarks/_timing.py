"""What the benchmarks share: timing in turns, a difference of tensors, a printed table."""

import time
from collections.abc import Callable, Mapping, Sequence

from torch import Tensor


def time_in_turns(
    ways: Mapping[str, Callable[[], object]], rounds: int | Mapping[str, int], *, repeats: int = 1
) -> dict[str, float]:
    """Run the ways in turns and return the least process CPU time of each, in seconds.

    Args:
        ways: What to time, by name.
        rounds: How often each way has its turn: one number for all, or one per name. A way whose turns are used up
            sits out.
        repeats: Runs in one turn; the time is that of one run.
    """
    turns = {name: rounds if isinstance(rounds, int) else rounds[name] for name in ways}
    seconds = dict.fromkeys(ways, float("inf"))
    for turn in range(max(turns.values())):
        for name, way in ways.items():
            if turn >= turns[name]:
                continue
            start = time.process_time()
            for _ in range(repeats):
                way()
            seconds[name] = min(seconds[name], (time.process_time() - start) / repeats)
    return seconds


def relative_difference(found: Tensor, expected: Tensor) -> float:
    """Return the largest absolute difference over the largest absolute expected value; 0 for two empty tensors."""
    if found.shape != expected.shape:
        raise ValueError(f"tensors of one shape are compared, got {tuple(found.shape)} and {tuple(expected.shape)}")
    if expected.numel() == 0:
        return 0.0
    difference = (found.detach() - expected.detach()).abs().max().item()
    largest = expected.detach().abs().max().item()
    if difference == 0:
        return 0.0
    return difference / largest if largest else float("inf")


def print_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print rows of text, the first column to the left, the others to the right."""
    widths = [max(len(row[column]) for row in [header, *rows]) for column in range(len(header))]
    for row in [header, *rows]:
        cells = [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
        print("  ".join([row[0].ljust(widths[0]), *cells]).rstrip())

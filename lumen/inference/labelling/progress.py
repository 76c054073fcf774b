"""How far a labelling job is: a bar on a terminal, a line now and then in a log."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

_SECONDS_BETWEEN_LINES = 60.0


@contextmanager
def show_progress(total: int) -> Iterator[Callable[[int, bool], None]]:
    """Yield a function that notes some pictures as done, and whether an earlier run had done them.

    Images per second and the time that is left count this run alone.
    """
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    console = Console(stderr=True)
    start, noted, labelled, done = time.monotonic(), time.monotonic(), 0, 0
    columns = (TextColumn("images"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[pace]}"))
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task("images", total=total, pace="")

        def advance(count: int, was_done: bool) -> None:
            nonlocal noted, labelled, done
            done += count
            labelled += 0 if was_done else count
            pace = pace_of(labelled, total - done, time.monotonic() - start)
            bar.update(task, advance=count, pace=pace)
            if not console.is_terminal and time.monotonic() - noted > _SECONDS_BETWEEN_LINES:
                noted = time.monotonic()
                print(f"{done} of {total} images, {pace}", file=sys.stderr, flush=True)

        yield advance


def pace_of(labelled: int, left: int, seconds: float) -> str:
    """Return images per second and the time that is left, as text; empty before the first image."""
    if not labelled or seconds <= 0:
        return ""
    rate = labelled / seconds
    minutes, rest = divmod(round(left / rate), 60)
    return f"{rate:.1f} images/s, {minutes // 60}:{minutes % 60:02d}:{rest:02d} left"

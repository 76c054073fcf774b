"""Markdown tables of figures over seeds, and the place in a page that they are written to."""

from collections.abc import Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from lumen.errors import DataError
from lumen.serialization.atomic import write_text

BEGIN, END = "<!-- tables: begin -->", "<!-- tables: end -->"
MISSING = "not run yet"


def write_between_marks(path: Path, text: str) -> None:
    """Replace what stands between the marks of a Markdown file.

    Raises:
        DataError: The file lacks them.
    """
    content = path.read_text(encoding="utf-8")
    before, begin, rest = content.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise DataError(f"{path} has no place for tables: write a line {BEGIN} and a line {END} into it")
    write_text(path, f"{before}{BEGIN}\n\n{text}\n\n{END}{after}")


def shown(values: Sequence[float], digits: int = 3) -> str:
    """Return the mean of values and, of several, their standard deviation; nothing for none."""
    if not values:
        return ""
    text = f"{mean(values):.{digits}f}"
    return f"{text} +- {stdev(values):.{digits}f}" if len(values) > 1 else text


def markdown(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """Return a Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)

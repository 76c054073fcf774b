"""Boxes as words of the vocabulary: each coordinate is one token, and each corner has words of its own."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from lumen.codecs import NOTHING, Place, Reading, Size, is_box
from lumen.errors import ConfigError

ROLES = ("x0", "y0", "x1", "y1")
"""The coordinates of a box, in the order in which they are written."""

_WORD = re.compile(r"<(x0|y0|x1|y1)_(\d{1,9})>")
_BOX = re.compile(r"(?:<[xy][01]_\d+>\s*)+")


@dataclass(frozen=True, slots=True)
class CornerWords:
    """Boxes as four words, such as ``<x0_3><y0_12><x1_8><y1_20>``, with commas between boxes.

    A coordinate is rounded to the nearest of ``bins + 1`` lines across the image.

    Args:
        bins: Steps between the lines of each direction.

    Raises:
        ConfigError: There is no step.
    """

    bins: int = 40

    def __post_init__(self) -> None:
        if self.bins < 1:
            raise ConfigError(f"bins must be at least 1, got {self.bins}")

    @property
    def tables(self) -> tuple[tuple[str, ...], ...]:
        """The words of each coordinate, in the order of their lines."""
        return tuple(tuple(f"<{role}_{line}>" for line in range(self.bins + 1)) for role in ROLES)

    @property
    def words(self) -> tuple[str, ...]:
        """All words."""
        return tuple(word for table in self.tables for word in table)

    def lines(self, box: Sequence[float | int], input_hw: Size) -> tuple[int, ...]:
        """Return the line of each coordinate of a box (x0, y0, x1, y1), in pixels of an image of this size."""
        height, width = input_hw
        shares = (side / whole for side, whole in zip(box, (width, height, width, height), strict=True))
        return tuple(min(max(round(share * self.bins), 0), self.bins) for share in shares)

    def encode(self, values: Sequence[Sequence[float | int]], input_hw: Size, name: str = "") -> str:
        """Return the words of boxes; ``none`` for no box. The name is not written.

        Raises:
            ValueError: Something is not a box.
        """
        for box in values:
            if not is_box(box):
                raise ValueError(f"these are not the coordinates of a box: {list(box)}")
        texts = (
            "".join(f"<{role}_{line}>" for role, line in zip(ROLES, self.lines(box, input_hw), strict=True))
            for box in values
        )
        return ", ".join(texts) or NOTHING

    def decode(self, text: str, input_hw: Size) -> Reading:
        """Return the boxes that a text names."""
        reading = Reading()
        for found in _BOX.finditer(text):
            reading.add(self._place(list(_WORD.finditer(text, *found.span())), input_hw))
        return reading.finished(text)

    def _place(self, words: list[re.Match[str]], input_hw: Size) -> Place | None:
        lines = [int(word[2]) for word in words]
        if tuple(word[1] for word in words) != ROLES or max(lines) > self.bins:
            return None
        height, width = input_hw
        values = tuple(line / self.bins * side for line, side in zip(lines, (width, height) * 2, strict=True))
        return Place(values, tuple(word.span() for word in words)) if is_box(values) else None

"""Places as text, for LMMs that write them: boxes, points and polygons, encoded and decoded by one object.

A codec is given both to what writes the answers to learn and to what reads the answers of the LMM. Values are in
pixels; the text holds shares of the image, numbers of steps, or pixels. Text that cannot be read is counted, never an
error: an LMM may write anything.
"""

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol, runtime_checkable

from lumen.errors import ConfigError
from lumen.options import check_choice

STYLES = ("decimals", "bins", "steps", "pixels")
NOTHING = "none"
"""What stands for no place at all."""
NUMBER = r"[+-]?(?:\d+\.?\d*|\.\d+)"

Span = tuple[int, int]
Size = tuple[int, int]

_NUMBER = re.compile(NUMBER)
_NUMBERS = re.compile(rf"{NUMBER}(?:\s*,\s*{NUMBER})*")
_GROUP = re.compile(r"[^;\n\[\](){}]+")


@dataclass(frozen=True, slots=True)
class Place:
    """One place that a text names.

    Args:
        values: In pixels: x1, y1, x2, y2 of a box; x, y of a point; x, y, x, y and so on of a polygon.
        numbers: Where its numbers stand in the text: start and end of each.
        name: What it is called, where the text says so.
        name_at: Where the name stands.
    """

    values: tuple[float, ...]
    numbers: tuple[Span, ...]
    name: str | None = None
    name_at: Span | None = None


@dataclass(slots=True)
class Reading:
    """What a text names.

    Args:
        places: In the order of the text.
        unparsed: Parts that begin like a place and are none; 1 for a text that names neither places nor their absence.
    """

    places: list[Place] = field(default_factory=list)
    unparsed: int = 0

    def add(self, place: Place | None) -> None:
        """Add a place; None counts as one that could not be read."""
        if place is None:
            self.unparsed += 1
        else:
            self.places.append(place)

    def finished(self, text: str) -> "Reading":
        """Return itself; a text without any place must say so, or be empty, or it counts as unparsed."""
        is_nothing = text.strip(" \t\n.[]{}`").casefold() in ("", NOTHING, "json")
        if not self.places and not self.unparsed and not is_nothing:
            self.unparsed = 1
        return self


@runtime_checkable
class Codec(Protocol):
    """Places to text and back."""

    def encode(self, values: Sequence[Sequence[float | int]], input_hw: Size, name: str = "") -> str:
        """Return the text of places in pixels of an image of this size (height, width); all have the same name."""

    def decode(self, text: str, input_hw: Size) -> Reading:
        """Return the places that a text names, in pixels of an image of this size."""


@dataclass(frozen=True, slots=True)
class Numbers:
    """How one coordinate is written.

    Args:
        style: ``decimals``, the share of the side; ``bins``, the number of the interval that it lies in, read as its
            middle; ``steps``, the nearest of 0 to ``bins``, both included; or ``pixels``.
        digits: Decimals of a share.
        bins: Intervals of a side.

    Raises:
        ConfigError: A value is not accepted.
    """

    style: str = "decimals"
    digits: int = 3
    bins: int = 1000

    def __post_init__(self) -> None:
        check_choice("style", self.style, STYLES)
        if self.digits < 1 or self.bins < 2:
            raise ConfigError(f"digits must be at least 1 and bins at least 2, got {self.digits} and {self.bins}")

    def step(self, side: int) -> float:
        """Return the distance between neighbouring values on a side of so many pixels."""
        return {"decimals": side / 10**self.digits, "pixels": 1.0}.get(self.style, side / self.bins)

    def write(self, pixel: float | int, side: int) -> str:
        """Return the text of a coordinate; one outside the image becomes that of its edge."""
        share = min(max(pixel / side, 0.0), 1.0)
        if self.style == "decimals":
            return f"{share:.{self.digits}f}"
        if self.style == "bins":
            return str(min(int(share * self.bins), self.bins - 1))
        return str(math.floor(share * (side if self.style == "pixels" else self.bins) + 0.5))

    def read(self, number: str, side: int) -> float | None:
        """Return the pixel of a text that is a number; None where it lies outside the image.

        Only pixels may leave the image, which clips them: LMMs that count pixels err by some at the edges.
        """
        value = float(number)
        if self.style == "pixels":
            return min(max(value, 0.0), float(side)) if value < 2 * side else None
        largest = {"decimals": 1, "bins": self.bins - 1}.get(self.style, self.bins)
        if not 0 <= value <= largest or (self.style == "bins" and value != int(value)):
            return None
        if self.style == "decimals":
            return value * side
        return (value + (0.5 if self.style == "bins" else 0.0)) / self.bins * side

    def write_all(self, values: Sequence[float | int], input_hw: Size) -> list[str]:
        """Return the texts of x, y, x, y and so on."""
        return [self.write(value, side) for value, side in zip(values, _sides(values, input_hw), strict=True)]

    def read_all(self, numbers: Sequence[str], input_hw: Size) -> tuple[float, ...] | None:
        """Return the pixels of x, y, x, y and so on; None where one lies outside the image."""
        read = [self.read(number, side) for number, side in zip(numbers, _sides(numbers, input_hw), strict=True)]
        return None if None in read else tuple(value for value in read if value is not None)

    def place(
        self,
        text: str,
        at: Span,
        input_hw: Size,
        is_whole: Callable[[Sequence[float | int]], bool],
        name_at: Span | None = None,
    ) -> Place | None:
        """Return the place whose numbers are those of a part of a text; None where they are not one.

        Args:
            text: The text.
            at: The part.
            input_hw: Size of the image.
            is_whole: Whether values make up a place; ``is_box`` for boxes.
            name_at: Where its name stands.
        """
        spans = tuple(match.span() for match in _NUMBER.finditer(text, *at))
        values = self.read_all([text[slice(*span)] for span in spans], input_hw)
        if values is None or not is_whole(values):
            return None
        name = None if name_at is None else text[slice(*name_at)].strip()
        return Place(values, spans, name, name_at)


THOUSANDTHS = Numbers("steps", bins=1000)
"""0 to 1000 along each side, as most LMMs count."""


def is_box(values: Sequence[float | int]) -> bool:
    """Return whether values are two corners, the upper left one first."""
    return len(values) == 4 and values[0] <= values[2] and values[1] <= values[3]


def is_point(values: Sequence[float | int]) -> bool:
    """Return whether values are one point."""
    return len(values) == 2


def is_polygon(values: Sequence[float | int]) -> bool:
    """Return whether values are three points or more."""
    return len(values) >= 6 and len(values) % 2 == 0


@dataclass(frozen=True, slots=True)
class _PlainCodec:
    """Numbers with commas between them, places with semicolons between them; the classes below say what a place is."""

    style: str = "decimals"
    digits: int = 3
    bins: int = 1000

    what: ClassVar[str]
    is_whole: ClassVar[Callable[[Sequence[float | int]], bool]]

    def __post_init__(self) -> None:
        _ = self.numbers  # which checks the values

    @property
    def numbers(self) -> Numbers:
        """How a coordinate is written."""
        return Numbers(self.style, self.digits, self.bins)

    def encode(self, values: Sequence[Sequence[float | int]], input_hw: Size, name: str = "") -> str:
        """Return the text of places; ``none`` for no place. The name is not written.

        Raises:
            ValueError: Something is not such a place.
        """
        for place in values:
            if not self.is_whole(place):
                raise ValueError(f"these are not the coordinates of a {self.what}: {list(place)}")
        return "; ".join(",".join(self.numbers.write_all(place, input_hw)) for place in values) or NOTHING

    def decode(self, text: str, input_hw: Size) -> Reading:
        """Return the places that a text names."""
        reading, numbers = Reading(), self.numbers
        for start, end in _groups(text):
            is_list = _NUMBERS.fullmatch(text, start, end) is not None
            reading.add(numbers.place(text, (start, end), input_hw, self.is_whole) if is_list else None)
        return reading.finished(text)


@dataclass(frozen=True, slots=True)
class BoxCodec(_PlainCodec):
    """Boxes as ``0.010,0.200,0.051,0.400; ...``: x1, y1, x2, y2. Brackets around a box are read too.

    Args:
        style: See ``Numbers``; InfMLLM writes ``decimals``.
        digits: Decimals of a share.
        bins: Intervals of a side.

    Raises:
        ConfigError: A value is not accepted.
    """

    what = "box"
    is_whole = staticmethod(is_box)


@dataclass(frozen=True, slots=True)
class PointCodec(_PlainCodec):
    """Points as ``0.010,0.200; ...``; see ``BoxCodec``."""

    what = "point"
    is_whole = staticmethod(is_point)


@dataclass(frozen=True, slots=True)
class PolygonCodec(_PlainCodec):
    """Polygons as ``0.010,0.200,0.051,0.400,0.030,0.500; ...``, three points or more each; see ``BoxCodec``."""

    what = "polygon"
    is_whole = staticmethod(is_polygon)


def build_codec(given: Codec | Mapping[str, Any]) -> Codec:
    """Return a codec that a config gives as a dict of its arguments, with its class as ``type``; ``BoxCodec`` without.

    Raises:
        ConfigError: An argument is unknown, or a value is not accepted.
    """
    if not isinstance(given, Mapping):
        return given
    settings = dict(given)
    kind = settings.pop("type", BoxCodec)
    try:
        return kind(**settings)
    except TypeError as error:
        raise ConfigError(f"codec: {error}") from error


def _sides(values: Sequence[Any], input_hw: Size) -> list[int]:
    """Return the side of the image that each of x, y, x, y and so on lies on."""
    return [input_hw[1 - place % 2] for place in range(len(values))]


def _groups(text: str) -> Iterator[Span]:
    """Yield the parts of a text that should be the numbers of a place: those between separators that hold a digit."""
    for match in _GROUP.finditer(text):
        part = match.group()
        stripped = part.strip(" \t,").rstrip(".")
        if any(letter.isdigit() for letter in stripped):
            start = match.start() + part.index(stripped)
            yield start, start + len(stripped)

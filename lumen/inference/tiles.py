"""Tiles of large pictures. Imports nothing heavy."""

from dataclasses import dataclass

from lumen.errors import ConfigError

Box = tuple[int, int, int, int]


@dataclass(frozen=True, slots=True)
class Tiles:
    """How a large picture is cut into square tiles.

    Args:
        side: Height and width of a tile in original pixels.
        overlap: Share of the side that neighbours have in common, at least. An object that is not larger than this is
            seen whole in some tile.

    Raises:
        ConfigError: The side is not a whole number of at least 16, or the overlap not from 0 to below 0.9.
    """

    side: int
    overlap: float = 0.2

    def __post_init__(self) -> None:
        if type(self.side) is not int or self.side < 16:
            raise ConfigError(f"the side of a tile is a whole number of at least 16 pixels, got {self.side!r}")
        if isinstance(self.overlap, bool) or not isinstance(self.overlap, int | float) or not 0 <= self.overlap < 0.9:
            raise ConfigError(f"the overlap of tiles is a share from 0 to below 0.9, got {self.overlap!r}")

    @property
    def shared(self) -> int:
        """Pixels that neighbouring tiles have in common, at least."""
        return round(self.side * self.overlap)

    def boxes(self, size_hw: tuple[int, int]) -> list[Box]:
        """Return the tiles (x1, y1, x2, y2) of a picture, row by row; all have the whole side where it fits in."""
        rows, columns = (self._starts(size) for size in size_hw)
        height, width = size_hw
        return [
            (left, top, min(left + self.side, width), min(top + self.side, height)) for top in rows for left in columns
        ]

    def _starts(self, size: int) -> list[int]:
        last = max(size - self.side, 0)
        # As few tiles as overlap enough, evenly spaced.
        count = -(-last // (self.side - self.shared)) + 1
        return [round(last * number / max(count - 1, 1)) for number in range(count)]


def as_tiles(tiles: Tiles | int) -> Tiles:
    """Return tiles; a number is their side."""
    return tiles if isinstance(tiles, Tiles) else Tiles(tiles)

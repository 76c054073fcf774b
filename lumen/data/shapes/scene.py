"""What is in a scene: which shapes, how they look, where they lie. No pixels are coloured here.

Coordinates are pixels, (0, 0) at the top-left corner of the first pixel.
"""

from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool, Float, Int8
from PIL import Image, ImageDraw

from lumen.data.shapes.outlines import CATEGORIES, MAX_TURN, RING_HOLE, keypoints, outline

IMAGE_SIZE = 160
COLOURS = {
    "red": 0,
    "orange": 27,
    "yellow": 54,
    "green": 118,
    "cyan": 183,
    "blue": 224,
    "purple": 274,
    "pink": 324,
}
"""Hue of each colour word, in degrees."""

TEXTURES = ("plain", "striped", "dotted")
SIZES = ("small", "medium", "large")
SIZE_BOUNDS = (18.0, 33.0)
"""Sides (square root of the box area) that part small from medium from large."""

_NUM_OBJECTS = (0.05, 0.17, 0.24, 0.22, 0.17, 0.09, 0.06)  # of 1 to 7
_TEXTURE_RATES = (0.5, 0.25, 0.25)
_MEDIAN_SIDE, _SIDE_SPREAD, _SIDE_RANGE = 24.5, 0.38, (10.0, 58.0)
_MAX_ASPECT = 0.36  # of the logarithm, either way
_COPY_CATEGORY, _COPY_COLOUR = 0.4, 0.4  # twins give phrases that need more than the noun
_CROWD_RATE = 0.3  # how often a shape is put next to another one
_MIN_VISIBLE = 0.45
_SUPERSAMPLE = 4
_TRIES = 24


@dataclass(frozen=True, slots=True)
class ShapeObject:
    """One shape of a finished scene.

    Args:
        category: One of ``CATEGORIES``.
        colour: One of ``COLOURS``.
        texture: One of ``TEXTURES``.
        size: One of ``SIZES``, from the side of the whole shape, also where a part is covered.
        side: Square root of the area of the box of the whole shape, in pixels.
        centre: (x, y) of the middle of the box of the whole shape.
        mask: Visible pixels.
        keypoints: x, y and visibility (1 covered, 2 visible).
        visible_fraction: Visible pixels over all pixels of the shape.
    """

    category: str
    colour: str
    texture: str
    size: str
    side: float
    centre: tuple[float, float]
    mask: Bool[np.ndarray, "height width"]
    keypoints: Float[np.ndarray, "5 3"]
    visible_fraction: float


@dataclass(frozen=True, slots=True)
class Cutout:
    """A shape as a rectangular piece of opacity, to be laid at ``corner`` (x, y, whole pixels).

    ``points`` are its keypoints and ``side`` its size in pixels; ``points`` count from the corner.
    """

    category: str
    colour: str
    texture: str
    side: float
    opacity: Float[np.ndarray, "rows cols"]
    points: Float[np.ndarray, "5 2"]
    corner: tuple[int, int] = (0, 0)

    @property
    def window(self) -> tuple[slice, slice]:
        """Rows and columns of the image that the piece covers."""
        (x, y), (height, width) = self.corner, self.opacity.shape
        return slice(y, y + height), slice(x, x + width)

    @property
    def solid(self) -> Bool[np.ndarray, "rows cols"]:
        """Pixels of the piece that belong to the shape."""
        return self.opacity >= 0.5


def size_word(side: float) -> str:
    """Return the word for a side in pixels."""
    return SIZES[sum(side >= bound for bound in SIZE_BOUNDS)]


def sample_cutouts(rng: np.random.Generator) -> tuple[list[Cutout], Int8[np.ndarray, "height width"]]:
    """Draw the shapes of one scene, from back to front.

    Returns:
        The cutouts, and the owner of each pixel: the position of the frontmost shape, -1 for none.
    """
    owner = np.full((IMAGE_SIZE, IMAGE_SIZE), -1, dtype=np.int8)
    placed: list[Cutout] = []
    wanted = 1 + rng.choice(len(_NUM_OBJECTS), p=_NUM_OBJECTS)
    # From back to front; a shape for which there is no place is left out.
    for _ in range(wanted):
        cutout = _cut(*_sample_look(rng, placed), rng)
        spot = _find_spot(cutout, placed, owner, rng)
        if spot is None:
            continue
        # The newer shape covers the older ones.
        owner[spot.window][spot.solid] = len(placed)
        placed.append(spot)
    return placed, owner


def _sample_look(rng: np.random.Generator, placed: list[Cutout]) -> tuple[str, str, str]:
    """Draw category, colour and texture; sometimes those of a shape that is already there."""
    category = CATEGORIES[rng.integers(len(CATEGORIES))]
    colour = list(COLOURS)[rng.integers(len(COLOURS))]
    if placed and rng.random() < _COPY_CATEGORY:
        twin = placed[rng.integers(len(placed))]
        category = twin.category
        colour = twin.colour if rng.random() < _COPY_COLOUR else colour
    return category, colour, TEXTURES[rng.choice(len(TEXTURES), p=_TEXTURE_RATES)]


def _cut(category: str, colour: str, texture: str, rng: np.random.Generator) -> Cutout:
    """Turn, stretch and rasterise one shape."""
    side = float(np.clip(_MEDIAN_SIDE * np.exp(_SIDE_SPREAD * rng.standard_normal()), *_SIDE_RANGE))
    matrix = _sample_matrix(category, rng)
    rim = outline(category) @ matrix.T
    # The side is that of the turned shape's box, so that sizes compare over categories.
    extent = np.ptp(rim, axis=0)
    scale = side / np.sqrt(extent.prod())
    shift = 1 + rng.random(2) - rim.min(0) * scale  # a rim of one pixel and a fraction
    width, height = (int(v) for v in np.ceil(extent * scale) + 3)
    # Drawn four times as large and averaged: edges get partial opacity.
    canvas = Image.new("L", (width * _SUPERSAMPLE, height * _SUPERSAMPLE))
    _fill(canvas, rim * scale + shift, 255)
    if category == "ring":
        _fill(canvas, rim * (scale * RING_HOLE) + shift, 0)
    opacity = np.asarray(canvas.reduce(_SUPERSAMPLE), dtype=np.float32) / 255
    points = keypoints(category, matrix) * scale + shift
    return Cutout(category, colour, texture, side, opacity, points)


def _sample_matrix(category: str, rng: np.random.Generator) -> np.ndarray:
    turn = np.deg2rad(rng.uniform(-1, 1) * MAX_TURN[category])
    stretch = np.exp(rng.uniform(-0.5, 0.5) * _MAX_ASPECT)
    rotation = np.array([(np.cos(turn), -np.sin(turn)), (np.sin(turn), np.cos(turn))])
    # Stretched first, then turned; the area stays.
    return rotation * (stretch, 1 / stretch)


def _fill(canvas: Image.Image, points: np.ndarray, value: int) -> None:
    # Pillow counts from the centre of the first pixel, this module from its corner.
    ImageDraw.Draw(canvas).polygon((points * _SUPERSAMPLE - 0.5).ravel().tolist(), fill=value)


def _find_spot(cutout: Cutout, placed: list[Cutout], owner: np.ndarray, rng: np.random.Generator) -> Cutout | None:
    """Return the cutout at a place where everything stays recognisable, or None when there seems to be none."""
    height, width = cutout.opacity.shape
    limit = np.array([IMAGE_SIZE - width, IMAGE_SIZE - height])
    for _ in range(_TRIES):
        # Wholly inside the image: only other shapes cover a shape.
        corner = rng.integers(0, limit + 1)
        if placed and rng.random() < _CROWD_RATE:
            corner = _corner_near(placed[rng.integers(len(placed))], cutout, rng)
        if (corner < 0).any() or (corner > limit).any():
            continue
        spot = replace(cutout, corner=(int(corner[0]), int(corner[1])))
        if _is_clear(spot, placed, owner):
            return spot
    return None


def _corner_near(other: Cutout, cutout: Cutout, rng: np.random.Generator) -> np.ndarray:
    """Return a corner that lets the cutout cover a part of ``other``."""
    angle = rng.uniform(0, 2 * np.pi)
    # Less than the distance at which the two would just touch.
    reach = (other.side + cutout.side) / 2 * rng.uniform(0.5, 0.95)
    middle = np.array(other.corner) + np.array(other.opacity.shape[::-1]) / 2
    middle = middle + reach * np.array([np.cos(angle), np.sin(angle)])
    return np.round(middle - np.array(cutout.opacity.shape[::-1]) / 2).astype(int)


def _is_clear(spot: Cutout, placed: list[Cutout], owner: np.ndarray) -> bool:
    """Tell whether no shape is hidden too much and no two of one colour touch."""
    touched = owner[spot.window][spot.opacity > 0]
    covered = owner[spot.window][spot.solid]
    for index in np.unique(touched[touched >= 0]):
        other = placed[index]
        # What would still be seen of the other one.
        left = (owner[other.window] == index).sum() - (covered == index).sum()
        if other.colour == spot.colour or left < _MIN_VISIBLE * other.solid.sum():
            return False
    return True

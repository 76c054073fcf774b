"""Pictures of persons: one person, one to six, or a crowd. Each depends on its arguments alone."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, UInt8
from PIL import Image, ImageDraw

from lman_world.appearance import Appearance, sample_appearance
from lman_world.background import IMAGE_SIZE, expose, paint_background
from lman_world.figure import Figure, make_figure, sample_pose
from lumen.errors import DataError

KINDS = ("scenes", "crowds", "portraits", "identities")
SPLITS = ("train", "val", "test")

NUM_IDENTITIES, NUM_TRAIN_IDENTITIES = 160, 120
NUM_VIEWS, NUM_CAMERAS = 8, 2

_FINE = 3  # pixels of drawing per pixel of the image, along each axis
_MARGIN = 2.0
_MIN_VISIBLE = {"scenes": 0.35, "crowds": 0.35, "portraits": 1.0, "identities": 1.0}
_TRIES = 60


@dataclass(frozen=True, slots=True)
class Person:
    """A person in a picture.

    Args:
        appearance: What they wear.
        attributes: What shows of it.
        mask: Visible pixels.
        keypoints: x, y in pixels, and 2 where the person themselves is seen there, 1 where another one is.
        visible: Share of the person's pixels that is visible.
    """

    appearance: Appearance
    attributes: frozenset[str]
    mask: Bool[np.ndarray, "160 160"]
    keypoints: Float[np.ndarray, "14 3"]
    visible: float


@dataclass(frozen=True, slots=True)
class Picture:
    """An image, RGB; the number of the part that each pixel shows, 0 for none; and its persons from back to front."""

    image: UInt8[np.ndarray, "160 160 3"]
    parts: UInt8[np.ndarray, "160 160"]
    persons: tuple[Person, ...]


def draw_picture(seed: int, kind: str, split: str, index: int) -> Picture:
    """Draw one picture: ``scenes`` of 1 to 6 persons, ``crowds`` of 5 to 30, or ``portraits`` of one.

    Raises:
        DataError: The kind or split is unknown, or a number is negative.
    """
    if kind not in KINDS[:3] or split not in SPLITS or seed < 0 or index < 0:
        raise DataError(f"there is no picture {index} of {split!r} {kind!r} with seed {seed}")
    rng = np.random.default_rng([seed, KINDS.index(kind), SPLITS.index(split), index])
    if kind == "portraits":
        return _portrait(sample_appearance(rng), 0, rng)
    horizon = float(rng.uniform(0.25, 0.6))
    figures = _crowd(rng, horizon) if kind == "crowds" else _group(rng)
    return _paint(figures, horizon, 0, rng, _MIN_VISIBLE[kind])


def draw_identity(seed: int, number: int, camera: int, view: int) -> Picture:
    """Draw one view of an identity. Odd numbers are twins of those before them.

    Raises:
        DataError: There is no such identity, camera or view.
    """
    if not (0 <= number < NUM_IDENTITIES and 1 <= camera <= NUM_CAMERAS and 0 <= view < NUM_VIEWS and seed >= 0):
        raise DataError(f"there is no view {view} of identity {number} by camera {camera} with seed {seed}")
    appearance = sample_appearance(np.random.default_rng([seed, KINDS.index("identities"), number // 2]))
    rng = np.random.default_rng([seed, KINDS.index("identities"), number, camera, view])
    return _portrait(appearance.twin if number % 2 else appearance, camera, rng)


Placed = tuple[Appearance, Figure]


def _portrait(appearance: Appearance, camera: int, rng: np.random.Generator) -> Picture:
    figure = make_figure(appearance, sample_pose(rng))
    room = IMAGE_SIZE - 2 * _MARGIN
    x1, y1, x2, y2 = figure.box
    scale = float(rng.uniform(0.66, 1.0)) * room / max(x2 - x1, y2 - y1)
    place = [_MARGIN + float(rng.uniform(0, room - scale * side)) for side in (x2 - x1, y2 - y1)]
    return _paint([(appearance, figure.placed(scale, tuple(place)))], float(rng.uniform(0.2, 0.8)), camera, rng, 1.0)


def _group(rng: np.random.Generator) -> list[Placed]:
    number = int(rng.integers(1, 7))
    top = 110 - 8 * number
    return _place(number, lambda foot: float(rng.uniform(42, top)) * (0.7 + 0.3 * foot), rng, max_overlap=0.3)


def _crowd(rng: np.random.Generator, horizon: float) -> list[Placed]:
    # One more than 5: of some too little is visible.
    number = int(rng.integers(6, 31))
    near = float(rng.uniform(26, 42))
    return _place(
        number, lambda foot: max(13.0, near * (foot - 0.6 * horizon) / (1 - 0.6 * horizon)), rng, max_overlap=0.35
    )


def _place(
    number: int, height_at: Callable[[float], float], rng: np.random.Generator, *, max_overlap: float
) -> list[Placed]:
    """Return persons with their feet on the floor, the farthest first; ``height_at`` gives pixels for a foot's row.

    A person for whom no place is found in ``_TRIES`` draws is left out.
    """
    placed: list[Placed] = []
    boxes: list[tuple[float, float, float, float]] = []
    for _ in range(number):
        appearance = sample_appearance(rng)
        figure = make_figure(appearance, sample_pose(rng))
        x1, y1, x2, y2 = figure.box
        for _ in range(_TRIES):
            foot = float(rng.uniform(0.4, 0.99))
            scale = height_at(foot) / 0.95
            width, height = scale * (x2 - x1), scale * (y2 - y1)
            left, top = float(rng.uniform(_MARGIN, IMAGE_SIZE - _MARGIN)), foot * IMAGE_SIZE - height
            if top < _MARGIN or left + width > IMAGE_SIZE - _MARGIN:
                continue
            box = (left, top, left + width, top + height)
            if all(_overlap(box, other) <= max_overlap for other in boxes):
                boxes.append(box)
                placed.append((appearance, figure.placed(scale, (left, top))))
                break
    return sorted(placed, key=lambda pair: pair[1].box[3])


def _overlap(first: tuple[float, ...], second: tuple[float, ...]) -> float:
    """Return the share of the smaller box that lies in the other."""
    width = min(first[2], second[2]) - max(first[0], second[0])
    height = min(first[3], second[3]) - max(first[1], second[1])
    smaller = min((box[2] - box[0]) * (box[3] - box[1]) for box in (first, second))
    return max(width, 0) * max(height, 0) / smaller


def _paint(figures: list[Placed], horizon: float, camera: int, rng: np.random.Generator, min_visible: float) -> Picture:
    """Paint persons from back to front; those of whom too little is visible are left out of the picture."""
    masks = [_part_map(figure) for _, figure in figures]
    kept: list[int] = []
    covered = np.zeros((IMAGE_SIZE, IMAGE_SIZE), bool)
    for number in reversed(range(len(figures))):
        solid = masks[number] > 0
        if (solid & ~covered).sum() >= min_visible * solid.sum():
            kept.insert(0, number)
            covered |= solid
    canvas = Image.fromarray(np.clip(paint_background(rng, horizon), 0, 255).astype(np.uint8))
    canvas = canvas.resize((_FINE * IMAGE_SIZE,) * 2, Image.Resampling.BILINEAR)
    pen = ImageDraw.Draw(canvas)
    parts, owner = np.zeros((IMAGE_SIZE, IMAGE_SIZE), np.uint8), np.full((IMAGE_SIZE, IMAGE_SIZE), -1)
    for place, number in enumerate(kept):
        for patch in figures[number][1].patches:
            pen.polygon(_corners(patch.outline), fill=patch.ink)
        solid = masks[number] > 0
        parts[solid], owner[solid] = masks[number][solid], place
    image = expose(np.asarray(canvas.reduce(_FINE), dtype=np.float32), camera, rng)
    persons = tuple(_person(*figures[number], masks[number], owner, place) for place, number in enumerate(kept))
    return Picture(image, parts, persons)


def _part_map(figure: Figure) -> UInt8[np.ndarray, "160 160"]:
    """Return the part of a person alone at the middle of each pixel."""
    # Only the window around the person is drawn.
    x1, y1 = (max(int(side), 0) for side in figure.box[:2])
    x2, y2 = (min(int(side) + 2, IMAGE_SIZE) for side in figure.box[2:])
    fine = Image.new("L", (_FINE * (x2 - x1), _FINE * (y2 - y1)))
    pen = ImageDraw.Draw(fine)
    for patch in figure.patches:
        pen.polygon(_corners(patch.outline - (x1, y1)), fill=patch.part)
    parts = np.zeros((IMAGE_SIZE, IMAGE_SIZE), np.uint8)
    parts[y1:y2, x1:x2] = np.asarray(fine)[_FINE // 2 :: _FINE, _FINE // 2 :: _FINE]
    return parts


def _corners(outline: np.ndarray) -> list[float]:
    return (outline * _FINE - 0.5).ravel().tolist()


def _person(appearance: Appearance, figure: Figure, solid: np.ndarray, owner: np.ndarray, place: int) -> Person:
    cells = np.clip(figure.keypoints.astype(int), 0, IMAGE_SIZE - 1)
    above = owner[cells[:, 1], cells[:, 0]]
    mask = owner == place
    return Person(
        appearance=appearance,
        attributes=figure.attributes,
        mask=mask,
        keypoints=np.concatenate([figure.keypoints, np.where(above > place, 1, 2)[:, None]], 1),
        visible=float(mask.sum() / max((solid > 0).sum(), 1)),
    )

"""What stands behind persons, and what a camera makes of a picture. Colours are floats in [0, 255]."""

import colorsys

import numpy as np
from jaxtyping import Float
from PIL import Image, ImageDraw

IMAGE_SIZE = 160
"""Height and width of every image, in pixels."""

CAMERAS = {0: ((1.0, 1.0, 1.0), 1.0), 1: ((1.08, 1.0, 0.86), 0.92), 2: ((0.86, 0.95, 1.08), 1.1)}
"""Gain of red, green and blue, and gamma, of each camera; 0 is neutral."""

_ROW, _COL = np.mgrid[:IMAGE_SIZE, :IMAGE_SIZE].astype(np.float32) / IMAGE_SIZE


def paint_background(rng: np.random.Generator, horizon: float) -> Float[np.ndarray, "160 160 3"]:
    """Return a wall, a floor, blotches and clutter: poles, lamps and trees, which a detector must not take for persons.

    Args:
        rng: Random numbers.
        horizon: Where the floor begins, as a share of the height.
    """
    wall, floor = (_dull(rng) for _ in range(2))
    tilt = rng.uniform(-0.25, 0.25, (2, 1, 1)).astype(np.float32)
    shading = 1 + tilt[0] * (_COL - 0.5) + tilt[1] * (_ROW - 0.5)
    canvas = np.where((horizon > _ROW)[..., None], wall, floor) * shading[..., None]
    for cells in (int(rng.integers(3, 8)), int(rng.integers(12, 40))):
        canvas = canvas + rng.uniform(4, 18) * _blotches(cells, rng)
    picture = Image.fromarray(np.clip(canvas, 0, 255).astype(np.uint8))
    pen = ImageDraw.Draw(picture)
    for _ in range(int(rng.integers(2, 7))):
        _draw_clutter(pen, rng, horizon * IMAGE_SIZE)
    return np.asarray(picture, dtype=np.float32)


def expose(canvas: np.ndarray, camera: int, rng: np.random.Generator) -> np.ndarray:
    """Return the uint8 picture that a camera takes: its tone and gamma, some light, and noise."""
    gains, gamma = CAMERAS[camera]
    light = np.array(gains) * rng.uniform(0.85, 1.1) * rng.uniform(0.96, 1.04, 3)
    picture = 255 * np.clip(canvas / 255, 0, 1) ** gamma * light
    picture = picture + rng.uniform(2, 6) * rng.standard_normal(canvas.shape, dtype=np.float32)
    return np.clip(picture, 0, 255).astype(np.uint8)


def _dull(rng: np.random.Generator) -> np.ndarray:
    tint = colorsys.hsv_to_rgb(rng.uniform(), rng.uniform(0, 0.35), rng.uniform(0.3, 0.8))
    return 255 * np.array(tint, dtype=np.float32)


def _blotches(cells: int, rng: np.random.Generator) -> np.ndarray:
    coarse = Image.fromarray(rng.standard_normal((cells, cells), dtype=np.float32))
    return np.asarray(coarse.resize((IMAGE_SIZE, IMAGE_SIZE), Image.Resampling.BILINEAR))[..., None]


def _draw_clutter(pen: ImageDraw.ImageDraw, rng: np.random.Generator, horizon: float) -> None:
    x, foot = rng.uniform(0, IMAGE_SIZE), horizon + rng.uniform(0, 30)
    ink, other = (tuple(_dull(rng).astype(int).tolist()) for _ in range(2))
    kind, height = rng.integers(4), rng.uniform(30, 110)
    if kind == 0:  # a pole, or a lamp
        pen.line([x, foot, x, foot - height], fill=ink, width=int(rng.integers(2, 6)))
        radius = rng.uniform(3, 9)
        if rng.random() < 0.6:
            pen.ellipse([x - radius, foot - height - radius, x + radius, foot - height + radius], fill=other)
    elif kind == 1:  # a tree
        pen.line([x, foot, x, foot - height], fill=ink, width=int(rng.integers(4, 9)))
        for _ in range(3):
            dx, dy, radius = rng.normal(0, 7), rng.normal(0, 7), rng.uniform(8, 20)
            box = [x + dx - radius, foot - height + dy - radius, x + dx + radius, foot - height + dy + radius]
            pen.ellipse(box, fill=other)
    elif kind == 2:  # a window, or a door
        width = rng.uniform(10, 34)
        pen.rectangle([x, foot - height, x + width, foot - height * rng.uniform(0.2, 0.7)], fill=ink, outline=other)
    else:  # a box on the floor, in any colour
        width, ink = rng.uniform(6, 22), tuple(rng.integers(30, 230, 3).tolist())
        pen.rectangle([x, foot, x + width, foot + rng.uniform(6, 20)], fill=ink, outline=other)

"""Paint a scene: cluttered background, textured shapes, blur and noise. Colours are floats in [0, 255]."""

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageDraw, ImageFilter

from lumen.data.shapes.scene import COLOURS, IMAGE_SIZE, Cutout, ShapeObject, sample_cutouts, size_word

SPLITS = ("train", "val", "test")
"""Each is drawn from random numbers of its own: the position is part of the seed, so that new ones go to the end."""

_MIN_CONTRAST = 60.0  # in the colour channel that differs most
_HUE_JITTER = 7.0
_ROW, _COL = np.mgrid[:IMAGE_SIZE, :IMAGE_SIZE].astype(np.float32)


def draw_scene(
    seed: int, split: str, index: int
) -> tuple[UInt8[np.ndarray, "height width 3"], tuple[ShapeObject, ...]]:
    """Draw one image of the data set. The result depends on nothing but the three arguments.

    Args:
        seed: Seed of the data set, not negative.
        split: ``train``, ``val`` or ``test``.
        index: Position in the split.

    Returns:
        The image, 160 x 160 RGB, and its shapes from back to front.

    Raises:
        ValueError: If the split is unknown, or a number is negative.
    """
    if split not in SPLITS:
        raise ValueError(f"split must be one of {SPLITS}, got {split!r}")
    if seed < 0 or index < 0:
        raise ValueError(f"seed and index must not be negative, got {seed} and {index}")
    # Any image can be drawn alone, in any order and process.
    rng = np.random.default_rng([seed, SPLITS.index(split), index])
    cutouts, owner = sample_cutouts(rng)
    canvas = _paint_background(rng)
    for cutout in cutouts:
        _paint_cutout(canvas, cutout, rng)
    objects = tuple(_describe(cutout, number, owner) for number, cutout in enumerate(cutouts))
    return _degrade(canvas, rng), objects


def _describe(cutout: Cutout, number: int, owner: np.ndarray) -> ShapeObject:
    (x, y), (height, width) = cutout.corner, cutout.opacity.shape
    points = cutout.points + cutout.corner
    # Keypoints may lie on the border of the image, which belongs to no pixel.
    cells = np.clip(points.astype(int), 0, IMAGE_SIZE - 1)
    # A later shape lies on top; shapes have numbers from back to front.
    covered = owner[cells[:, 1], cells[:, 0]] > number
    mask = owner == number
    return ShapeObject(
        category=cutout.category,
        colour=cutout.colour,
        texture=cutout.texture,
        size=size_word(cutout.side),
        side=cutout.side,
        centre=(x + width / 2, y + height / 2),
        mask=mask,
        keypoints=np.concatenate([points, np.where(covered, 1, 2)[:, None]], axis=1),
        visible_fraction=float(mask.sum() / cutout.solid.sum()),
    )


def _paint_background(rng: np.random.Generator) -> np.ndarray:
    """Return a dull, uneven, cluttered ground (height, width, 3), float32."""
    canvas = _gradient(rng)
    for cells in rng.integers(3, 24, size=rng.integers(1, 3)):
        canvas += rng.uniform(8, 26) * _soft_noise(int(cells), rng)
    if rng.random() < 0.3:
        canvas += rng.uniform(6, 16) * _wave(rng.uniform(5, 24), rng.uniform(0, np.pi))[..., None]
    picture = Image.fromarray(np.clip(canvas, 0, 255).astype(np.uint8))
    _draw_clutter(picture, rng)
    canvas = np.asarray(picture, dtype=np.float32).copy()
    for _ in range(rng.integers(0, 3)):
        _roughen(canvas, rng)
    return canvas


def _gradient(rng: np.random.Generator) -> np.ndarray:
    """Blend two dull colours across the image."""
    first, second = (_colour(rng.uniform(0, 360), rng.uniform(0, 0.35), rng.uniform(0.15, 0.68)) for _ in range(2))
    angle = rng.uniform(0, 2 * np.pi)
    ramp = np.cos(angle) * _COL + np.sin(angle) * _ROW
    ramp = (ramp - ramp.min()) / np.ptp(ramp)
    return first + ramp[..., None] * (second - first)


def _soft_noise(cells: int, rng: np.random.Generator) -> np.ndarray:
    """Return grey blotches (height, width, 1) of about unit strength, ``cells`` of them across the image."""
    coarse = Image.fromarray(rng.standard_normal((cells, cells), dtype=np.float32))
    return np.asarray(coarse.resize((IMAGE_SIZE, IMAGE_SIZE), Image.Resampling.BILINEAR))[..., None]


def _wave(period: float, angle: float) -> np.ndarray:
    """Return stripes in [-1, 1] over the whole image."""
    return np.sin((np.cos(angle) * _COL + np.sin(angle) * _ROW) * np.float32(2 * np.pi / period))


def _draw_clutter(picture: Image.Image, rng: np.random.Generator) -> None:
    """Draw what a detector must not take for a shape: dull blobs, and strokes in any colour."""
    pen = ImageDraw.Draw(picture)
    for _ in range(rng.integers(0, 5)):
        tint = _colour(rng.uniform(0, 360), rng.uniform(0, 0.35), rng.uniform(0.15, 0.7))
        pen.polygon(_blob(rng), fill=_ink(tint))
    for _ in range(rng.integers(1, 8)):
        tint = _colour(rng.uniform(0, 360), rng.uniform(0.1, 1), rng.uniform(0.2, 1))
        width = int(rng.integers(1, 4))
        start = rng.uniform(0, IMAGE_SIZE, 2)
        if rng.random() < 0.7:
            pen.line([*start, *(start + rng.normal(0, 45, 2))], fill=_ink(tint), width=width)
            continue
        first, radius = rng.uniform(0, 360), rng.uniform(8, 30)
        box = [*(start - radius), *(start + radius)]
        pen.arc(box, first, first + rng.uniform(40, 130), fill=_ink(tint), width=width)


def _blob(rng: np.random.Generator) -> list[float]:
    """Return an irregular outline as x, y, x, y and so on."""
    angle = np.linspace(0, 2 * np.pi, 14, endpoint=False)
    radius = rng.uniform(8, 30) * rng.uniform(0.55, 1.2, 14)
    points = rng.uniform(0, IMAGE_SIZE, 2) + radius[:, None] * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    return points.ravel().tolist()


def _roughen(canvas: np.ndarray, rng: np.random.Generator) -> None:
    """Add coarse-grained noise to a rectangle, in place."""
    x, y = rng.integers(0, IMAGE_SIZE - 20, 2)
    patch = canvas[y : y + rng.integers(20, 70), x : x + rng.integers(20, 70)]
    patch += rng.uniform(8, 28) * rng.standard_normal((*patch.shape[:2], 1), dtype=np.float32)


def _paint_cutout(canvas: np.ndarray, cutout: Cutout, rng: np.random.Generator) -> None:
    """Lay one shape over the canvas, in place."""
    under = canvas[cutout.window]
    # Contrast counts against what the shape covers.
    ground = under[cutout.solid].mean(0)
    bright = _sample_shade(cutout.colour, ground, rng)
    pattern = _pattern(cutout, rng)[..., None]
    shading = 1 + rng.uniform(0, 0.12) * _wave(4.0 * IMAGE_SIZE, rng.uniform(0, np.pi))[cutout.window][..., None]
    fill = bright * (1 - pattern * rng.uniform(0.3, 0.5)) * shading
    # In place, through the view of the canvas; edges mix with the ground.
    under += cutout.opacity[..., None] * (fill - under)


def _sample_shade(colour: str, ground: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Draw a shade of a colour that stands out from the ground; the best of a few where none does."""
    shades = [
        _colour(COLOURS[colour] + rng.uniform(-_HUE_JITTER, _HUE_JITTER), rng.uniform(0.65, 0.95), rng.uniform(0.75, 1))
        for _ in range(4)
    ]
    contrasts = [np.abs(shade - ground).max() for shade in shades]
    enough = [shade for shade, contrast in zip(shades, contrasts, strict=True) if contrast >= _MIN_CONTRAST]
    return enough[0] if enough else shades[int(np.argmax(contrasts))]


def _pattern(cutout: Cutout, rng: np.random.Generator) -> np.ndarray:
    """Return where the darker tone goes, in [0, 1], for the window of the cutout."""
    period = max(4.0, cutout.side * rng.uniform(0.18, 0.3))
    angle = rng.uniform(0, np.pi)
    if cutout.texture == "plain":
        return np.zeros_like(cutout.opacity)
    waves = _wave(period, angle)[cutout.window]
    if cutout.texture == "striped":
        return np.clip(waves * 2 + 0.5, 0, 1)
    return np.clip((waves + _wave(period, angle + np.pi / 2)[cutout.window] - 0.7) * 3, 0, 1)


def _degrade(canvas: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Blur the image, add sensor noise and round it to uint8."""
    picture = Image.fromarray(np.clip(canvas, 0, 255).astype(np.uint8))
    # Blur before noise, as in a camera.
    blurred = picture.filter(ImageFilter.GaussianBlur(rng.uniform(0, 1.6)))
    noise = rng.uniform(2, 20) * rng.standard_normal(canvas.shape, dtype=np.float32)
    return np.clip(np.asarray(blurred) + noise, 0, 255).round().astype(np.uint8)


def _colour(hue: float, saturation: float, value: float) -> np.ndarray:
    """Return (red, green, blue) in [0, 255], float32, for a hue in degrees."""
    # The closed form of the conversion from hue, saturation and value.
    k = (np.array([5.0, 3.0, 1.0]) + hue / 60) % 6
    rgb = value - value * saturation * np.clip(np.minimum(k, 4 - k), 0, 1)
    return (255 * rgb).astype(np.float32)


def _ink(colour: np.ndarray) -> tuple[int, int, int]:
    red, green, blue = (int(channel) for channel in colour)
    return red, green, blue

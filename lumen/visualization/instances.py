"""Objects on an image: boxes, masks, points, arrows, skeletons and counts, in the colours of what was asked.

Coordinates are pixels of the image that is given. A small image is magnified by a whole number, so that text can be
read; what is drawn on the result is in pixels of the result: times ``magnification(image.shape[:2])``.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float
from PIL import Image, ImageDraw, ImageFont

from lumen.ops.masks import decode_masks
from lumen.visualization.canvas import (
    Colour,
    RgbImage,
    enlarged,
    legend,
    magnification,
    magnified,
    phrase_colour,
    readable_on,
    shortened,
    stacked,
    text_font,
)


def draw_boxes(
    image: RgbImage,
    bboxes: Float[np.ndarray, "n 4"],
    labels: Sequence[int],
    phrases: Sequence[str],
    scores: Sequence[float] | None = None,
    *,
    notes: Sequence[str] | None = None,
) -> RgbImage:
    """Draw boxes with phrase, score and note; the best box lies on top.

    Args:
        image: The image, which is left as it is.
        bboxes: xyxy, in pixels of ``image``.
        labels: Index into ``phrases`` per box; gives its colour.
        phrases: All phrases that were asked.
        scores: Written beside the phrase; nothing where left out.
        notes: Written after that, one per box; nothing where left out.

    Returns:
        The picture; a small image is magnified by a whole number, so that text can be read.

    Raises:
        ValueError: If the numbers of boxes, labels, scores and notes differ.
    """
    if any(len(given) != len(bboxes) for given in (labels, scores, notes) if given is not None):
        came = f"{len(bboxes)} boxes, {len(labels)} labels, {_number(scores)} scores, {_number(notes)} notes"
        raise ValueError(f"each box has a label and, if any has one, a score and a note; got {came}")
    factor = magnification(image.shape[:2])
    canvas = magnified(image, factor)
    draw = ImageDraw.Draw(canvas)
    font = text_font(canvas)
    line = max(2, round(max(canvas.size) / 400))
    order = range(len(bboxes)) if scores is None else np.argsort(np.asarray(scores), kind="stable").tolist()
    for index in order:
        colour, label = phrase_colour(labels[index]), phrases[labels[index]]
        parts = [label, "" if scores is None else f"{scores[index]:.2f}", "" if notes is None else notes[index]]
        text = " ".join(part for part in parts if part)
        _draw_box(draw, [float(edge) * factor for edge in bboxes[index]], colour, text, font, line)
    return np.array(canvas)


def draw_masks(image: RgbImage, masks: list[dict[str, Any]], labels: Sequence[int], *, alpha: float = 0.5) -> RgbImage:
    """Lay masks over an image, with their outlines; smaller masks lie on top.

    Args:
        image: The image, which is left as it is.
        masks: COCO run-length codes of the size of ``image``.
        labels: One per mask; gives its colour.
        alpha: Opacity of the colours.

    Returns:
        The picture; a small image is magnified.

    Raises:
        ValueError: If the numbers of masks and labels differ.
        DataError: If a mask is broken or has another size than the image.
    """
    if len(labels) != len(masks):
        raise ValueError(f"each mask has a label; got {len(masks)} masks, {len(labels)} labels")
    factor = magnification(image.shape[:2])
    picture = np.array(magnified(image, factor))
    # One at a time: all masks of a large image would take gigabytes.
    areas = np.array([int(decode_masks([code], image.shape[:2]).sum()) for code in masks])
    for index in np.argsort(-areas, kind="stable").tolist():
        mask = decode_masks([masks[index]], image.shape[:2])[0].numpy().repeat(factor, 0).repeat(factor, 1)
        colour = np.array(phrase_colour(labels[index]), dtype=np.float32)
        picture[mask] = (picture[mask] * (1 - alpha) + colour * alpha).round().astype(np.uint8)
        picture[_outline(mask, max(1, max(picture.shape) // 400))] = colour.astype(np.uint8)
    return picture


def draw_points(image: RgbImage, points: Float[np.ndarray, "n 2"], labels: Sequence[int]) -> RgbImage:
    """Draw points (x, y), in pixels of the image, each in the colour of its label; a small image is magnified.

    Raises:
        ValueError: If the numbers of points and labels differ.
    """
    if len(points) != len(labels):
        raise ValueError(f"each point has a label; got {len(points)} points, {len(labels)} labels")
    factor = magnification(image.shape[:2])
    canvas = magnified(image, factor)
    draw, radius = ImageDraw.Draw(canvas), _radius(canvas)
    for point, label in zip(points * factor, labels, strict=True):
        _draw_dot(draw, point, phrase_colour(label), radius)
    return np.array(canvas)


def draw_arrows(
    image: RgbImage,
    starts: Float[np.ndarray, "n 2"],
    directions: Float[np.ndarray, "n 2"],
    labels: Sequence[int],
) -> RgbImage:
    """Draw an arrow per direction, all of one length; a direction of length 0 is left out.

    Args:
        image: The image, which is left as it is.
        starts: Where each arrow starts, (x, y) in pixels of ``image``.
        directions: Vectors (x, y); their length is not shown.
        labels: One per arrow; gives its colour.

    Returns:
        The picture; a small image is magnified.

    Raises:
        ValueError: If the numbers of starts, directions and labels differ.
    """
    if not len(starts) == len(directions) == len(labels):
        came = f"{len(starts)} starts, {len(directions)} directions, {len(labels)} labels"
        raise ValueError(f"each arrow has a start, a direction and a label; got {came}")
    factor = magnification(image.shape[:2])
    canvas = magnified(image, factor)
    draw, width, length = ImageDraw.Draw(canvas), max(2, max(canvas.size) // 300), max(canvas.size) / 12
    for start, direction, label in zip(starts * factor, directions, labels, strict=True):
        size = float(np.hypot(*direction))
        if size > 0:
            _draw_arrow(draw, start, direction / size * length, phrase_colour(label), width)
    return np.array(canvas)


def draw_skeletons(
    image: RgbImage,
    keypoints: Float[np.ndarray, "n k 2"],
    scores: Float[np.ndarray, "n _"],
    edges: Sequence[Sequence[int]],
    *,
    min_score: float = 0.2,
) -> RgbImage:
    """Draw keypoints, each in the colour of its prompt, and the bones between them.

    Args:
        image: The image, which is left as it is.
        keypoints: (x, y) in pixels of ``image``; column j answers prompt j.
        scores: Keypoints below ``min_score`` are left out, with their bones.
        edges: Pairs of columns that a bone joins.
        min_score: See ``scores``.

    Returns:
        The picture; a small image is magnified.

    Raises:
        ValueError: If keypoints and scores are not of one shape, or an edge names no keypoint.
    """
    if keypoints.shape[:2] != scores.shape:
        raise ValueError(f"each keypoint has a score; got keypoints {keypoints.shape}, scores {scores.shape}")
    if any(not 0 <= end < keypoints.shape[1] for edge in edges for end in edge):
        raise ValueError(f"edges join two of {keypoints.shape[1]} keypoints, got {[tuple(edge) for edge in edges]}")
    factor = magnification(image.shape[:2])
    canvas = magnified(image, factor)
    draw, radius = ImageDraw.Draw(canvas), _radius(canvas)
    is_drawn = (scores >= min_score) & np.isfinite(keypoints).all(-1)
    for points, drawn in zip(keypoints * factor, is_drawn, strict=True):
        for first, second in edges:
            if drawn[first] and drawn[second]:
                ends = [*points[first].tolist(), *points[second].tolist()]
                draw.line(ends, fill=(0, 0, 0), width=radius + 2)
                draw.line(ends, fill=phrase_colour(second), width=max(2, radius - 1))
        for index in drawn.nonzero()[0].tolist():
            _draw_dot(draw, points[index], phrase_colour(index), radius)
    return np.array(canvas)


def draw_counts(image: RgbImage, phrases: Sequence[str], counts: Sequence[float | int]) -> RgbImage:
    """Write below an image how many objects answer each phrase.

    Args:
        image: The image, which is left as it is.
        phrases: All phrases that were asked; their order gives their colours.
        counts: One per phrase; a count that is not a whole number is written with one decimal.

    Returns:
        The picture; a small image is magnified.

    Raises:
        ValueError: If the numbers of phrases and counts differ.
    """
    if len(phrases) != len(counts):
        raise ValueError(f"each phrase has a count; got {len(phrases)} phrases, {len(counts)} counts")
    picture = enlarged(image)
    notes = [f"x {count:.0f}" if float(count).is_integer() else f"x {count:.1f}" for count in counts]
    return stacked(picture, legend(phrases, notes, width=picture.shape[1])) if phrases else picture


def _number(given: Sequence[Any] | None) -> str:
    return "no" if given is None else str(len(given))


def _radius(canvas: Image.Image) -> int:
    return max(3, round(max(canvas.size) / 90))


def _draw_dot(draw: ImageDraw.ImageDraw, point: Float[np.ndarray, " 2"], colour: Colour, radius: int) -> None:
    x, y = point.tolist()
    place = [x - radius, y - radius, x + radius, y + radius]
    draw.ellipse(place, fill=colour, outline=(0, 0, 0), width=max(1, radius // 3))


def _draw_arrow(
    draw: ImageDraw.ImageDraw,
    start: Float[np.ndarray, " 2"],
    vector: Float[np.ndarray, " 2"],
    colour: Colour,
    width: int,
) -> None:
    """Draw a line with a head of two lines at 30 degrees; a dark line below keeps it visible."""
    end = start + vector
    cos, sin = np.cos(np.pi / 6), np.sin(np.pi / 6)
    heads = [end - np.array([[cos, -side * sin], [side * sin, cos]]) @ vector / 3 for side in (1, -1)]
    for shade, thickness in (((0, 0, 0), width + 2), (colour, width)):
        for first, last in ((start, end), *((head, end) for head in heads)):
            draw.line([*first.tolist(), *last.tolist()], fill=shade, width=thickness)


def _draw_box(
    draw: ImageDraw.ImageDraw,
    box: Sequence[float],
    colour: Colour,
    text: str,
    font: ImageFont.FreeTypeFont,
    line: int,
) -> None:
    left, top, right, bottom = box
    corners = [left, top, max(left, right - 1), max(top, bottom - 1)]
    # A dark line on either side keeps the box visible on a background of the same colour.
    dark = [corners[0] - 1, corners[1] - 1, corners[2] + 1, corners[3] + 1]
    draw.rectangle(dark, outline=(0, 0, 0), width=line + 2)
    draw.rectangle(corners, outline=colour, width=line)
    # Above the box; inside it where the picture ends.
    text = shortened(text, font, draw.im.size[0] - 8)
    _, _, text_right, text_bottom = font.getbbox(text)
    width, height = text_right + 8, text_bottom + 6
    x = min(max(0, left), max(0, draw.im.size[0] - width))
    y = top - height if top >= height else min(top, draw.im.size[1] - height)
    draw.rectangle([x, y, x + width, y + height], fill=colour)
    draw.text((x + 4, y + 2), text, readable_on(colour), font)


def _outline(mask: Bool[np.ndarray, "height width"], width: int) -> Bool[np.ndarray, "height width"]:
    """Return the pixels of a mask that lie within ``width`` of its border, along rows and columns."""
    inner = mask.copy()
    for axis in (0, 1):
        for step in range(1, width + 1):
            inner &= _moved(mask, step, axis) & _moved(mask, -step, axis)
    return mask & ~inner


def _moved(mask: Bool[np.ndarray, "height width"], step: int, axis: int) -> Bool[np.ndarray, "height width"]:
    """Return the mask moved by ``step``; what comes in is empty."""
    moved = np.zeros_like(mask)
    here, there = [slice(None)] * 2, [slice(None)] * 2
    here[axis], there[axis] = (
        (slice(step, None), slice(None, -step)) if step > 0 else (slice(None, step), slice(-step, None))
    )
    moved[tuple(here)] = mask[tuple(there)]
    return moved

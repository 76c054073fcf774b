"""Pictures of answers: boxes with their phrases, heatmaps over the image, and sheets of several pictures.

Images are uint8 RGB arrays (height, width, 3). Drawn with PIL alone, so that a prediction does not wait for a plotting
library; a run's curves are MMEngine's business.
"""

import colorsys
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image, ImageDraw, ImageFont

RgbImage = UInt8[np.ndarray, "_ _ 3"]
Colour = tuple[int, int, int]

_SMALLEST_SIDE = 640
_BACKGROUND = (24, 24, 24)
_TEXT = (235, 235, 235)
_GOLDEN = (math.sqrt(5) - 1) / 2
# Dark violet, magenta, orange, pale yellow: grows in lightness, so that it also reads in grey.
_HEAT_STOPS = np.array([[20, 11, 53], [129, 37, 129], [229, 80, 57], [252, 165, 10], [252, 255, 164]], dtype=np.float32)


def phrase_colour(index: int) -> Colour:
    """Return the colour of the phrase with this index; neighbours differ clearly, however many there are."""
    hue = (0.02 + index * _GOLDEN) % 1.0
    red, green, blue = colorsys.hsv_to_rgb(hue, 0.75 if index % 2 else 0.9, 1.0 if index % 2 else 0.9)
    return round(red * 255), round(green * 255), round(blue * 255)


def draw_boxes(
    image: RgbImage,
    bboxes: Float[np.ndarray, "n 4"],
    labels: Sequence[int],
    phrases: Sequence[str],
    scores: Sequence[float] | None = None,
) -> RgbImage:
    """Draw boxes with phrase and score; the best box lies on top.

    Args:
        image: The image, which is left as it is.
        bboxes: xyxy, in pixels of ``image``.
        labels: Index into ``phrases`` per box; gives its colour.
        phrases: All phrases that were asked.
        scores: Written beside the phrase; nothing where left out.

    Returns:
        The picture; a small image is magnified by a whole number, so that text can be read.

    Raises:
        ValueError: If the numbers of boxes, labels and scores differ.
    """
    if len(labels) != len(bboxes) or (scores is not None and len(scores) != len(bboxes)):
        came = f"{len(bboxes)} boxes, {len(labels)} labels, {'no' if scores is None else len(scores)} scores"
        raise ValueError(f"each box has a label and, if any has one, a score; got {came}")
    factor = magnification(image.shape[:2])
    canvas = _magnified(image, factor)
    draw = ImageDraw.Draw(canvas)
    font = _font(canvas)
    line = max(2, round(max(canvas.size) / 400))
    order = range(len(bboxes)) if scores is None else np.argsort(np.asarray(scores), kind="stable").tolist()
    for index in order:
        colour, label = phrase_colour(labels[index]), phrases[labels[index]]
        text = label if scores is None else f"{label} {scores[index]:.2f}"
        _draw_box(draw, [float(edge) * factor for edge in bboxes[index]], colour, text, font, line)
    return np.array(canvas)


def draw_heatmap(
    image: RgbImage, heat: Float[np.ndarray, "rows cols"], title: str = "", *, strength: float = 0.75
) -> RgbImage:
    """Lay a heatmap over its image: grey where it is 0, bright where it is 1.

    Args:
        image: The image, which is left as it is.
        heat: Values from 0 to 1, one per pixel of ``image``. Not stretched: a weak map looks weak.
        title: Written below the picture, with the highest value; nothing where empty.
        strength: Opacity of the colours where the heatmap is 1.

    Returns:
        The picture; a small image is magnified by a whole number.

    Raises:
        ValueError: If the heatmap has another size than the image.
    """
    if heat.shape != image.shape[:2]:
        raise ValueError(f"the heatmap covers {heat.shape} pixels (height, width), the image has {image.shape[:2]}")
    heat = np.nan_to_num(heat.astype(np.float32)).clip(0, 1)
    grey = image.astype(np.float32).mean(-1, keepdims=True) * 0.6
    # The square root shows weak answers, too.
    opacity = np.sqrt(heat)[..., None] * strength
    mixed = grey * (1 - opacity) + heat_colours(heat) * opacity
    canvas = _magnified(mixed.round().astype(np.uint8), magnification(image.shape[:2]))
    if title:
        canvas = _with_caption(canvas, f"{title}   max {float(heat.max(initial=0)):.2f}")
    return np.array(canvas)


def heat_colours(heat: Float[np.ndarray, "height width"]) -> Float[np.ndarray, "height width 3"]:
    """Return colours from 0 to 255 for values from 0 to 1."""
    places = np.linspace(0, 1, len(_HEAT_STOPS))
    channels = [np.interp(heat, places, _HEAT_STOPS[:, channel]) for channel in range(3)]
    return np.stack(channels, -1).astype(np.float32)


def contact_sheet(
    images: Sequence[RgbImage],
    titles: Sequence[str] | None = None,
    *,
    columns: int = 4,
    cell_wh: tuple[int, int] = (320, 320),
) -> RgbImage:
    """Put pictures of any sizes into one, row by row, each in a cell with its title below.

    Args:
        images: At least one.
        titles: One per picture; nothing where left out.
        columns: Pictures per row.
        cell_wh: Width and height of a picture's cell; pictures are brought to it, keeping their ratio.

    Raises:
        ValueError: If there is no picture, or titles do not fit.
    """
    titles = [""] * len(images) if titles is None else list(titles)
    if not images or len(titles) != len(images):
        raise ValueError(f"a sheet needs pictures and a title for each, got {len(images)} and {len(titles)}")
    gap, columns = 8, min(columns, len(images))
    font = ImageFont.load_default(16)
    text_height = 26 if any(titles) else 0
    step_x, step_y = cell_wh[0] + gap, cell_wh[1] + text_height + gap
    rows = -(-len(images) // columns)
    sheet = Image.new("RGB", (columns * step_x + gap, rows * step_y + gap), _BACKGROUND)
    draw = ImageDraw.Draw(sheet)
    for index, (image, title) in enumerate(zip(images, titles, strict=True)):
        left, top = gap + index % columns * step_x, gap + index // columns * step_y
        cell = _fitted(Image.fromarray(image), cell_wh)
        sheet.paste(cell, (left + (cell_wh[0] - cell.width) // 2, top + (cell_wh[1] - cell.height) // 2))
        draw.text((left + 2, top + cell_wh[1] + 3), _shortened(title, font, cell_wh[0]), _TEXT, font)
    return np.array(sheet)


def legend(phrases: Sequence[str], notes: Sequence[str] | None = None, *, width: int = 320) -> RgbImage:
    """Return a column of phrases in their colours.

    Args:
        phrases: In the order that their labels count.
        notes: Written behind each phrase.
        width: Width of the picture.
    """
    font, row = ImageFont.load_default(18), 26
    canvas = Image.new("RGB", (width, max(1, len(phrases)) * row + 8), _BACKGROUND)
    draw = ImageDraw.Draw(canvas)
    for index, phrase in enumerate(phrases):
        top = 4 + index * row
        draw.rectangle([8, top + 5, 24, top + 21], fill=phrase_colour(index))
        text = f"{phrase} {notes[index]}" if notes else phrase
        draw.text((34, top + 2), _shortened(text, font, width - 40), _TEXT, font)
    return np.array(canvas)


def save_png(path: Path | str, image: RgbImage) -> None:
    """Write a picture; the folder is made if missing."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(path, format="PNG", compress_level=3)


def magnification(size_hw: tuple[int, int]) -> int:
    """Return by how much an image of this size is magnified before text is put on it; 1 for all but small ones."""
    return max(1, -(-_SMALLEST_SIDE // max(size_hw)))


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
    # A dark line on either side keeps the box visible on a background of its own colour.
    dark = [corners[0] - 1, corners[1] - 1, corners[2] + 1, corners[3] + 1]
    draw.rectangle(dark, outline=(0, 0, 0), width=line + 2)
    draw.rectangle(corners, outline=colour, width=line)
    # Above the box; inside it where the picture ends.
    text = _shortened(text, font, draw.im.size[0] - 8)
    _, _, text_right, text_bottom = font.getbbox(text)
    width, height = text_right + 8, text_bottom + 6
    x = min(max(0, left), max(0, draw.im.size[0] - width))
    y = top - height if top >= height else min(top, draw.im.size[1] - height)
    draw.rectangle([x, y, x + width, y + height], fill=colour)
    draw.text((x + 4, y + 2), text, _readable_on(colour), font)


def _readable_on(colour: Colour) -> Colour:
    luminance = 0.299 * colour[0] + 0.587 * colour[1] + 0.114 * colour[2]
    return (0, 0, 0) if luminance > 130 else (255, 255, 255)


def _font(canvas: Image.Image) -> ImageFont.FreeTypeFont:
    return ImageFont.load_default(min(48, max(16, round(max(canvas.size) / 42))))


def _magnified(image: RgbImage, factor: int) -> Image.Image:
    canvas = Image.fromarray(image)
    if factor == 1:
        return canvas
    return canvas.resize((canvas.width * factor, canvas.height * factor), Image.Resampling.BICUBIC)


def _with_caption(canvas: Image.Image, text: str) -> Image.Image:
    font = _font(canvas)
    height = font.getbbox(text)[3] + 12
    whole = Image.new("RGB", (canvas.width, canvas.height + height), _BACKGROUND)
    whole.paste(canvas, (0, 0))
    ImageDraw.Draw(whole).text((8, canvas.height + 5), _shortened(text, font, canvas.width - 16), _TEXT, font)
    return whole


def _fitted(image: Image.Image, cell_wh: tuple[int, int]) -> Image.Image:
    scale = min(cell_wh[0] / image.width, cell_wh[1] / image.height)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    return image.resize(size, Image.Resampling.LANCZOS if scale < 1 else Image.Resampling.BICUBIC)


def _shortened(text: str, font: ImageFont.FreeTypeFont, width: int) -> str:
    """Cut a text so that it fits, with dots at its end."""
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "...") > width:
        text = text[:-1]
    return text + "..."

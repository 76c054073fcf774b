"""Shared drawing functions: colours, magnification, text that fits, legends, and sheets of several pictures."""

import colorsys
import math
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageDraw, ImageFont

from lumen.serialization.atomic import atomic_file

RgbImage = UInt8[np.ndarray, "_ _ 3"]
Colour = tuple[int, int, int]

_SMALLEST_SIDE = 640
_BACKGROUND = (24, 24, 24)
_TEXT = (235, 235, 235)
_GOLDEN = (math.sqrt(5) - 1) / 2


def phrase_colour(index: int) -> Colour:
    """Return the colour of the phrase with this index; neighbours differ clearly, however many there are."""
    hue = (0.02 + index * _GOLDEN) % 1.0
    red, green, blue = colorsys.hsv_to_rgb(hue, 0.75 if index % 2 else 0.9, 1.0 if index % 2 else 0.9)
    return round(red * 255), round(green * 255), round(blue * 255)


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
        draw.text((left + 2, top + cell_wh[1] + 3), shortened(title, font, cell_wh[0]), _TEXT, font)
    return np.array(sheet)


def legend(phrases: Sequence[str], notes: Sequence[str] | None = None, *, width: int = 320) -> RgbImage:
    """Return a column of phrases in their colours; a long one takes several lines.

    Args:
        phrases: In the order that their labels count.
        notes: Written behind each phrase.
        width: Width of the picture.
    """
    font = ImageFont.load_default(18)
    texts = [f"{phrase} {notes[index]}" if notes else phrase for index, phrase in enumerate(phrases)]
    rows = [wrapped(text, font, width - 40) for text in texts]
    step = _line_height(font)
    canvas = Image.new("RGB", (width, max(step, sum(len(lines) * step + 4 for lines in rows)) + 8), _BACKGROUND)
    draw, top = ImageDraw.Draw(canvas), 4
    for index, lines in enumerate(rows):
        draw.rectangle([8, top + 4, 24, top + 20], fill=phrase_colour(index))
        for number, line in enumerate(lines):
            draw.text((34, top + 1 + number * step), line, _TEXT, font)
        top += len(lines) * step + 4
    return np.array(canvas)


def text_block(lines: Sequence[str], *, width: int = 480) -> RgbImage:
    """Return texts below each other on a dark ground; long ones are broken, an empty one is a gap."""
    font = ImageFont.load_default(20)
    rows = [row for line in lines for row in wrapped(line, font, width - 24)]
    step = _line_height(font)
    canvas = Image.new("RGB", (width, max(1, len(rows)) * step + 16), _BACKGROUND)
    draw = ImageDraw.Draw(canvas)
    for number, row in enumerate(rows):
        draw.text((12, 8 + number * step), row, _TEXT, font)
    return np.array(canvas)


def stacked(upper: RgbImage, lower: RgbImage) -> RgbImage:
    """Put one picture above another of the same width.

    Raises:
        ValueError: If the widths differ.
    """
    if upper.shape[1] != lower.shape[1]:
        raise ValueError(f"pictures of one width can be stacked, got {upper.shape[1]} and {lower.shape[1]} pixels")
    return np.concatenate([upper, lower])


def save_png(path: Path | str, image: RgbImage) -> None:
    """Write a picture; the folder is made if missing."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    # In memory first: into a file Pillow writes by itself, and takes no notice when a full disk cuts the last piece.
    content = BytesIO()
    Image.fromarray(image).save(content, format="PNG", compress_level=3)
    with atomic_file(Path(path)) as file:
        file.write(content.getvalue())


def magnification(size_hw: tuple[int, int]) -> int:
    """Return by how much an image of this size is magnified before text is put on it; 1 for all but small ones."""
    return max(1, -(-_SMALLEST_SIDE // max(size_hw)))


def enlarged(image: RgbImage) -> RgbImage:
    """Return the image at the size of a picture with text on it; only small images change."""
    return np.array(magnified(image, magnification(image.shape[:2])))


def readable_on(colour: Colour) -> Colour:
    """Return black or white, whichever can be read on this colour."""
    luminance = 0.299 * colour[0] + 0.587 * colour[1] + 0.114 * colour[2]
    return (0, 0, 0) if luminance > 130 else (255, 255, 255)


def text_font(canvas: Image.Image) -> ImageFont.FreeTypeFont:
    """Return a font that suits the size of a picture."""
    return ImageFont.load_default(min(48, max(16, round(max(canvas.size) / 42))))


def magnified(image: RgbImage, factor: int) -> Image.Image:
    """Return the image, enlarged by a whole number, to draw on."""
    canvas = Image.fromarray(image)
    if factor == 1:
        return canvas
    return canvas.resize((canvas.width * factor, canvas.height * factor), Image.Resampling.BICUBIC)


def with_caption(canvas: Image.Image, text: str) -> Image.Image:
    """Return the picture with a text below it, in as many lines as it takes."""
    font = text_font(canvas)
    lines = wrapped(text, font, canvas.width - 16)
    step = _line_height(font)
    whole = Image.new("RGB", (canvas.width, canvas.height + step * len(lines) + 8), _BACKGROUND)
    whole.paste(canvas, (0, 0))
    draw = ImageDraw.Draw(whole)
    for number, line in enumerate(lines):
        draw.text((8, canvas.height + 5 + number * step), line, _TEXT, font)
    return whole


def _fitted(image: Image.Image, cell_wh: tuple[int, int]) -> Image.Image:
    scale = min(cell_wh[0] / image.width, cell_wh[1] / image.height)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    return image.resize(size, Image.Resampling.LANCZOS if scale < 1 else Image.Resampling.BICUBIC)


def shortened(text: str, font: ImageFont.FreeTypeFont, width: int) -> str:
    """Cut a text so that it fits, with dots at its end."""
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "...") > width:
        text = text[:-1]
    return text + "..."


def wrapped(text: str, font: ImageFont.FreeTypeFont, width: int) -> list[str]:
    """Break a text into lines that fit, at spaces and where it has line breaks; a word that is too long is cut."""
    lines = []
    for paragraph in text.split("\n"):
        line = ""
        for word in paragraph.split():
            longer = f"{line} {word}" if line else word
            if line and font.getlength(longer) > width:
                lines.append(line)
                longer = word
            line = shortened(longer, font, width)
        lines.append(line)
    return lines


def _line_height(font: ImageFont.FreeTypeFont) -> int:
    return round(font.size * 1.3)

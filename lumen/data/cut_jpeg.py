"""JPEG files whose end is missing, as an interrupted copy leaves them: what can be shown of them, and how much cannot.

Pillow refuses such a file unless a global switch is set, which other threads would see. Here the end marker is added to
the bytes instead: the decoder then draws what is missing in mid grey.
"""

import io
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from PIL import Image

MAX_MISSING = 0.05
END = b"\xff\xd9"

_START_OF_SCAN = 0xDA
_FRAMES = (0xC0, 0xC1, 0xC2)
_GREY = 128
_LAST_COEFFICIENT = 63


@dataclass(frozen=True, slots=True)
class Scan:
    """What a pass over the image adds: coefficients ``first`` to ``last`` of some components, down to ``low_bit``."""

    components: bytes
    first: int
    last: int
    low_bit: int


def decode_cut_jpeg(content: bytes) -> tuple[Image.Image, float]:
    """Decode a JPEG file whose end is missing.

    Args:
        content: The file.

    Returns:
        The image, and the share of its pixels that are missing and grey: the lowest rows, and the right part of the
        rows where the file breaks off. In a progressive file nothing is grey: the last pass only sharpens what is
        there.

    Raises:
        OSError: The file is broken in another way, or so much is missing that no pass shows the whole image.
    """
    # Pillow takes this as a whole file and leaves what is missing in mid grey.
    image = Image.open(io.BytesIO(content + END), formats=("JPEG",))
    image.load()
    # In other colour spaces the colour of missing pixels is not known.
    if image.mode not in ("RGB", "L"):
        raise OSError(f"the end of a JPEG file with {image.mode} pixels is missing")
    if not _shows_everything(content):
        raise OSError("the end of the JPEG file is missing, with whole components or passes in it")
    # Blocks are stored row by row, so that what is missing is the end of the image.
    is_grey = (np.asarray(image).reshape(image.height, image.width, -1) == _GREY).all(2)
    # From the last row up, as long as its last pixel is grey; grey elsewhere belongs to the picture.
    reaches_end = is_grey[::-1, -1].cumprod()[::-1].astype(bool)
    return image, float(is_grey[reaches_end].sum() / is_grey.size)


def _shows_everything(content: bytes) -> bool:
    """Return whether the last pass over each component has at least begun."""
    # First and last coefficient of each component that has its final bits.
    reached: defaultdict[int, set[int]] = defaultdict(set)
    components = b""
    for part in _parts(content):
        if isinstance(part, bytes):
            components = part
        # A progressive file sends rough values first; the pass with bit 0 is the last of a component.
        elif part.low_bit == 0:
            for component in part.components:
                reached[component] |= {part.first, part.last}
    return bool(components) and all({0, _LAST_COEFFICIENT} <= reached[component] for component in components)


def _parts(content: bytes) -> Iterator[bytes | Scan]:
    """Yield the components that the frame names, then the scans, as far as their headers are there."""
    at = content.find(b"\xff", 2)
    while 0 <= at < len(content) - 3:
        marker = content[at + 1]
        if marker in (0x00, 0x01, 0xFF) or 0xD0 <= marker <= 0xD8:  # within pixels: no segment follows
            at = content.find(b"\xff", at + (1 if marker == 0xFF else 2))
            continue
        # A segment begins with its length, which counts its own two bytes.
        end = at + 2 + int.from_bytes(content[at + 2 : at + 4], "big")
        body = content[at + 4 : end]
        if end > len(content):
            return
        if marker in _FRAMES:
            # Ids of the components stand after six bytes of sizes, three bytes apart.
            yield body[6::3]
        elif marker == _START_OF_SCAN:
            # The last three bytes of a scan header: range of coefficients, and bit positions.
            first, last, bits = body[-3:]
            yield Scan(body[1:-3:2], first, last, bits & 15)
        at = content.find(b"\xff", end)


def has_end(tail: bytes) -> bool:
    """Return whether a JPEG file that ends in ``tail`` is whole; padding with zeros is allowed."""
    return tail.rstrip(b"\0").endswith(END)

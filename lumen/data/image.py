"""Images: from a file to RGB bytes, and from original pixels to the pixels of the network input, each exactly once."""

import math
import os
import stat
import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from numbers import Integral
from pathlib import Path

import numpy as np
from PIL import Image

from lumen.data.cut_jpeg import MAX_MISSING, decode_cut_jpeg, has_end
from lumen.errors import ConfigError, DataError
from lumen.ops.geometry import InputTransform

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF")
MAX_PIXELS = 50_000_000
MAX_BYTES = 64 * 2**20
PAD_VALUE = 114

_DECODE_ERRORS = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    IndexError,
    KeyError,
    TypeError,
    OverflowError,
    MemoryError,  # a part of the file states a size that it does not have
    SystemError,  # Pillow's, for a part that lies outside of the image
    struct.error,
    Image.DecompressionBombError,
    Image.DecompressionBombWarning,
)


def size_of(input_hw: Sequence[int] | None, owner: str) -> tuple[int, int]:
    """Return height and width of the network input as whole numbers.

    Raises:
        ConfigError: They are missing, not whole, not positive, or make more pixels than an image may have.
    """
    sides = () if input_hw is None else tuple(input_hw)
    is_whole = len(sides) == 2 and all(isinstance(side, Integral) and side >= 1 for side in sides)
    if not is_whole or sides[0] * sides[1] > MAX_PIXELS:
        raise ConfigError(
            f"{owner} needs input_hw=(height, width) in pixels, at most {MAX_PIXELS} in all, got {input_hw}; the "
            "loaders of a runner take it from the model, see lumen.data.pipelines.fill_pipelines"
        )
    return int(sides[0]), int(sides[1])


def grey_of(pad_value: int, owner: str) -> int:
    """Return the grey value of padding; raises ConfigError where it is not a whole number from 0 to 255."""
    if type(pad_value) is not int or not 0 <= pad_value <= 255:
        raise ConfigError(f"{owner} needs a pad_value from 0 to 255, got {pad_value!r}")
    return pad_value


@dataclass(frozen=True, slots=True)
class ReadImage:
    """What a file gave.

    Args:
        pixels: Writable uint8 RGB (height, width, 3).
        missing: Share of the pixels that the file lacks, grey at the bottom; 0 for a whole file.
        is_cut: Whether the file lacks its end.
    """

    pixels: np.ndarray
    missing: float = 0.0
    is_cut: bool = False


def read_image(path: str | os.PathLike[str], *, root: str | os.PathLike[str] | None = None) -> np.ndarray:
    """Read an image file as RGB; see ``read_image_file``.

    Returns:
        Writable uint8 array (height, width, 3).
    """
    return read_image_file(path, root=root).pixels


def read_image_file(path: str | os.PathLike[str], *, root: str | os.PathLike[str] | None = None) -> ReadImage:
    """Read an image file as RGB.

    EXIF orientation is not applied: COCO-format annotations refer to the pixels as they are stored. Transparent
    pixels are blended with white, 16-bit grey is scaled to 8 bits. A JPEG file whose end is missing is read, with grey
    where pixels are missing, as long as these are at most 5 % of the image.

    Args:
        path: JPEG, PNG, WEBP, BMP or TIFF, at most 50 million pixels and 64 MiB.
        root: Folder that the file must lie in once links are followed; ``None`` allows any.

    Raises:
        DataError: The file is missing, outside ``root``, too large, of another format, cut off or broken.
    """
    with reading(path, root):
        return _decode(path, os.fspath(path))


def decode_image(content: bytes, name: str, *, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """Return an image file that is in memory as RGB, by the same rules as ``read_image``.

    Args:
        content: The whole file.
        name: What errors call it.
        max_pixels: Bound on height times width.

    Raises:
        DataError: See ``read_image_file``.
    """
    _check_bytes(name, len(content))
    with _naming(name):
        return _decode(BytesIO(content), name, max_pixels).pixels


def _decode(source: str | os.PathLike[str] | BytesIO, name: str, max_pixels: int = MAX_PIXELS) -> ReadImage:
    # Only these formats are tried, not all that Pillow can decode.
    with Image.open(source, formats=FORMATS) as image:
        check_size(name, image, max_pixels)
        try:
            return ReadImage(np.array(to_rgb(image)))
        # Pillow refuses a file without its end; what is there may still be nearly all of it.
        except OSError:
            content = source.getvalue() if isinstance(source, BytesIO) else Path(source).read_bytes()
            if image.format != "JPEG" or has_end(content):
                raise
        image, missing = decode_cut_jpeg(content)
        if missing > MAX_MISSING:
            raise DataError(
                f"{name}: the file is cut off: {missing:.0%} of its pixels are missing, the limit is {MAX_MISSING:.0%}"
            )
        return ReadImage(np.array(to_rgb(image)), missing, is_cut=True)


def read_header(path: str | os.PathLike[str]) -> tuple[tuple[int, int], bool]:
    """Return height and width of an image file, and whether it ends as a whole file of its format does.

    Nothing is decoded. Of JPEG and PNG the end is looked at; other formats count as whole.

    Raises:
        DataError: The file is missing, too large, or of another format.
    """
    with reading(path, None), Image.open(path, formats=FORMATS) as image, open(path, "rb") as file:
        check_size(path, image)
        # The end alone: a JPEG marker or the PNG trailer lies in the last bytes, perhaps before padding.
        file.seek(max(os.stat(path).st_size - 64, 0))
        tail = file.read()
        ends = {"JPEG": has_end(tail), "PNG": b"IEND" in tail}
        return (image.height, image.width), ends.get(image.format or "", True)


@contextmanager
def reading(path: str | os.PathLike[str], root: str | os.PathLike[str] | None) -> Iterator[None]:
    """Check place and length of a file, and turn what goes wrong inside into a DataError."""
    if root is not None:
        check_inside(path, root)
    with _naming(path):
        found = os.stat(path)
        if not stat.S_ISREG(found.st_mode):  # opening a pipe would wait for ever
            raise DataError(f"{path}: not a file, so it cannot be read as an image")
        _check_bytes(path, found.st_size)
        yield


@contextmanager
def _naming(name: str | os.PathLike[str]) -> Iterator[None]:
    """Turn what goes wrong inside into a DataError."""
    try:
        yield
    # It names what is wrong already, and is a ValueError, which the next clause would catch.
    except DataError:
        raise
    except _DECODE_ERRORS as error:
        raise DataError(f"{name}: cannot be read as an image ({type(error).__name__}: {error})") from error


def _check_bytes(name: str | os.PathLike[str], num_bytes: int) -> None:
    if num_bytes > MAX_BYTES:
        raise DataError(f"{name}: {num_bytes} bytes, the limit is {MAX_BYTES}; store a smaller image")


def check_size(path: str | os.PathLike[str], image: Image.Image, max_pixels: int = MAX_PIXELS) -> None:
    """Raise DataError where an image has too many pixels."""
    if image.width * image.height > max_pixels:
        raise DataError(f"{path}: {image.width} x {image.height} pixels, the limit is {max_pixels} in all")


def as_rgb(image: str | os.PathLike[str] | Image.Image | np.ndarray) -> np.ndarray:
    """Return an image, given in any of these kinds, as RGB bytes, by the same rules as files are read.

    Args:
        image: Path, PIL image, or uint8 RGB array (height, width, 3).

    Raises:
        DataError: The image cannot be read, or is not such an array.
    """
    if isinstance(image, str | os.PathLike):
        return read_image(image)
    if isinstance(image, Image.Image):
        check_size("the PIL image", image)
        try:
            return _with_pixels(np.array(to_rgb(image)))
        except DataError:
            raise
        except _DECODE_ERRORS as error:
            raise DataError(f"the PIL image cannot be read ({type(error).__name__}: {error})") from error
    if not isinstance(image, np.ndarray) or image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        came = f"{image.dtype} {image.shape}" if isinstance(image, np.ndarray) else type(image).__name__
        raise DataError(f"an image is a path, a PIL image or a uint8 RGB array (height, width, 3), got {came}")
    if image.shape[0] * image.shape[1] > MAX_PIXELS:
        raise DataError(f"the array has {image.shape[1]} x {image.shape[0]} pixels, the limit is {MAX_PIXELS} in all")
    return _with_pixels(image)


def _with_pixels(image: np.ndarray) -> np.ndarray:
    if 0 in image.shape:
        raise DataError(f"the image has no pixels: {image.shape}")
    return image


def check_inside(path: str | os.PathLike[str], root: str | os.PathLike[str]) -> None:
    """Raise DataError unless ``path``, with links followed, lies in ``root``."""
    # With a slash at its end, so that the folder `images2` does not lie in `images`.
    real_root = os.path.join(os.path.realpath(root), "")
    try:
        is_inside = os.path.realpath(path).startswith(real_root)
    except ValueError as error:
        raise DataError(f"{path!r} is not a path ({error})") from error
    if not is_inside:
        raise DataError(f"{path} leaves the folder {root}; image files must lie inside the image folder")


def render_image(image: np.ndarray, frame: InputTransform, *, pad_value: int = PAD_VALUE) -> np.ndarray:
    """Draw an image in the pixels of the network input, resampling it once.

    Shrinking is antialiased. Pixel (col, row) covers the square from (col, row) to (col + 1, row + 1); an input pixel
    that the image covers only in part is left to the padding.

    Args:
        image: uint8 (height, width, 3) in original pixels; its size must be ``frame.ori_hw``. A clip (frames, height,
            width, 3) is drawn frame by frame, each in the same place.
        frame: Where the original pixels go.
        pad_value: Grey value outside the image.

    Returns:
        Writable uint8 array (input height, input width, 3), behind the frames of a clip.

    Raises:
        DataError: The image has another size than the frame expects.
    """
    if image.ndim == 4:
        return np.stack([render_image(each, frame, pad_value=pad_value) for each in image])
    if image.shape[:2] != tuple(frame.ori_hw):
        raise DataError(f"image of size {image.shape[:2]} (height, width) drawn with a frame for {frame.ori_hw}")
    # The two axes are independent: frames scale, shift and flip, but do not turn.
    left, right, *span_x = _placement(frame.scale_xy[0], frame.shift_xy[0], image.shape[1], frame.input_hw[1])
    top, bottom, *span_y = _placement(frame.scale_xy[1], frame.shift_xy[1], image.shape[0], frame.input_hw[0])
    box = (span_x[0], span_y[0], span_x[1], span_y[1])
    # Only the part of the original that is seen is resampled, straight to its final size.
    drawn = _resample(image, box, (right - left, bottom - top))
    # A negative scale is a flip: drawn upright, then turned over without a second resampling.
    if frame.scale_xy[0] < 0:
        drawn = drawn[:, ::-1]
    if frame.scale_xy[1] < 0:
        drawn = drawn[::-1]
    if drawn.shape[:2] == tuple(frame.input_hw):
        return np.array(drawn)
    canvas = np.full((*frame.input_hw, 3), pad_value, dtype=np.uint8)
    canvas[top:bottom, left:right] = drawn
    return canvas


def _placement(scale: float, shift: float, num_original: int, num_input: int) -> tuple[int, int, float, float]:
    """Return the input pixels that lie wholly on the image along one axis, and the original span they show."""
    # Ends of the image in input pixels; a flip exchanges them.
    low, high = sorted((shift, shift + scale * num_original))
    # The tolerance keeps a border at 159.9999999 from costing a whole row of pixels.
    first, last = math.ceil(max(low, 0.0) - 1e-4), math.floor(min(high, num_input) + 1e-4)
    if last <= first:
        return 0, 0, 0.0, 0.0
    # Whole input pixels, mapped back: the resampled span is not rounded to original pixels.
    start, stop = sorted(((first - shift) / scale, (last - shift) / scale))
    return first, last, max(start, 0.0), min(stop, float(num_original))


def _resample(image: np.ndarray, box: tuple[float, ...], size_wh: tuple[int, int]) -> np.ndarray:
    """Return the part ``box`` (xyxy, original pixels) of an image at another size; an equal size is only cut out."""
    if 0 in size_wh:
        return np.zeros((size_wh[1], size_wh[0], 3), dtype=np.uint8)
    left, top, right, bottom = (round(edge) for edge in box)
    # A view at full size is cut out as it is: the same bytes, and no cost.
    if (left, top, right, bottom) == box and size_wh == (right - left, bottom - top):
        return image[top:bottom, left:right]
    return np.asarray(Image.fromarray(image).resize(size_wh, Image.Resampling.BILINEAR, box=box, reducing_gap=2.0))


def to_rgb(image: Image.Image) -> Image.Image:
    """Return an image in RGB: transparent pixels on white, 16-bit grey scaled to 8 bits.

    Raises:
        ValueError: The pixels are floating-point numbers, which have no fixed range.
    """
    if image.mode == "RGB":
        return image
    if image.mode == "I" or image.mode.startswith("I;16"):
        # Pillow's own conversion would clip at 255 instead of scaling.
        grey = np.clip(np.asarray(image).astype(np.int64) // 256, 0, 255).astype(np.uint8)
        return Image.fromarray(grey).convert("RGB")
    if image.mode == "F":
        raise ValueError("floating-point pixels have no fixed range")
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        colours = image.convert("RGBA")
        # What lies under transparent pixels is arbitrary.
        white = Image.new("RGBA", colours.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, colours).convert("RGB")
    return image.convert("RGB")

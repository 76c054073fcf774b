"""Masks: COCO run lengths, and the mapping between original and input pixels.

A mask in original pixels is a COCO run-length code (RLE): ``size`` (height, width) and ``counts``. In input pixels it
is a tensor: bool for targets, probabilities for predictions. A label map holds the class number of each original pixel.
"""

import os
import struct
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from PIL import Image
from pycocotools import mask as codec
from torch import Tensor
from torch.nn import functional

from lumen.errors import DataError
from lumen.ops.geometry import InputTransform, xywh_to_xyxy
from lumen.paths import open_file

Rle = dict[str, Any]
_NUMBERS_AT_ONCE = 2**25
_FARTHEST = 100_000
_OUTLINES = 200  # times height and width together: far longer than any outline that an annotator draws
_MAX_PIXELS = 50_000_000  # the same limit as for images
_PNG_ERRORS = (
    *(OSError, SyntaxError, ValueError, EOFError, IndexError, KeyError, TypeError, OverflowError, SystemError),
    *(MemoryError, struct.error, Image.DecompressionBombError, Image.DecompressionBombWarning),
)


def encode_masks(masks: Bool[Tensor, "n height width"]) -> list[Rle]:
    """Return the RLE of each mask, with ``counts`` as text, ready for json."""
    # pycocotools takes (height, width, n) in column-major order.
    columns = np.asfortranarray(masks.cpu().numpy().astype(np.uint8).transpose(1, 2, 0))
    codes = codec.encode(columns) if len(masks) else []
    return [{"size": list(map(int, code["size"])), "counts": code["counts"].decode("ascii")} for code in codes]


def full_mask(size_hw: Sequence[int]) -> Rle:
    """Return the RLE of a mask that covers an image, as runs: a file may state a size far beyond memory."""
    return segmentation_to_rle({"size": list(size_hw), "counts": [0, size_hw[0] * size_hw[1]]}, size_hw)


def decode_masks(codes: Sequence[Rle], size_hw: Sequence[int]) -> Bool[Tensor, "n height width"]:
    """Return the masks of some RLEs.

    Raises:
        DataError: A code is broken, or of another size than ``size_hw``.
    """
    for code in codes:
        if tuple(code.get("size", ())) != tuple(size_hw):
            raise DataError(f"a mask has size {code.get('size')}, its image {tuple(size_hw)} (height, width)")
    if not codes:
        return torch.zeros(0, *size_hw, dtype=torch.bool)
    try:
        for code in codes:
            _check_runs(_as_bytes(code))
        columns = codec.decode([_as_bytes(code) for code in codes])
    except (ValueError, TypeError, KeyError) as error:
        raise DataError(f"a mask cannot be decoded ({type(error).__name__}: {error})") from error
    return torch.from_numpy(columns.transpose(2, 0, 1).astype(bool))


def segmentation_to_rle(segmentation: Any, size_hw: Sequence[int]) -> Rle:
    """Return COCO's ``segmentation`` (polygons, or RLE with counts as text or numbers) as one RLE.

    Raises:
        DataError: It is none of these, or of another size than its image.
    """
    height, width = size_hw
    try:
        if isinstance(segmentation, list):
            _check_polygons(segmentation, size_hw)
            code = codec.merge(codec.frPyObjects(segmentation, height, width))
        elif isinstance(segmentation.get("counts"), list):
            if "size" not in segmentation:  # pycocotools raises a bare Exception
                raise ValueError("an RLE has counts and a size")
            code = codec.frPyObjects(segmentation, height, width)
        else:
            code = _as_bytes(segmentation)
        # A wrong size is reported below, with a clearer message.
        if tuple(code["size"]) == tuple(size_hw):
            _check_runs(code)
    except (AttributeError, TypeError, ValueError, KeyError, IndexError, OverflowError) as error:
        raise DataError(f"a segmentation is neither polygons nor RLE ({type(error).__name__}: {error})") from error
    if tuple(code["size"]) != tuple(size_hw):
        raise DataError(f"a segmentation has size {code['size']}, its image {tuple(size_hw)} (height, width)")
    return {"size": list(map(int, code["size"])), "counts": code["counts"].decode("ascii")}


def merge_masks(codes: Sequence[Rle], *, intersect: bool = False) -> Rle:
    """Return the union, or the intersection, of RLEs of one size as one RLE; at least one is needed."""
    merged = codec.merge([_as_bytes(code) for code in codes], intersect=intersect)
    return {"size": list(map(int, merged["size"])), "counts": merged["counts"].decode("ascii")}


def mask_area(code: Rle) -> int:
    """Return the number of pixels of an RLE."""
    return int(codec.area(_as_bytes(code)))


def mask_boxes(codes: Sequence[Rle]) -> Float[Tensor, "n 4"]:
    """Return the tightest box, xyxy, around each mask; one without pixels has the box 0, 0, 0, 0."""
    boxes = codec.toBbox([_as_bytes(code) for code in codes]) if codes else np.zeros((0, 4))
    return xywh_to_xyxy(torch.from_numpy(boxes).float().reshape(-1, 4))


def tight_boxes(masks: Bool[Tensor, "n rows cols"], size_hw: Sequence[int]) -> Float[Tensor, "n 4"]:
    """Return the tightest box around each mask that covers an image of ``size_hw``, in its pixels.

    A mask without a cell has the box 0, 0, 0, 0.
    """
    sides = []
    for shown, size in ((masks.any(1), size_hw[1]), (masks.any(2), size_hw[0])):
        cells, shown = shown.shape[1], shown.int()
        last = cells - shown.flip(1).argmax(1)
        sides += [shown.argmax(1) * size / cells, last * size / cells]
    boxes = torch.stack([sides[0], sides[2], sides[1], sides[3]], 1).float()
    return boxes * masks.flatten(1).any(1)[:, None]


def masks_to_input(masks: Bool[Tensor, "n height width"], frame: InputTransform) -> Bool[Tensor, "n rows cols"]:
    """Read masks of the original image at the centres of input pixels; what lies beside the image is empty."""
    rows, cols = torch.arange(frame.input_hw[0]) + 0.5, torch.arange(frame.input_hw[1]) + 0.5
    height, width = frame.ori_hw
    # The affine has no shear: a column has one x, a row one y.
    x = frame.points_to_original(torch.stack([cols, torch.zeros_like(cols)], 1))[:, 0].floor().long()
    y = frame.points_to_original(torch.stack([torch.zeros_like(rows), rows], 1))[:, 1].floor().long()
    inside = ((y >= 0) & (y < height))[:, None] & ((x >= 0) & (x < width))
    # Run lengths are decoded column by column, so that whole columns are together in memory.
    chosen = masks.transpose(1, 2).index_select(1, x.clamp(0, width - 1)).transpose(1, 2)
    return chosen.index_select(1, y.clamp(0, height - 1)) & inside


def codes_to_input(codes: Sequence[Rle], frame: InputTransform) -> Bool[Tensor, "n rows cols"]:
    """Read RLEs of the original image at the centres of input pixels, a bounded number at a time.

    Raises:
        DataError: See ``decode_masks``.
    """
    step = _masks_at_once(frame)
    parts = [codes[start : start + step] for start in range(0, max(len(codes), 1), step)]
    return torch.cat([masks_to_input(decode_masks(part, frame.ori_hw), frame) for part in parts])


def maps_to_original(
    maps: Float[Tensor, "n rows cols"], frame: InputTransform
) -> Float[Tensor, "n original_height original_width"]:
    """Read maps that cover the network input, on whatever grid, at the centres of original pixels."""
    height, width = frame.ori_hw
    rows, cols = torch.arange(height) + 0.5, torch.arange(width) + 0.5
    # Where the centre of each original pixel lies in the input.
    points = frame.points_to_input(torch.stack(torch.meshgrid(cols, rows, indexing="xy"), -1))
    # grid_sample counts from -1 to 1 over the whole input.
    grid = points / torch.tensor([frame.input_hw[1], frame.input_hw[0]]) * 2 - 1
    read = functional.grid_sample(
        maps[None].float(), grid[None].to(maps.device), mode="bilinear", padding_mode="border", align_corners=False
    )
    return read[0]


def masks_to_original(
    probabilities: Float[Tensor, "n rows cols"], frame: InputTransform, *, threshold: float = 0.5
) -> list[Rle]:
    """Return predicted masks as RLE of the original image, a bounded number at a time."""
    codes: list[Rle] = []
    for some in probabilities.split(_masks_at_once(frame)):
        codes += encode_masks(maps_to_original(some, frame) > threshold)
    return codes


def read_label_map(
    path: str | os.PathLike[str], *, ignore_label: int = 255, reduce_zero_label: bool = False
) -> np.ndarray:
    """Read a PNG whose pixels are class numbers: grey of 8 or 16 bits, or indices of a palette.

    Args:
        path: The file.
        ignore_label: Value of pixels without a class.
        reduce_zero_label: Whether 0 stands for no class too and class numbers are one less than the values (ADE20K).

    Returns:
        Class numbers (height, width), int32; -1 for pixels without a class.

    Raises:
        DataError: The file cannot be read, or does not hold one number per pixel.
    """
    try:
        with open_file(path, "rb") as file, Image.open(file, formats=("PNG",)) as image:
            if image.width * image.height > _MAX_PIXELS:
                raise DataError(f"{path}: {image.width} x {image.height} pixels, the limit is {_MAX_PIXELS} in all")
            values = np.array(image)
    except DataError:
        raise
    except _PNG_ERRORS as error:
        raise DataError(f"{path}: cannot be read as a PNG ({type(error).__name__}: {error})") from error
    if values.ndim != 2 or values.dtype == bool:
        raise DataError(f"{path}: a label map has one number per pixel, this file {values.shape[2:]} {values.dtype}")
    # With `reduce_zero_label` the value 0 becomes -1: no class.
    labels = values.astype(np.int32) - int(reduce_zero_label)
    labels[values == ignore_label] = -1
    return labels


def _masks_at_once(frame: InputTransform) -> int:
    return max(1, _NUMBERS_AT_ONCE // (frame.ori_hw[0] * frame.ori_hw[1]))


def _check_polygons(polygons: list, size_hw: Sequence[int]) -> None:
    if not polygons or any(not isinstance(p, list) or len(p) < 6 or len(p) % 2 for p in polygons):
        raise ValueError("a polygon is a list of x, y, x, y and so on with at least three points")
    # pycocotools walks along every edge and takes memory for each step, so that long edges would exhaust it.
    corners = [np.asarray(p, dtype=np.float64).reshape(-1, 2) for p in polygons]
    if not all((np.abs(points) <= _FARTHEST).all() for points in corners):
        raise ValueError(f"the corners of a polygon are numbers of at most {_FARTHEST}")
    length = sum(np.abs(points - np.roll(points, 1, axis=0)).max(axis=1).sum() for points in corners)
    if length > (longest := _OUTLINES * (size_hw[0] + size_hw[1])):
        raise ValueError(f"the outlines are {length:.0f} pixels long, the limit for this image is {longest}")


def _check_runs(code: Rle) -> None:
    """Raise ValueError unless the runs fill the mask exactly; pycocotools leaves uncovered pixels uninitialised."""
    # Six bits per letter, from "0" on: five bits of the number, least first, and a bit that more letters follow.
    # 1. Split the letters into numbers.
    letters = np.frombuffer(code["counts"], dtype=np.uint8).astype(np.int64) - 48
    ends = np.flatnonzero(letters < 32)
    if not len(ends) or ends[-1] != len(letters) - 1 or letters.min() < 0 or letters.max() > 63:
        raise ValueError("counts are not run lengths")
    starts = np.append(0, ends[:-1] + 1)
    place = np.arange(len(letters)) - np.repeat(starts, ends - starts + 1)
    if place.max() > 6:
        raise ValueError("a run is too long")
    # 2. Join the five bits of each letter of a number.
    steps = np.add.reduceat((letters & 31) << (5 * place), starts)
    # The highest bit of a number is its sign.
    steps -= ((letters[ends] & 16) > 0).astype(np.int64) << (5 * (place[ends] + 1))
    # From the fourth run on, the difference to the run two places before is stored.
    # 3. Undo the differences, separately for runs of zeros and of ones.
    runs = np.concatenate([steps[:1], np.cumsum(steps[1::2]), np.cumsum(steps[2::2])])
    if runs.min() < 0 or runs.sum() != code["size"][0] * code["size"][1]:
        raise ValueError(f"runs of {runs.sum()} pixels for a mask of size {code['size']}")


def _as_bytes(code: Rle) -> Rle:
    counts = code["counts"]
    return {"size": code["size"], "counts": counts.encode("ascii") if isinstance(counts, str) else counts}

"""Masks as Label Studio's brush keeps them: the RGBA image of the mask, in packed run lengths.

The format is ``rle-pack`` of https://github.com/thi-ng/umbrella (Apache-2.0): 32 bits, how many values; 5 bits, bits of
a value minus 1; four times 4 bits, bits of a length minus 1; then chunks. A chunk is one bit, 1 where all of its values
are equal; 2 bits, which of the four sizes its length has; the length minus 1; and the value, or each of them.
"""

from collections.abc import Sequence

import numpy as np

from lumen.errors import DataError

_WORD, _SIZES = 8, (3, 4, 8, 16)
_CHANNELS = 4


def pack_mask(mask: np.ndarray) -> list[int]:
    """Return a bool mask (height, width) as bytes; 255 on the mask in all channels."""
    flat = mask.reshape(-1)
    starts = np.flatnonzero(np.diff(flat, prepend=~flat[:1]))
    lengths = np.diff(starts, append=len(flat)) * _CHANNELS
    bits = [f"{flat.size * _CHANNELS:032b}{_WORD - 1:05b}", *(f"{size - 1:04b}" for size in _SIZES)]
    for start, length in zip(starts.tolist(), lengths.tolist(), strict=True):
        value = f"{255 * int(flat[start]):0{_WORD}b}"
        bits += [_head(some) + value for some in _split(length)]
    packed = "".join(bits)
    packed += "0" * (-len(packed) % 8)
    return list(int(packed, 2).to_bytes(len(packed) // 8, "big"))


def unpack_mask(packed: Sequence[int], size_hw: tuple[int, int]) -> np.ndarray:
    """Return the bool mask (height, width) of such bytes: where the alpha channel is not 0.

    Raises:
        DataError: The bytes are broken, or of another size.
    """
    height, width = size_hw
    try:
        bits = "".join(f"{byte:08b}" for byte in bytes(packed))
        values = _values(bits, height * width * _CHANNELS)
    except (ValueError, TypeError, IndexError) as error:
        raise DataError(f"a brush mask cannot be read ({error}); expected packed run lengths of {size_hw}") from error
    return values.reshape(height, width, _CHANNELS)[..., -1] > 0


def _values(bits: str, expected: int) -> np.ndarray:
    count, word = int(bits[:32], 2), int(bits[32:37], 2) + 1
    if count != expected:
        raise ValueError(f"{count} values instead of {expected}")
    sizes = [int(bits[place : place + 4], 2) + 1 for place in range(37, 53, 4)]
    values, done, place = np.zeros(count, dtype=np.uint32), 0, 53
    while done < count:
        size = sizes[int(bits[place + 1 : place + 3], 2)]
        length = int(bits[place + 3 : place + 3 + size], 2) + 1
        is_run, place = bits[place] == "1", place + 3 + size
        end = place + word * (1 if is_run else length)
        if done + length > count or end > len(bits):
            raise ValueError("the runs do not fill the mask")
        values[done : done + length] = [int(bits[start : start + word], 2) for start in range(place, end, word)]
        done, place = done + length, end
    return values


def _head(length: int) -> str:
    """Return the bits of a run of equal values, up to its value."""
    index, size = next((index, size) for index, size in enumerate(_SIZES) if length <= 2**size)
    return f"1{index:02b}{length - 1:0{size}b}"


def _split(length: int) -> list[int]:
    """Return lengths of at most the longest run, with this sum."""
    longest = 2 ** _SIZES[-1]
    whole, rest = divmod(length, longest)
    return [longest] * whole + [rest] * (rest > 0)

"""Clips: some frames of an animation, a folder of frames or a video, read as one array.

A clip is (frames, height, width, 3) wherever an image is (height, width, 3). It is drawn, flipped and found faulty as a
whole.
"""

import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int, UInt8
from PIL import Image

from lumen.data.check import UNREADABLE
from lumen.data.faults import grey_in_test
from lumen.data.image import FORMATS, check_inside, check_size, read_image, reading, to_rgb
from lumen.errors import ConfigError, DataError
from lumen.options import check_choice
from lumen.paths import IMAGE_SUFFIXES
from lumen.registry import TRANSFORMS

VIDEOS = (".mp4", ".mov", ".mkv", ".avi", ".webm")
MAX_FRAMES = 10_000
SAMPLINGS = ("uniform", "head_tail")

_DEFAULT_MS = 100
"""How long a frame without a duration is shown, as browsers do it."""

_Opened = tuple[Sequence[float | int], Callable[[int], np.ndarray]]
"""How long each frame of a clip is shown, and a function that reads a frame; it is called with ascending numbers."""


@TRANSFORMS.register_module()
class LoadClip:
    """Read some frames of a clip: an animated GIF, WebP or PNG, a folder of images, or a video.

    Reads ``img_path``, ``img_root``, ``ori_hw`` (None where it is unknown), ``test_mode``; writes ``image``, uint8 RGB
    (frames, height, width, 3), and ``ori_hw``. One frame that cannot be used makes the clip unusable: in training it is
    counted and the next clip is taken, in an evaluation it becomes a grey clip with a ``fault``, as for images.

    Args:
        frames: How many frames a sample has. A clip with fewer shows some of them several times.
        sampling: ``uniform`` takes the frames in the middle of as many equal parts of the clip; ``head_tail`` draws
            half of them from its first half and the others from its second, in order, for training.

    Raises:
        ConfigError: ``frames`` is not positive, or the sampling is unknown; or a video needs the package ``av``.
        DataError: The clip cannot be read, or has another size than the annotation file gives.
    """

    def __init__(self, *, frames: int = 8, sampling: str = "uniform") -> None:
        check_choice("LoadClip.sampling", sampling, SAMPLINGS)
        if type(frames) is not int or frames < 1:
            raise ConfigError(f"LoadClip.frames must be a whole number of at least 1, got {frames!r}")
        self.frames = frames
        self.sampling = sampling

    def __call__(self, results: dict[str, Any]) -> dict[str, Any]:
        """Add the frames."""
        clip = grey_in_test(self._read, results, (self.frames, *(results["ori_hw"] or (1, 1))))
        results["image"] = clip
        results["ori_hw"] = clip.shape[1:3]
        return results

    def _read(self, results: Mapping[str, Any]) -> np.ndarray:
        path, size_hw = results["img_path"], results["ori_hw"]
        clip = read_clip(path, self.frames, sampling=self.sampling, root=results["img_root"] or ".")
        if size_hw is not None and clip.shape[1:3] != tuple(size_hw):
            raise DataError(
                f"{path}: the clip has {clip.shape[1:3]} pixels (height, width), its annotation {tuple(size_hw)}"
            )
        return clip


def read_clip(
    path: str | os.PathLike[str],
    frames: int,
    *,
    sampling: str = "uniform",
    root: str | os.PathLike[str] | None = None,
) -> UInt8[np.ndarray, "frames height width 3"]:
    """Read some frames of a clip as RGB.

    Args:
        path: Animated GIF, WebP or PNG, a folder of images of one size in the natural order of their names, or a video.
        frames: How many frames are wanted.
        sampling: See ``LoadClip``.
        root: Folder that the clip must lie in once links are followed; ``None`` allows any.

    Raises:
        DataError: The clip is missing, outside ``root``, broken, too large or too long, or its frames differ in size.
        ConfigError: It is a video, and the package ``av`` is missing.
    """
    if root is not None:
        check_inside(path, root)
    pictures: dict[int, np.ndarray] = {}
    with _opened(path) as (durations, read):
        chosen = choose_frames(durations, frames, sampling).tolist()
        for number in chosen:
            if number not in pictures:
                pictures[number] = read(number)
    return np.stack([pictures[number] for number in chosen])


def choose_frames(
    durations: Sequence[float | int], frames: int, sampling: str = "uniform"
) -> Int[np.ndarray, " frames"]:
    """Return the numbers of the frames to take, in order; see ``LoadClip``. ``head_tail`` draws from ``np.random``.

    A frame counts by the time for which it is shown: files store a picture that stays only once.

    Args:
        durations: How long each frame is shown, in any unit.
        frames: How many are wanted.
        sampling: ``uniform`` or ``head_tail``.
    """
    ends = np.cumsum(np.asarray(durations, dtype=np.float64))
    if sampling == "uniform":
        places = (np.arange(frames) + 0.5) / frames
    else:
        is_tail = np.arange(frames) >= frames // 2
        places = np.sort((np.random.random(frames) + is_tail) / 2)
    return np.minimum(np.searchsorted(ends, places * ends[-1], side="right"), len(ends) - 1)


def clip_problem(
    path: str | os.PathLike[str],
    root: str | os.PathLike[str],
    size_hw: tuple[int, int] | None,
    *,
    decode: bool = False,
) -> str | None:
    """Return what is wrong with a clip, or None; the first frame is read, all of them with ``decode``.

    The arguments are those of ``lumen.data.check.image_problem``.
    """
    try:
        check_inside(path, root)
    except DataError:
        return "clip leaves the image folder"
    if not os.path.exists(path):
        return "clip is missing"
    try:
        with _opened(path) as (durations, read):
            found_hw = read(0).shape[:2]
            for number in range(1, len(durations) if decode else 1):
                read(number)
    except DataError:
        return UNREADABLE
    return "clip has another size than its entry" if size_hw not in (None, found_hw) else None


def is_clip(path: str | os.PathLike[str]) -> bool:
    """Return whether a path can be read as a clip only: a folder, a GIF or a video."""
    return os.path.isdir(path) or Path(path).suffix.lower() in (".gif", *VIDEOS)


def _opened(path: str | os.PathLike[str]) -> AbstractContextManager[_Opened]:
    if os.path.isdir(path):
        return _folder(Path(path))
    return _video(path) if Path(path).suffix.lower() in VIDEOS else _animation(path)


@contextmanager
def _animation(path: str | os.PathLike[str]) -> Iterator[_Opened]:
    with reading(path, None), Image.open(path, formats=("GIF", *FORMATS)) as image:
        check_size(path, image)
        count = getattr(image, "n_frames", 1)  # formats without frames do not have it
        _check_count(path, count)
        durations = []
        for number in range(count):
            image.seek(number)
            image.load()  # of WebP the duration is known then
            durations.append(image.info.get("duration") or _DEFAULT_MS)

        def read(number: int) -> np.ndarray:
            image.seek(number)
            return np.array(to_rgb(image))

        yield durations, read


@contextmanager
def _folder(path: Path) -> Iterator[_Opened]:
    files = sorted((file for file in path.iterdir() if file.suffix.lower() in IMAGE_SUFFIXES), key=_natural)
    _check_count(path, len(files))
    sizes: set[tuple[int, ...]] = set()

    def read(number: int) -> np.ndarray:
        picture = read_image(files[number], root=path)
        sizes.add(picture.shape)
        if len(sizes) > 1:
            raise DataError(f"{files[number]}: the frames of a clip have one size, got {sorted(sizes)}")
        return picture

    yield [1.0] * len(files), read


@contextmanager
def _video(path: str | os.PathLike[str]) -> Iterator[_Opened]:
    try:
        import av
    except ImportError as error:
        raise ConfigError(
            f"{path}: a video needs the package av: pip install -e '.[video]', or give an animated GIF or WebP, or a "
            "folder of frames"
        ) from error
    try:
        with av.open(os.fspath(path)) as counted, av.open(os.fspath(path)) as container:
            count = sum(1 for _ in counted.demux(video=0) if _.size)
            _check_count(path, count)
            frames = enumerate(container.decode(video=0))
            yield (
                [1.0] * count,
                lambda number: next(frame for place, frame in frames if place == number).to_ndarray(format="rgb24"),
            )
    except (av.FFmpegError, StopIteration) as error:
        raise DataError(f"{path}: cannot be read as a video ({type(error).__name__}: {error})") from error


def _check_count(path: str | os.PathLike[str], count: int) -> None:
    if not 1 <= count <= MAX_FRAMES:
        raise DataError(f"{path}: a clip has 1 to {MAX_FRAMES} frames, got {count}")


def _natural(file: Path) -> list[tuple[int, str]]:
    """Return what sorts ``frame_2`` before ``frame_10``."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", file.name)]

"""Where relative paths lead: the current folder, the folder that ``LUMEN_DATA`` names, the checkout, or the package."""

import errno
import os
import re
import stat
from pathlib import Path
from typing import IO, Any

CHECKOUT = Path(__file__).resolve().parent.parent
PACKAGED = {"nano": Path(__file__).resolve().parent / "lmm" / "nano" / "weights"}
"""Models that are part of this package, by name."""
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")
"""Endings by which images are found in folders."""
_UNWRITABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")


def find_path(path: str | Path) -> str:
    """Return the first place that holds ``path``, so that tools run from any folder.

    Tried in turn: the path itself, ``$LUMEN_DATA`` in place of a leading ``data``, below the checkout that this package
    lies in, the models that are part of the package (``nano``). A path that exists nowhere is returned unchanged: it
    may be a model id, and the code that opens it reports what is missing.
    """
    path = Path(path)
    tried = [path, CHECKOUT / path]
    if os.environ.get("LUMEN_DATA"):
        below = path.relative_to("data") if path.parts[:1] == ("data",) else path
        tried.insert(1, Path(os.environ["LUMEN_DATA"]) / below)
    if str(path) in PACKAGED:
        tried.append(PACKAGED[str(path)])
    return next((str(place) for place in tried if place.exists()), str(path))


def real_path(path: str | Path) -> Path:
    """Return where a path leads; links in a circle are an OSError once it is opened, but fail in ``Path.resolve``."""
    return Path(os.path.realpath(path))


def is_unwritable(text: str) -> bool:
    """Return whether a text holds what XML or UTF-8 cannot: control characters, halves of surrogate pairs."""
    return _UNWRITABLE.search(text) is not None


def open_file(path: str | os.PathLike[str], mode: str = "r") -> IO[Any]:
    """Open a file to read it; a pipe or a device would be waited for, or never end.

    Args:
        path: The file.
        mode: ``r`` for text in UTF-8, or ``rb`` for bytes.

    Raises:
        OSError: The path names something else than a file, or the file cannot be opened.
    """
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise OSError(errno.EINVAL, "not a file", os.fspath(path))
    return open(path, mode, encoding=None if "b" in mode else "utf-8")


def is_hub_id(name: str | Path) -> bool:
    """Return whether a name can only be a model of the Hugging Face Hub: ``org/name``, where no folder ``org`` is."""
    part = r"[A-Za-z0-9](?:[\w.-]*\w)?"
    matched = re.fullmatch(f"({part})/{part}", str(name), re.ASCII)
    return matched is not None and not Path(matched[1]).exists()

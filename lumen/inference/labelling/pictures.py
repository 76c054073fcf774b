"""Pictures to label, one at a time: from a folder, a list file, tar shards, or a COCO file. Nothing is decoded here."""

import os
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np

from lumen.data.annotations import parse_json
from lumen.data.image import MAX_BYTES, decode_image, read_image
from lumen.errors import ConfigError, DataError, named_faults
from lumen.paths import IMAGE_SUFFIXES, is_unwritable

LIST_SUFFIXES = (".txt", ".lst")
_COMPRESSED = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst")
_PLAIN_FILE = (tarfile.REGTYPE, tarfile.AREGTYPE)
_MAX_ID = 2**63 - 1
_KNOWN = "a folder of images or tar shards, a .tar file, a .txt file with one image per line, or a COCO .json file"


@dataclass(frozen=True, slots=True)
class Picture:
    """Where a picture lies.

    Args:
        name: What labels call it: a relative path with forward slashes.
        path: The file, or the tar shard that holds it.
        id: That of a COCO file; None elsewhere.
        place: First byte and number of bytes in the shard; None for a file of its own.
        root: Folder that the file must lie in; None allows any.
    """

    name: str
    path: str
    id: int | None = None
    place: tuple[int, int] | None = None
    root: str | None = None

    def read(self) -> np.ndarray:
        """Return uint8 RGB (height, width, 3).

        Raises:
            DataError: It is missing or broken; see ``lumen.data.image.read_image_file``.
        """
        if self.place is None:
            return read_image(self.path, root=self.root)
        try:
            with open(self.path, "rb") as shard:
                shard.seek(self.place[0])
                # A shard may state any size: `read` would take so much memory, whether it is there or not.
                content = shard.read(min(self.place[1], MAX_BYTES + 1))
        except OSError as error:
            raise DataError(f"{self.path}: the shard cannot be read ({error})") from error
        return decode_image(content, f"{self.name} of {self.path}")


def list_pictures(source: Path, *, images: Path | None = None) -> Iterator[Picture]:
    """Yield the pictures of a source, always in the same order, without holding them.

    - A folder: the images in it and below it by name; a tar shard in it stands for its images. Hidden files and
      folders are passed over, and links to folders are not followed.
    - A tar shard in the WebDataset layout: the members that end like an image. Read by ``tarfile`` and not by
      ``webdataset``, since the place of a member in the file lets threads read images, and a resumed job pass over
      them, without the bytes in front. So a shard must not be compressed.
    - A list file: a path per line, relative to ``images`` or to the folder of the list; a shard stands for its images.
    - A COCO file: its ``images``, with their ids, relative to ``images`` or to the folder of the file. Json cannot be
      read in pieces, so this one list is held in memory. ``supervision`` is not used, as it opens every image to list.

    Of one folder the names are held while they are sorted, 0.1 KB each.

    Raises:
        ConfigError: ``images`` is given for a source that takes none.
        DataError: The source is missing or of no known kind, or a shard cannot be read.
    """
    suffix = source.suffix.lower()
    takes_root = suffix in (*LIST_SUFFIXES, ".json") and not source.is_dir()
    if images is not None and not takes_root:
        raise ConfigError(f"--images belongs to a list or a COCO file, got {source}")
    if source.is_dir():
        return _below(source)
    if not source.is_file():
        raise DataError(f"there is no {str(source)!r}; expected {_KNOWN}")
    if suffix == ".tar" or source.name.lower().endswith(_COMPRESSED):
        return _members(source, PurePosixPath(source.stem))
    if not takes_root:
        raise DataError(f"{source} is not a source of pictures; expected {_KNOWN}")
    root = source.parent if images is None else images
    return _listed(source, root) if suffix in LIST_SUFFIXES else _of_coco(source, root)


def _below(folder: Path) -> Iterator[Picture]:
    # A list of what is left, as folders may be nested deeper than calls may be.
    left = _last_first(folder, PurePosixPath())
    while left:
        inner = left.pop()
        path, name = folder / inner, inner.name.lower()
        if name.endswith(IMAGE_SUFFIXES):
            yield Picture(_checked_name(str(inner), folder), str(path))
        elif name.endswith((".tar", *_COMPRESSED)):
            yield from _members(path, inner.with_suffix(""))
        elif path.is_dir() and not path.is_symlink():
            left += _last_first(folder, inner)


def _last_first(folder: Path, inner: PurePosixPath) -> list[PurePosixPath]:
    with os.scandir(folder / inner) as entries:
        names = sorted((entry.name for entry in entries if not entry.name.startswith(".")), reverse=True)
    return [inner / name for name in names]


def _members(shard: Path, prefix: PurePosixPath) -> Iterator[Picture]:
    """Yield the images of a shard; the names start with that of the shard, as keys may be equal across shards."""
    if shard.name.lower().endswith(_COMPRESSED):
        raise DataError(f"{shard} is compressed, so that single images cannot be read from it; unpack it to a .tar")
    if shard.exists() and not shard.is_file():  # a pipe would be waited for
        raise DataError(f"{shard}: the shard is not a file; remove it from the source, or rename it")
    with (
        named_faults(f"{shard}: the shard cannot be read", DataError, remedy="copy it again"),
        tarfile.open(shard, "r:") as archive,
    ):
        while (member := archive.next()) is not None:
            archive.members = []  # tarfile would keep all of them
            if member.type in _PLAIN_FILE and member.name.lower().endswith(IMAGE_SUFFIXES):
                place = (member.offset_data, member.size)
                yield Picture(_checked_name(f"{prefix}/{member.name}", shard), str(shard), place=place)
        # tarfile takes a shard that is cut in a header for a whole one.
        archive.fileobj.seek(archive.offset)
        if archive.fileobj.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
            raise DataError(f"{shard}: the shard has no end mark, so it is cut off or damaged; copy it again")


def _listed(source: Path, root: Path) -> Iterator[Picture]:
    with source.open(encoding="utf-8") as lines:
        try:
            for line in filter(None, map(str.strip, lines)):
                path = root / line
                if path.suffix.lower() == ".tar":
                    yield from _members(path, PurePosixPath(_checked_name(line, source)).with_suffix(""))
                else:
                    yield Picture(_checked_name(line, source), str(path))
        except UnicodeDecodeError as error:
            raise DataError(f"{source} is not a list of paths in UTF-8 ({error})") from error


def _of_coco(source: Path, root: Path) -> Iterator[Picture]:
    content = parse_json(source)
    entries = content.get("images") if isinstance(content, dict) else None
    if not isinstance(entries, list):
        raise DataError(f"{source} holds no list 'images', so it is not a COCO file")
    seen: set[int] = set()
    for place, entry in enumerate(entries):
        name, number = (entry.get("file_name"), entry.get("id")) if isinstance(entry, dict) else (None, None)
        if not isinstance(name, str) or not name or type(number) is not int:
            raise DataError(f"{source}: images[{place}] has no file_name and whole id; see lumen check-data")
        if not -_MAX_ID <= number <= _MAX_ID or number in seen:
            raise DataError(f"{source}: the id of {name!r} is used twice, or is beyond 64 bits; see lumen check-data")
        seen.add(number)
        yield Picture(_checked_name(name, source), os.path.join(root, name), id=number, root=str(root))


def _checked_name(name: str, source: Path) -> str:
    """Return a name that stays inside the folder of the labels, and that the files of every format can hold."""
    parts = [part for part in PurePosixPath(name).parts if part.strip("/")]
    if ".." in parts or not parts:
        raise DataError(
            f"{source} names {name!r}: a path with '..', or without a file, leaves the folder of the labels"
        )
    if is_unwritable(name):
        raise DataError(
            f"{source} names {name!r}: labels cannot hold line breaks, other control characters or bytes that are not "
            "UTF-8; rename the file"
        )
    return str(PurePosixPath(*parts))

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
from lumen.paths import IMAGE_SUFFIXES

LIST_SUFFIXES = (".txt", ".lst")
_COMPRESSED = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst")
_PLAIN_FILE = (tarfile.REGTYPE, tarfile.AREGTYPE)
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
        return _below(source, PurePosixPath())
    if not source.is_file():
        raise DataError(f"there is no {str(source)!r}; expected {_KNOWN}")
    if suffix == ".tar" or source.name.lower().endswith(_COMPRESSED):
        return _members(source, PurePosixPath(source.stem))
    if not takes_root:
        raise DataError(f"{source} is not a source of pictures; expected {_KNOWN}")
    root = source.parent if images is None else images
    return _listed(source, root) if suffix in LIST_SUFFIXES else _of_coco(source, root)


def _below(folder: Path, inner: PurePosixPath) -> Iterator[Picture]:
    with os.scandir(folder / inner) as entries:
        names = sorted(entry.name for entry in entries if not entry.name.startswith("."))
    for name in names:
        path = folder / inner / name
        if name.lower().endswith(IMAGE_SUFFIXES):
            yield Picture(str(inner / name), str(path))
        elif name.lower().endswith((".tar", *_COMPRESSED)):
            yield from _members(path, inner / Path(name).stem)
        elif path.is_dir() and not path.is_symlink():
            yield from _below(folder, inner / name)


def _members(shard: Path, prefix: PurePosixPath) -> Iterator[Picture]:
    """Yield the images of a shard; the names start with that of the shard, as keys may be equal across shards."""
    if shard.name.lower().endswith(_COMPRESSED):
        raise DataError(f"{shard} is compressed, so that single images cannot be read from it; unpack it to a .tar")
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
    for place, entry in enumerate(entries):
        name, number = (entry.get("file_name"), entry.get("id")) if isinstance(entry, dict) else (None, None)
        if not isinstance(name, str) or not name or type(number) is not int:
            raise DataError(f"{source}: images[{place}] has no file_name and whole id; see lumen check-data")
        yield Picture(_checked_name(name, source), os.path.join(root, name), id=number, root=str(root))


def _checked_name(name: str, source: Path) -> str:
    """Return a name that stays inside the folder of the labels."""
    parts = PurePosixPath(name).parts
    if ".." in parts or "\0" in name:
        raise DataError(f"{source} names {name!r}: a path with '..' would leave the folder of the labels")
    return str(PurePosixPath(*parts[1:])) if name.startswith("/") else str(PurePosixPath(*parts))

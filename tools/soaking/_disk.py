"""Disks that are full and folders that are read-only: a clear error, old files whole, nothing half-written."""

import ctypes
import json
import os
import resource
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from experiments.results import Results
from lumen.errors import LumenError
from soaking._bounded import run_bounded
from soaking._machine import provenance

SHARES = (0.0, 0.1, 0.5, 0.9)
"""How much of what a writer needs there is room for."""
_NEW_NAMESPACE, _PRIVATE, _READ_ONLY, _BIND, _REMOUNT = 0x00020000, 0x44000, 1, 4096, 32
_Files = dict[str, bytes]


@dataclass(frozen=True, slots=True)
class Writer:
    """Something that writes files.

    Args:
        name: Its name in results.
        write: Writes version 1 or 2 into a folder; of what is replaced, the second takes the place of the first.
    """

    name: str
    write: Callable[[Path, int], None]


def soak_disk(results: Results, writers: list[Writer]) -> None:
    """Try all writers in all ways that this machine allows; every call does so anew."""
    ways = ["bounded file size", *(["full tmpfs", "read-only mount"] if can_mount() else [])]
    for writer in writers:
        for way in ways:
            for share in SHARES if way != "read-only mount" else (0.0,):
                row = {"what": "disk", "writer": writer.name, "way": way, "share": share}
                row |= try_disk(writer, way, share)
                results.add(row | provenance())
                print(f"{writer.name}, {way}, room for {share:.0%}: {row['outcome']}", flush=True)


def can_mount() -> bool:
    """Return whether this process may mount, which takes root."""
    outcome = run_bounded(lambda: _own_mounts() == 0, megabytes=100, cpu_seconds=5, wall_seconds=10)
    return bool(outcome.result)


def try_disk(writer: Writer, way: str, share: float) -> dict[str, object]:
    """Write where there is too little room, then where there is enough, and return what came of it."""
    with tempfile.TemporaryDirectory() as place:
        outcome = run_bounded(
            lambda: _try(writer, Path(place), way, share), megabytes=4096, cpu_seconds=120, wall_seconds=600
        )
    text = outcome.death or outcome.result
    return {"outcome": text, "is_fault": not text.startswith(("refused", "had room"))}


def _try(writer: Writer, place: Path, way: str, share: float) -> str:
    folder, example = place / "disk", place / "example"
    for path in (folder, example):
        path.mkdir()
    # What a disk with room would hold afterwards, and how much of it is new.
    writer.write(example, 1)
    old = _files_of(example)
    writer.write(example, 2)
    new = _files_of(example)
    needed = sum(len(content) for name, content in new.items() if old.get(name) != content)
    largest = max(len(content) for name, content in new.items() if old.get(name) != content)
    if way == "full tmpfs":
        _mount_tmpfs(folder)
    writer.write(folder, 1)
    before = _files_of(folder)
    undo = _fill(folder, way, int(share * (largest if way == "bounded file size" else needed)))
    fault = _write(writer, folder)
    undo()
    complaint = _complaint(before, _files_of(folder), new)
    if complaint is not None:
        return f"FAULT: {complaint}; {fault}"
    if fault is None:
        return "had room"  # pages, and files that are smaller than was thought
    # With room again, the same call must do its work.
    writer.write(folder, 2)
    return fault if _files_of(folder) == new else f"FAULT: with room again, {_complaint({}, _files_of(folder), new)}"


def _write(writer: Writer, folder: Path) -> str | None:
    """Return how writing was refused; None where it was done."""
    try:
        writer.write(folder, 2)
    except LumenError as error:
        return f"refused by {type(error).__name__}"
    except OSError as error:  # which tools and the command line show in one line
        return f"refused by {type(error).__name__}: {error.strerror}"
    except Exception as error:  # what is looked for
        return f"FAULT: raw {type(error).__name__}: {str(error)[:200]}"
    return None


def _complaint(before: _Files, after: _Files, new: _Files) -> str | None:
    """Return what is wrong with the files on a disk that was full: each is an old one or a new one, whole."""
    for name, content in before.items():
        if after.get(name) not in (content, new.get(name)):
            return f"the old {name} is {'gone' if name not in after else 'damaged'}"
    for name, content in after.items():
        if name not in before and content != new.get(name):
            return f"{name} is left behind" if name not in new else f"{name} is half-written"
    return None


def _files_of(folder: Path) -> _Files:
    """Return the files below a folder by name, without locks, whose content does not matter."""
    files = (path for path in folder.rglob("*") if path.is_file() and path.name != "filler" and path.suffix != ".lock")
    return {str(path.relative_to(folder)): _content_of(path) for path in files}


def _content_of(path: Path) -> bytes:
    """Return the bytes of a file; safetensors writes the texts of its header in any order."""
    content = path.read_bytes()
    end = 8 + int.from_bytes(content[:8], "little")
    if path.suffix != ".safetensors" or len(content) < end:
        return content
    return json.dumps(json.loads(content[8:end]), sort_keys=True).encode() + content[end:]


def _fill(folder: Path, way: str, room: int) -> Callable[[], object]:
    """Leave so many bytes of room; return what undoes it."""
    if way == "bounded file size":
        # A file that grows beyond it cannot be written: the error of a quota. Python ignores the signal.
        resource.setrlimit(resource.RLIMIT_FSIZE, (room, resource.RLIM_INFINITY))
        return lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    if way == "read-only mount":
        _own_mounts()
        _mount(folder, folder, b"", _BIND)
        _mount(folder, folder, b"", _BIND | _REMOUNT | _READ_ONLY)
        return lambda: _mount(folder, folder, b"", _BIND | _REMOUNT)
    free = os.statvfs(folder).f_bavail * os.statvfs(folder).f_frsize
    with (folder / "filler").open("wb") as file:
        file.write(bytes(max(0, free - room)))
    return (folder / "filler").unlink


def _own_mounts() -> int:
    """Take this process out of the mounts of others; return 0 where that is allowed."""
    libc = ctypes.CDLL(None, use_errno=True)
    return libc.unshare(_NEW_NAMESPACE) or libc.mount(b"none", b"/", None, _PRIVATE, None)


def _mount_tmpfs(folder: Path) -> None:
    _own_mounts()
    _mount(Path("tmpfs"), folder, b"tmpfs", 0, b"size=64m")


def _mount(source: Path, target: Path, kind: bytes, flags: int, options: bytes | None = None) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mount(os.fsencode(source), os.fsencode(target), kind, flags, options):
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), str(target))

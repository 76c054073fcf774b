"""A labelling job on disk: what is asked about which pictures, and the parts that are done.

``OUT/job.json`` says what the job is; ``OUT/parts/000000.jsonl`` holds the answers to the first so many pictures, a
line each behind a line of counts. A part appears whole or not at all, and is never written a second time, so that a
job goes on where it was ended, in whatever way.
"""

import hashlib
import json
import os
import socket
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path, PurePosixPath
from types import NoneType
from typing import Any, TextIO

import numpy as np

from lumen.errors import ConfigError, DataError, named_faults
from lumen.inference.labelling.pictures import Picture
from lumen.paths import is_unwritable, open_file
from lumen.serialization.atomic import TEMPORARY, atomic_file, write_text
from lumen.serialization.fingerprint import require_equal
from lumen.serialization.lock import held_file

_JOB, _PARTS = "job.json", "parts"
_VERSION = 1
_LABEL_AGAIN = "remove it, and label again"
_PLACES = ("folder", "config", "checkpoint", "lmm")  # of a model; its digests say whether it is the same


@dataclass(frozen=True, slots=True)
class Survey:
    """What a source holds, found in one pass over its names.

    Args:
        num_pictures: How many.
        digest: Of names and order.
        same_stem: The first name that differs from an earlier one in its ending alone; files per picture would collide.
    """

    num_pictures: int
    digest: str
    same_stem: str | None


@dataclass(frozen=True, slots=True)
class Job:
    """What is asked about which pictures.

    Args:
        source: Where the pictures come from, for readers.
        pictures: See ``Survey``.
        names: Phrases; their positions are the labels.
        task: Task of the decoder that answers.
        threshold: Lowest score that is kept; None for the task's own.
        model: What answers: description and digests.
        has_masks: Whether the answers hold masks.
        part_size: Pictures of a part.

    Raises:
        ConfigError: There are no names, or one comes twice.
    """

    source: str
    pictures: Survey
    names: tuple[str, ...]
    task: str
    threshold: float | None
    model: Mapping[str, str]
    has_masks: bool
    part_size: int

    def __post_init__(self) -> None:
        check_names(self.names)

    @property
    def num_parts(self) -> int:
        """Number of parts; the last may be shorter than the others."""
        return -(-self.pictures.num_pictures // self.part_size)

    def num_pictures_of(self, part: tuple[int, int]) -> int:
        """Return how many pictures belong to one task of an array; see ``label_pictures``."""
        numbers = range(part[0] - 1, self.num_parts, part[1])
        starts = (number * self.part_size for number in numbers)
        return sum(min(self.part_size, self.pictures.num_pictures - start) for start in starts)


def check_names(names: Sequence[str]) -> None:
    """Raise ConfigError unless there are names, each once: two categories of one name could not be told apart."""
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice or not names:
        raise ConfigError(f"name what to label, each once: got {list(names)}{f'; twice: {twice}' if twice else ''}")
    if any(map(is_unwritable, names)):
        raise ConfigError(f"labels cannot hold control characters or bytes that are not UTF-8, got {list(names)}")


def survey(list_them: Callable[[], Iterable[Picture]], source: str) -> Survey:
    """Count the pictures of a source; 16 bytes of memory for each.

    Args:
        list_them: Lists them from the start.
        source: What errors call it.

    Raises:
        DataError: There are none, or two have one name: their labels could not be told apart.
    """
    whole, names, stems = hashlib.sha256(), array("Q"), array("Q")
    for picture in list_them():
        whole.update(name_line(picture.id, picture.name))
        names.append(_short_digest(picture.name))
        stems.append(_short_digest(str(PurePosixPath(picture.name).with_suffix(""))))
    if not names:
        raise DataError(f"{source} holds no image")
    same_name, same_stem = (
        place if place is None else next(islice(list_them(), place, None)).name
        for place in map(_first_repeated, (names, stems))
    )
    if same_name is not None:
        raise DataError(f"{source} names {same_name!r} twice; each picture is labelled once")
    return Survey(len(names), whole.hexdigest(), same_stem)


def name_line(number: int | None, name: str) -> bytes:
    """Return what a picture adds to the digest of a survey."""
    return f"{number} {name}\n".encode()


def open_job(folder: Path, job: Job) -> None:
    """Start a job in a folder, or go on with it.

    Raises:
        ConfigError: The folder holds another job, of which the message says what differs, or other files.
        DataError: The record of the job cannot be read.
    """
    if folder.exists() and not (folder / _JOB).exists():
        # Other tasks of the array may be starting, too.
        others = [path.name for path in folder.iterdir() if path.name != _PARTS and not path.name.startswith(".")]
        if others and others != [_JOB]:
            raise ConfigError(f"{folder} holds other files, such as {sorted(others)[0]!r}; name a folder of its own")
    (folder / _PARTS).mkdir(parents=True, exist_ok=True)
    if not (folder / _JOB).exists():
        _write_once(folder / _JOB, json.dumps({"version": _VERSION, **asdict(job)}, indent=1) + "\n")
    complaint = f"{folder} holds the labels of another job"
    remedy = "Go on as that one was started, or name another folder with --out"
    recorded = asdict(read_job(folder)), asdict(job)
    require_equal(*map(_compared, recorded), complaint, remedy=remedy, error=ConfigError)


def read_job(folder: Path) -> Job:
    """Return the job whose parts a folder holds.

    Raises:
        DataError: It holds none, or one of another version.
    """
    path = folder / _JOB
    if not path.is_file():
        raise DataError(f"{folder} holds no {_JOB}: name a folder that `lumen label --out` wrote")
    with named_faults(f"{path} cannot be read", DataError, remedy="label into another folder"):
        content = json.loads(path.read_text(encoding="utf-8"))
        if content.pop("version") != _VERSION:
            raise DataError(f"{path} is of another version of Lumen; label into another folder")
        pictures = Survey(**content.pop("pictures"))
        _check_kinds(pictures, num_pictures=int, digest=str, same_stem=(str, NoneType))
        job = Job(**{**content, "pictures": pictures, "names": tuple(content["names"])})
        _check_kinds(job, source=str, task=str, threshold=(float, int, NoneType), model=dict, has_masks=bool)
        _check_kinds(job, part_size=int)
        if job.part_size < 1 or pictures.num_pictures < 0 or not all(isinstance(name, str) for name in job.names):
            raise DataError(f"{path} is damaged: its names or sizes are not those of a job; label into another folder")
        return job


def _check_kinds(given: Any, **kinds: Any) -> None:
    wrong = [name for name, kind in kinds.items() if not isinstance(getattr(given, name), kind)]
    if wrong:
        raise TypeError(f"{wrong} are of another kind")


def hold_part_of_job(folder: Path, number: int, of: int) -> AbstractContextManager[None]:
    """Hold one task of an array, so that no two processes answer the same pictures; see ``held_file``."""
    remedy = "Wait for it, end it, or name another --part or --out"
    complaint = f"another process labels part {number}/{of} into {folder}"
    return held_file(folder / f".label-{number}-of-{of}.lock", complaint=complaint, remedy=remedy)


def hold_merge(folder: Path) -> AbstractContextManager[None]:
    """Hold the files that parts become, so that no two processes write them; see ``held_file``."""
    complaint = f"another process writes the files of {folder}"
    return held_file(folder / ".label-merge.lock", complaint=complaint, remedy="Wait for it, or end it")


def part_path(folder: Path, number: int) -> Path:
    """Return where a part lies once it is done."""
    return folder / _PARTS / f"{number:06d}.jsonl"


def write_part(folder: Path, number: int, records: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """Write the answers to the pictures of a part, in their order, and return its counts."""
    counts = {
        "pictures": len(records),
        "faulty": sum("fault" in record for record in records),
        "objects": sum(len(record.get("labels", ())) for record in records),
    }
    with atomic_file(part_path(folder, number)) as file:
        for line in (counts, *records):
            file.write(json.dumps(line).encode("ascii") + b"\n")
    return counts


def read_counts(folder: Path, number: int) -> dict[str, int]:
    """Return the counts of a part that is done.

    Raises:
        DataError: The part is damaged.
    """
    with _open_part(folder, number) as file:
        counts = json.loads(file.readline())
        return {name: int(counts[name]) for name in ("pictures", "faulty", "objects")}


def read_part(folder: Path, number: int, job: Job) -> Iterator[dict[str, Any]]:
    """Yield the answers of a part that is done, in the order of the pictures.

    Raises:
        DataError: The part is damaged, or does not hold as many answers as a part of the job.
    """
    with _open_part(folder, number) as file:
        next(file)
        expected, num_answers = job.num_pictures_of((number + 1, job.num_parts)), 0
        for record in map(json.loads, file):
            _check_record(record, len(job.names))
            num_answers += 1
            yield record
        if num_answers != expected:
            raise ValueError(f"{num_answers} answers, expected {expected}")


@contextmanager
def _open_part(folder: Path, number: int) -> Iterator[TextIO]:
    path = part_path(folder, number)
    with named_faults(f"{path} cannot be read", DataError, remedy=_LABEL_AGAIN), open_file(path) as file:
        yield file


def _check_record(record: Any, num_names: int) -> None:
    """Raise ValueError where an answer is not what ``write_part`` was given."""
    if not isinstance(record, dict) or not isinstance(record.get("file"), str):
        raise ValueError("an answer names no file")
    if type(record.get("id", 0)) is not int or not isinstance(record.get("fault", ""), str):
        raise ValueError(f"id or fault of {record['file']!r} is of another kind")
    if "fault" in record:
        return
    labels, scores, boxes, masks = (record.get(key, []) for key in ("labels", "scores", "bboxes", "masks"))
    is_sound = all(type(record.get(key)) is int and record[key] > 0 for key in ("height", "width"))
    is_sound &= all(type(label) is int and 0 <= label < num_names for label in labels)
    is_sound &= all(type(value) in (int, float) for value in scores) and len(scores) == len(labels)
    is_sound &= ("bboxes" in record or "masks" in record) and {len(boxes), len(masks)} <= {0, len(labels)}
    is_sound &= all(len(box) == 4 and all(type(value) in (int, float) for value in box) for box in boxes)
    if not is_sound or not all(isinstance(counts, str) for counts in masks):
        raise ValueError(f"the answer to {record['file']!r} is incomplete")


def _write_once(path: Path, text: str) -> None:
    """Write a file unless another process is first: tasks of an array start at the same time."""
    mine = path.with_name(f"{TEMPORARY}{path.name}-{socket.gethostname()}-{os.getpid()}")
    write_text(mine, text)
    try:
        os.link(mine, path)  # fails where the name exists, in one step
    except FileExistsError:
        pass
    finally:
        mine.unlink()


def _compared(job: Mapping[str, Any]) -> dict[str, Any]:
    """Return what must be equal, one level deep; files may have moved."""
    pictures = {f"pictures.{key}": value for key, value in job["pictures"].items()}
    model = {key: value for key, value in job["model"].items() if key not in _PLACES}
    rest = {key: value for key, value in job.items() if key not in ("source", "pictures", "model")}
    return {**rest, **pictures, **model}


def _short_digest(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


def _first_repeated(digests: array) -> int | None:
    """Return the position of the first number that was there before."""
    numbers = np.frombuffer(digests, dtype=np.uint64)
    order = np.argsort(numbers, kind="stable")
    again = order[1:][numbers[order[1:]] == numbers[order[:-1]]]
    return int(again.min()) if len(again) else None

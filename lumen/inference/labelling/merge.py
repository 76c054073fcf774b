"""The last step of a labelling job: all parts become files of the wanted formats."""

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

from lumen.errors import DataError
from lumen.inference.labelling.formats import FORMATS, check_formats
from lumen.inference.labelling.job import Job, hold_merge, name_line, part_path, read_job, read_part
from lumen.serialization.atomic import atomic_file, write_text

SUMMARY, FAULTS = "summary.json", "faults.txt"


def merge_parts(folder: Path, formats: Sequence[str]) -> dict[str, Any]:
    """Write the files of a job whose parts are all done; it may be done again, with other formats.

    What the parts hold is compared with the pictures of the job first. ``faults.txt`` lists the pictures that could not
    be read, with reasons. ``summary.json`` comes last, so that where it is, all files are whole.

    Returns:
        The content of ``summary.json``: ``pictures``, ``faulty``, ``objects`` by name, and ``formats``.

    Raises:
        ConfigError: A format is unknown, or cannot hold these labels, or another process writes the files.
        DataError: The folder holds no job, or parts are missing, damaged or those of other pictures; the message
            names them.
    """
    job = read_job(folder)
    check_formats(formats, job)
    _require_all(folder, job)
    records = partial(_records, folder, job)
    with hold_merge(folder):
        (folder / SUMMARY).unlink(missing_ok=True)
        summary = _write_faults(folder, job, records) | {"formats": list(formats)}
        for name in dict.fromkeys(formats):
            FORMATS[name](folder, job, records)
        write_text(folder / SUMMARY, json.dumps(summary, indent=1) + "\n")
    return summary


def _write_faults(folder: Path, job: Job, records: Callable[[], Iterator[dict[str, Any]]]) -> dict[str, Any]:
    """List the pictures that could not be read, and return the counts of the summary."""
    pictures, faulty, objects, names = 0, 0, Counter(dict.fromkeys(job.names, 0)), hashlib.sha256()
    with atomic_file(folder / FAULTS) as file:
        for record in records():
            pictures += 1
            names.update(name_line(record.get("id"), record["file"]))
            objects.update(job.names[label] for label in record.get("labels", ()))
            if "fault" in record:
                faulty += 1
                file.write(f"{record['file']}\t{' '.join(record['fault'].split())}\n".encode())
        if names.hexdigest() != job.pictures.digest:
            raise DataError(
                f"the parts in {folder} are not those of the pictures that it was started with: parts were exchanged, "
                f"or the source changed meanwhile. Remove {folder}, and label again"
            )
    return {"pictures": pictures, "faulty": faulty, "objects": dict(objects)}


def _records(folder: Path, job: Job) -> Iterator[dict[str, Any]]:
    for number in range(job.num_parts):
        yield from read_part(folder, number, job)


def _require_all(folder: Path, job: Job) -> None:
    # Not all of them are listed: a damaged job may name any number.
    absent = (number for number in range(job.num_parts) if not part_path(folder, number).exists())
    missing = list(islice(absent, 11))
    if missing:
        shown = ", ".join(map(str, missing[:10])) + (", ..." if len(missing) > 10 else "")
        present = sum(1 for _ in part_path(folder, 0).parent.glob("*.jsonl"))
        raise DataError(
            f"{job.num_parts - present} of {job.num_parts} parts in {folder} are missing ({shown}): run each task of "
            "the array again, what is done is passed over, and merge then"
        )

"""The results file: one json line per measurement, added whole or not at all."""

import fcntl
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lumen.errors import DataError


class Results:
    """The measurements so far, kept in a file of json lines.

    A line is complete with its line feed. A last line without one was torn when a process was killed: it is left out,
    which is printed, and the next line takes its place.

    Args:
        path: The file; it may be missing.

    Raises:
        DataError: A complete line is not a json object.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows: list[dict[str, Any]] = []
        lines = path.read_bytes().split(b"\n") if path.exists() else [b""]
        for number, line in enumerate(lines[:-1], 1):
            self.rows.append(_row(line, f"{path}, line {number}"))
        if lines[-1]:
            print(f"{path}: the last line is torn and is left out: {lines[-1][:60]!r}", flush=True)

    def find(self, **wanted: Any) -> list[dict[str, Any]]:
        """Return the measurements with all that is ``wanted``, the oldest first."""
        return [row for row in self.rows if all(row.get(name) == value for name, value in wanted.items())]

    def add(self, row: Mapping[str, Any]) -> None:
        """Add a measurement: one write, synced to the disk, while no other process adds one."""
        line = json.dumps(row) + "\n"
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a+b") as file:
            fcntl.lockf(file, fcntl.LOCK_EX)
            # What a killed process left of its line goes away.
            file.seek(0)
            file.truncate(file.read().rfind(b"\n") + 1)
            file.write(line.encode())
            file.flush()
            os.fsync(file.fileno())
        self.rows.append(json.loads(line))


def _row(line: bytes, place: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise DataError(f"{place} is not json ({error}): remove that line, its measurement is then repeated") from error
    if not isinstance(row, dict):
        raise DataError(f"{place} holds {type(row).__name__}, expected an object: remove that line")
    return row

"""Files made to run code, fill the memory or never end: each is refused or read, in bounded time and memory."""

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from experiments.results import Results
from lumen.errors import LumenError
from soaking._bounded import run_bounded
from soaking._machine import provenance

MEGABYTES, CPU_SECONDS, WALL_SECONDS = 768, 20, 120.0
CANARY = "canary"
"""Name of the file, in the folder of a hostile file, that its code would make if it ran."""


@dataclass(frozen=True, slots=True)
class Hostile:
    """A hostile file.

    Args:
        name: Its name in results.
        build: Writes it into a folder and returns its path.
        read: What a user would read it with.
    """

    name: str
    build: Callable[[Path], Path]
    read: Callable[[Path], Any]


def soak_hostile(results: Results, files: list[Hostile]) -> None:
    """Read all of them; every call does so anew."""
    for file in files:
        row = try_file(file)
        results.add({"what": "hostile", "file": file.name, **row, **provenance()})
        print(f"{file.name}: {row['outcome']}, {row['peak_megabytes']} MB", flush=True)


def try_file(file: Hostile) -> dict[str, Any]:
    """Read a file in a process of its own and return what came of it; ``is_fault`` where that must not be."""
    with tempfile.TemporaryDirectory() as folder:
        path = file.build(Path(folder))
        limits = {"megabytes": MEGABYTES, "cpu_seconds": CPU_SECONDS, "wall_seconds": WALL_SECONDS}
        outcome = run_bounded(lambda: _read(file, path), **limits)
        has_run = (Path(folder) / CANARY).exists()
    text = outcome.death or outcome.result
    is_fault = has_run or not text.startswith(("read", "refused"))
    return {
        "outcome": f"CODE RAN; {text}" if has_run else text,
        "is_fault": is_fault,
        "peak_megabytes": outcome.peak,
    }


def _read(file: Hostile, path: Path) -> str:
    try:
        file.read(path)
    except LumenError as error:
        return f"refused by {type(error).__name__}"
    except Exception as error:  # what is looked for
        return f"raw {type(error).__name__}: {str(error)[:200]}"
    return "read"

"""The work folder of a training run: one training at a time, and which evaluation was finished last."""

from contextlib import AbstractContextManager
from pathlib import Path

from lumen.serialization.atomic import write_text
from lumen.serialization.lock import held_file

LOCK = "train.lock"
_EVALUATED = "last_evaluation"


def held(folder: Path) -> AbstractContextManager[None]:
    """Hold a work folder, which exists, while a training writes into it; see ``held_file``.

    Raises:
        ConfigError: Another process holds it; the message names it.
    """
    remedy = "Wait for it, end it, or give this one another --work-dir"
    return held_file(folder / LOCK, complaint=f"another training writes into {folder}", remedy=remedy)


def note_evaluation(folder: Path, num_iters: int | None) -> None:
    """Note after how many iterations the last evaluation was finished; None for no evaluation yet."""
    if num_iters is None:
        (folder / _EVALUATED).unlink(missing_ok=True)
    else:
        write_text(folder / _EVALUATED, f"{num_iters}\n")


def was_evaluated(folder: Path, num_iters: int) -> bool:
    """Return whether the evaluation after so many iterations was finished."""
    note = folder / _EVALUATED
    return note.is_file() and note.read_text(encoding="utf-8", errors="replace").strip() == str(num_iters)

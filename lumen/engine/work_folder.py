"""The work folder of a training run: one training at a time, and which evaluation was finished last."""

import fcntl
import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mmengine.logging import print_log

from lumen.errors import ConfigError
from lumen.serialization.atomic import write_text

LOCK = "train.lock"
_EVALUATED = "last_evaluation"


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """Hold a work folder while a training writes into it.

    The lock is one of the operating system, which takes it back when the process ends in whatever way; what a killed
    run leaves in the file does not matter. It holds against other processes, on other hosts where the file system
    knows locks of hosts.

    Args:
        folder: The folder, which exists.

    Raises:
        ConfigError: Another process holds it; the message names it.
    """
    with (folder / LOCK).open("a+") as file:
        try:
            # By record, not `flock`: workers that outlive a killed run by seconds would go on holding that one.
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError) as error:
            file.seek(0)
            raise ConfigError(
                f"another training writes into {folder}: {_holder(file.read())}. Wait for it, end it, or give this one "
                "another --work-dir"
            ) from error
        except OSError as error:
            print_log(f"{folder} is not locked against other trainings: {error}", logger="current", level=30)
        file.truncate(0)
        file.write(json.dumps({"pid": os.getpid(), "host": socket.gethostname()}))
        file.flush()
        yield
        file.truncate(0)


def _holder(text: str) -> str:
    try:
        holder = json.loads(text)
        return f"process {holder['pid']} on {holder['host']}"
    except (ValueError, KeyError, TypeError):  # it has just started
        return "a process that did not write its number yet"


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

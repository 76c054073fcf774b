"""A file that one process holds at a time."""

import fcntl
import json
import os
import socket
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lumen.errors import ConfigError


@contextmanager
def held_file(path: Path, *, complaint: str, remedy: str) -> Iterator[None]:
    """Hold a file while the block runs.

    The lock is one of the operating system, which takes it back when the process ends in whatever way; what a killed
    process leaves in the file does not matter. It holds against other processes, on other hosts where the file system
    knows locks of hosts.

    Args:
        path: The file; made if missing, in a folder that exists.
        complaint: What is wrong where another process holds it: the start of the message.
        remedy: What the user can do then: the end of the message.

    Raises:
        ConfigError: Another process holds it; the message names that process.
    """
    with path.open("a+") as file:
        try:
            # By record, not `flock`: workers that outlive a killed run by seconds would go on holding that one.
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError) as error:
            file.seek(0)
            raise ConfigError(f"{complaint}: {_holder(file.read())}. {remedy}") from error
        except OSError as error:
            warnings.warn(f"{path} cannot be locked against other processes: {error}", stacklevel=3)
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

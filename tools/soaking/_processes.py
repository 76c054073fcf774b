"""Trainings in forked processes, each with its loader workers in a process group, and ways to kill them."""

import ctypes
import os
import random
import signal
import time
import traceback
from collections.abc import Callable
from pathlib import Path

_SUBREAPER = 36  # PR_SET_CHILD_SUBREAPER of linux/prctl.h


def adopt_orphans() -> None:
    """Make this process the parent of what its children leave behind, so that no dead process stays in the table."""
    ctypes.CDLL(None, use_errno=True).prctl(_SUBREAPER, 1, 0, 0, 0)


def start(work: Callable[[], None], errors: Path) -> int:
    """Run ``work`` in a forked process, a group of its own; what it prints and how it fails goes to a file."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            os.setpgid(0, 0)
            descriptor = os.open(errors, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(descriptor, 1)
            os.dup2(descriptor, 2)
            work()
            code = 0
        except BaseException:
            errors.write_text(traceback.format_exc())
            raise
        finally:
            os._exit(code)
    return child


def has_ended(child: int) -> bool:
    """Return whether a process has ended; it stays to be waited for."""
    return os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def wait(child: int, seconds: float) -> int | None:
    """Wait for a process and return its exit code, negative for a signal; None where it is still running."""
    deadline = time.monotonic() + seconds
    while not has_ended(child):
        if time.monotonic() > deadline:
            return None
        time.sleep(0.002)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def kill(children: list[int], rng: random.Random) -> None:
    """Kill -9 the ranks of a training, in any order and up to 50 ms apart, and half of the times their workers too.

    Workers that are left alone go on for seconds, while the next training starts.
    """
    with_workers = rng.random() < 0.5
    for place, child in enumerate(rng.sample(children, len(children))):
        if place:
            time.sleep(rng.uniform(0.0, 0.05))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        if with_workers:
            end_group(child)


def end_group(group: int) -> None:
    """Kill what is left of a process group, and wait for it."""
    try:
        os.killpg(group, signal.SIGKILL)
    except ProcessLookupError:
        return
    while True:
        try:
            os.waitpid(-group, 0)
        except ChildProcessError:
            return

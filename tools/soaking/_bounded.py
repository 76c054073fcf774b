"""Work in a forked process with bounds on memory and time: what it kills, or what kills it, ends that process alone."""

import json
import os
import resource
import select
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MEGABYTE = 2**20


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of the work: its result, or how its process ended without one.

    Args:
        result: What it returned, as json holds it; None where it did not return.
        death: Why there is no result; None where there is one.
        peak: Megabytes of memory that it took beyond those of its parent.
    """

    result: Any
    death: str | None
    peak: int = 0


def run_bounded(work: Callable[[], Any], *, megabytes: int, cpu_seconds: int, wall_seconds: float) -> Outcome:
    """Run ``work`` in a forked process.

    Args:
        work: Returns what json can hold.
        megabytes: How much memory it may take beyond what this process has.
        cpu_seconds: Processor time that it may take; it is ended afterwards.
        wall_seconds: How long to wait for it: a process that waits for a pipe takes no processor time.
    """
    before = used_megabytes("VmSize"), used_megabytes("VmRSS")
    reading, writing = os.pipe()
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        os.close(reading)
        _work_here(work, writing, limit=before[0] + megabytes, cpu_seconds=cpu_seconds)
    os.close(writing)
    content, is_late = _read_all(reading, time.monotonic() + wall_seconds)
    if is_late:
        os.kill(child, signal.SIGKILL)
    status = os.waitpid(child, 0)[1]
    if is_late:
        return Outcome(None, f"no answer in {wall_seconds:g} s")
    if os.WIFSIGNALED(status):
        return Outcome(None, f"ended by {signal.Signals(os.WTERMSIG(status)).name}")
    if os.WEXITSTATUS(status):
        return Outcome(None, f"ended with code {os.WEXITSTATUS(status)}")
    answer = json.loads(content)
    return Outcome(answer["result"], None, max(0, answer["peak"] - before[1]))


def used_megabytes(name: str) -> int:
    """Return a figure of this process in /proc/self/status, in megabytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) // 1024
    raise KeyError(name)


def _work_here(work: Callable[[], Any], writing: int, *, limit: int, cpu_seconds: int) -> None:
    """Work and end this process, which must not go on as its parent."""
    code = 70
    try:
        resource.setrlimit(resource.RLIMIT_AS, (limit * MEGABYTE, limit * MEGABYTE))
        resource.setrlimit(resource.RLIMIT_CPU, (cpu_seconds, cpu_seconds + 1))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        answer = {"result": work(), "peak": used_megabytes("VmHWM")}
        with os.fdopen(writing, "w") as pipe:
            json.dump(answer, pipe)
        code = 0
    finally:
        os._exit(code)


def _read_all(reading: int, deadline: float) -> tuple[bytes, bool]:
    """Return what comes through a pipe until it is closed, and whether that took too long."""
    parts = []
    with os.fdopen(reading, "rb", buffering=0) as pipe:
        while True:
            if not select.select([pipe], [], [], max(0.0, deadline - time.monotonic()))[0]:
                return b"".join(parts), True
            part = pipe.read(65536)
            if not part:
                return b"".join(parts), False
            parts.append(part)

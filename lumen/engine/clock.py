"""CPU time of a process with everything it started."""

import os
import resource
from pathlib import Path

_PROC = Path("/proc")


def process_tree_seconds() -> float:
    """Return user plus system CPU time of this process, its dead children, and its living ones (loader workers).

    Living children are read from ``/proc``; where there is none, they count once they have ended.
    """
    own = sum(
        usage.ru_utime + usage.ru_stime
        for usage in map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    )
    return own + _living_children_seconds(os.getpid())


def _living_children_seconds(pid: int) -> float:
    processes = {int(path.parent.name): fields for path in _PROC.glob("[0-9]*/stat") if (fields := _stat(path))}
    family = {pid}
    while new := {child for child, (parent, _) in processes.items() if parent in family} - family:
        family |= new
    ticks = sum(processes[child][1] for child in family - {pid})
    return ticks / os.sysconf("SC_CLK_TCK")


def _stat(path: Path) -> tuple[int, int] | None:
    """Return (parent, clock ticks with those of dead children), or None when the process has just ended.

    Source: proc(5). Fields are counted behind the name, which may hold blanks and brackets.
    """
    try:
        fields = path.read_text(errors="replace").rpartition(")")[2].split()
    except OSError:
        return None
    return int(fields[1]), sum(map(int, fields[11:15]))

"""How a process that trains ends when it is asked to. Imports nothing heavy: it is wanted before all that is."""

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

EXIT_AGAIN = os.EX_TEMPFAIL
"""75, "temporary failure; try again later" of sysexits.h. 128 + 15 would not tell a saved run from a killed one."""


class _Request:
    """Whether SIGTERM came."""

    came = False


@contextmanager
def ending_on_sigterm() -> Iterator[None]:
    """Let SIGTERM end the process with ``EXIT_AGAIN``, also while a training starts and nothing is to be saved.

    While the process is ending further SIGTERM are ignored: they would change the exit code. Python drops an exit that
    falls into ``__del__`` of an object; the training then stops at its first step, see ``end_is_requested``.
    """
    _Request.came = False
    before = signal.signal(signal.SIGTERM, _end)
    try:
        yield
    except SystemExit:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        raise
    else:
        signal.signal(signal.SIGTERM, before)
    finally:
        _Request.came = False


def end_is_requested() -> bool:
    """Return whether SIGTERM came since ``ending_on_sigterm`` began, and the process is still there."""
    return _Request.came


def _end(number: int, frame: FrameType | None) -> None:
    _Request.came = True
    sys.exit(EXIT_AGAIN)

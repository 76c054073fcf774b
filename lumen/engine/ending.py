"""How a process that trains ends when it is asked to. Imports nothing heavy: it is wanted before all that is."""

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager

EXIT_AGAIN = os.EX_TEMPFAIL
"""75, "temporary failure; try again later" of sysexits.h. 128 + 15 would not tell a saved run from a killed one."""


@contextmanager
def ending_on_sigterm() -> Iterator[None]:
    """Let SIGTERM end the process with ``EXIT_AGAIN``, also while a training starts and nothing is to be saved.

    While the process is ending further SIGTERM are ignored: they would change the exit code.
    """
    before = signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(EXIT_AGAIN))
    try:
        yield
    except SystemExit:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        raise
    else:
        signal.signal(signal.SIGTERM, before)

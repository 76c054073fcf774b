"""Ending a training from outside: SIGTERM saves and exits so that a scheduler starts it again."""

import signal
import threading
from types import FrameType, TracebackType
from typing import Any

import torch
from mmengine.dataset import worker_init_fn
from mmengine.dist import all_reduce, get_world_size

from lumen.engine.ending import end_is_requested


class StopRequested(Exception):  # noqa: N818 - not an error
    """Leaves the loops of a training so that it can be saved."""


class StopSignal:
    """Notes SIGTERM while the block runs; what was set for it before is put back afterwards.

    Python runs signal handlers in the main thread only; in another one nothing is noted.
    """

    def __init__(self) -> None:
        self.is_requested = False
        self._before: Any = None

    def __enter__(self) -> "StopSignal":
        self.is_requested = end_is_requested()  # by a SIGTERM before the block, whose exit was dropped
        if threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGTERM, self._note)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, self._before or signal.SIG_DFL)

    def leave_if_requested(self, *, with_ranks: bool = True) -> None:
        """Raise ``StopRequested`` where the signal came.

        Args:
            with_ranks: Leave on all ranks where it came on one, since all must save together. All call it then; else
                nothing happens on several ranks.
        """
        is_requested = self.is_requested
        if get_world_size() > 1:
            if not with_ranks:
                return
            flag = torch.tensor(int(is_requested))
            all_reduce(flag, "max")
            is_requested = bool(flag)
        if is_requested:
            raise StopRequested

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.is_requested = True


def start_worker(worker_id: int, **settings: int) -> None:
    """Start a loader worker that leaves signals to the main process.

    A scheduler sends SIGTERM, and a terminal SIGINT, to all processes. A worker that died of it would stop the main
    process amid a step. Workers end when the main process does.

    Args:
        worker_id: Number of the worker.
        **settings: ``num_workers``, ``rank`` and ``seed``, as MMEngine's ``worker_init_fn`` takes them.
    """
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    worker_init_fn(worker_id, **settings)

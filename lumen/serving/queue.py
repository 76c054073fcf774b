"""Questions that wait for the model, and the one thread that owns it."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

from lumen.serving.asking import Answer, Job
from lumen.serving.limits import BusyError, Limits

Compute = Callable[[Sequence[Job]], list[Answer]]


class JobQueue:
    """Takes questions in order, and asks those that wait together.

    There is no waiting for more questions: while some are computed, the next ones gather. Where computing several
    fails, each is computed alone, so that an error reaches the question that caused it. All methods belong to one
    event loop.

    Args:
        compute: Answers some jobs; called in one thread of its own.
        limits: Bounds of queue and batch.
        note_batch: Called with the number of jobs of each batch.
    """

    def __init__(self, compute: Compute, limits: Limits, *, note_batch: Callable[[int], None]) -> None:
        self._compute = compute
        self._limits = limits
        self._note_batch = note_batch
        self._waiting: deque[tuple[Job, asyncio.Future[Answer]]] = deque()
        self._wakes = asyncio.Event()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="model")
        self._is_open = True

    def __len__(self) -> int:
        return len(self._waiting)

    @property
    def num_bytes(self) -> int:
        """Memory of the images that wait."""
        return sum(job.num_bytes for job, _ in self._waiting)

    def ask(self, job: Job) -> "asyncio.Future[Answer]":
        """Return the answer to come. Cancelled, it is not computed, unless that has begun.

        Raises:
            BusyError: Too many questions or bytes wait, or the queue is closed.
        """
        if not self._is_open:
            raise BusyError("the server stops; send the question again when it is back")
        # Those whose client is gone do not count.
        self._waiting = deque(each for each in self._waiting if not each[1].done())
        limits, num_bytes = self._limits, self.num_bytes + job.num_bytes
        if len(self._waiting) >= limits.queue or (self._waiting and num_bytes > limits.queue_bytes):
            raise BusyError(
                f"{len(self._waiting)} questions wait already, with {num_bytes} bytes of images; the limits are "
                f"{limits.queue} and {limits.queue_bytes}: send the question again in a moment"
            )
        answer: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._waiting.append((job, answer))
        self._wakes.set()
        return answer

    async def run(self) -> None:
        """Answer questions until ``close`` was called and none waits."""
        while self._is_open or self._waiting:
            batch = [self._waiting.popleft() for _ in range(min(len(self._waiting), self._limits.batch))]
            batch = [(job, answer) for job, answer in batch if not answer.done()]
            if batch:
                await self._answer(batch)
            elif not self._waiting and self._is_open:
                self._wakes.clear()
                await self._wakes.wait()
        self._thread.shutdown()

    def close(self) -> None:
        """Refuse further questions; ``run`` ends when those that wait are answered."""
        self._is_open = False
        self._wakes.set()

    async def _answer(self, batch: Sequence[tuple[Job, "asyncio.Future[Answer]"]]) -> None:
        self._note_batch(len(batch))
        outcome = (await asyncio.gather(self._in_thread([job for job, _ in batch]), return_exceptions=True))[0]
        if isinstance(outcome, BaseException) and len(batch) > 1:
            for one in batch:
                await self._answer([one])
            return
        for place, (_, answer) in enumerate(batch):
            if answer.done():  # its client went away meanwhile
                continue
            if isinstance(outcome, BaseException):
                answer.set_exception(outcome)
            else:
                answer.set_result(outcome[place])

    def _in_thread(self, jobs: Sequence[Job]) -> Awaitable[list[Answer]]:
        return asyncio.get_running_loop().run_in_executor(self._thread, self._compute, jobs)

"""Label the pictures of a job: read ahead in threads, answered in batches, written part by part."""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import groupby, islice
from pathlib import Path
from typing import Any, TypeVar

from mmengine.structures import InstanceData

from lumen.errors import ConfigError, DataError
from lumen.inference.compute import require_batch
from lumen.inference.labelling.job import Job, part_path, read_counts, write_part
from lumen.inference.labelling.pictures import Picture
from lumen.inference.predictor import DrawnImage, LumenPredictor
from lumen.inference.pretrained import fingerprint
from lumen.inference.questions import require_task, require_threshold
from lumen.interop.mmdet.detector import DetectorImage, MMDetDetector
from lumen.serialization.fingerprint import digest_tensors

Item, Result = TypeVar("Item"), TypeVar("Result")
Advance = Callable[[int, bool], None]
"""Called with a number of pictures, and whether they were labelled by an earlier run."""

_MOST_AT_ONCE = 100_000
_DIGITS = {"bboxes": 3, "scores": 5}


@dataclass(frozen=True, slots=True)
class Effort:
    """How a job is computed; the labels do not depend on it, except for rounding in batches of another size.

    Args:
        batch_size: Pictures that are computed at once.
        workers: Threads that read and resample pictures ahead of the model.
        skip_budget: Share of all pictures that may be unreadable; one always may.
    """

    batch_size: int = 32
    workers: int = field(default_factory=lambda: min(8, os.cpu_count() or 1))
    skip_budget: float = 0.01

    def __post_init__(self) -> None:
        require_batch(self.batch_size)
        if max(self.workers, self.batch_size) > _MOST_AT_ONCE:
            raise ConfigError(
                f"workers and batch_size are bounded by {_MOST_AT_ONCE}, got {self.workers} and {self.batch_size}"
            )
        if self.workers < 1 or not 0 <= self.skip_budget <= 1:
            raise ConfigError(
                f"workers must be at least 1 and skip_budget a share from 0 to 1, got {self.workers} and "
                f"{self.skip_budget}"
            )


AnyDrawn = DrawnImage | DetectorImage
Labeller = LumenPredictor | MMDetDetector
"""What answers: a model of Lumen, or a detector that knows its own classes."""


def describe_predictor(predictor: Labeller, task: str) -> dict[str, str]:
    """Return what must stay the same from the first part of a job to the last: the weights and what is known of them.

    Raises:
        PromptError: The model has no decoder for the task.
        ConfigError: The task finds neither boxes nor masks.
    """
    if isinstance(predictor, MMDetDetector):
        return predictor.describe(task)
    require_task(predictor.model, task)
    found = predictor.model.decoders[task].spec.predictions
    if "prompt_index" not in found or not {"bboxes", "masks"} & found:
        raise ConfigError(f"labels are boxes and masks, which task {task!r} does not give; ask with lumen predict")
    return {
        **{key: str(value) for key, value in predictor.description.items()},
        "dtype": str(predictor.dtype),
        **fingerprint(predictor.model),
        "decoder_digest": digest_tensors(predictor.model.decoders[task].state_dict()),
    }


def gives_masks(predictor: Labeller, task: str) -> bool:
    """Return whether the answers to a task hold masks."""
    if isinstance(predictor, MMDetDetector):
        return task == "segmentation"
    return "masks" in predictor.model.decoders[task].spec.predictions


def label_pictures(
    predictor: Labeller,
    pictures: Iterable[Picture],
    job: Job,
    folder: Path,
    *,
    part: tuple[int, int] = (1, 1),
    effort: Effort | None = None,
    advance: Advance = lambda count, was_done: None,
) -> dict[str, int]:
    """Answer the pictures of one task of an array, all of them for part 1 of 1; parts that are done are passed over.

    Held in memory are the pictures that are read ahead and the answers of one part, whatever the number of pictures.

    Args:
        predictor: What answers.
        pictures: Those that ``job`` was made from, in the same order.
        job: What is asked; ``open_job`` has checked that ``folder`` holds it.
        folder: Where parts are written.
        part: Number from 1, and how many tasks share the job: part ``k`` of the files belongs to task ``k % of + 1``.
        effort: How it is computed.
        advance: Called as pictures are done.

    Returns:
        Counts of this task, with those of earlier runs: ``pictures``, ``faulty`` and ``objects``.

    Raises:
        DataError: More pictures than the budget allows cannot be read; what is done stays.
    """
    effort = effort or Effort()
    require_threshold(job.threshold)
    totals = Totals(job, effort.skip_budget)

    def pass_over(number: int) -> None:
        counts = read_counts(folder, number)
        advance(counts["pictures"], True)
        totals.add(counts)

    missing = missing_parts(pictures, job, folder, part, pass_over)
    with ThreadPoolExecutor(effort.workers, thread_name_prefix="read") as pool:
        ahead = read_ahead(
            missing, lambda item: draw_picture(predictor, item[1]), pool=pool, ahead=2 * effort.batch_size
        )
        for number, items in groupby(ahead, key=lambda each: each[0][0]):
            drawn = ((item[1], result) for item, result in items)
            records = answer_part(predictor, drawn, job, effort.batch_size, lambda count: advance(count, False))
            totals.add(write_part(folder, number, records))
    return totals.counts


class Totals:
    """Counts of the parts that are done, within the budget of pictures that cannot be read.

    Args:
        job: Whose parts they are.
        skip_budget: See ``Effort``.
    """

    def __init__(self, job: Job, skip_budget: float) -> None:
        self.counts = {"pictures": 0, "faulty": 0, "objects": 0}
        self._num_pictures = job.pictures.num_pictures
        self._share = skip_budget

    def add(self, counts: Mapping[str, int]) -> None:
        """Add a part.

        Raises:
            DataError: More pictures cannot be read than the budget allows.
        """
        for key in self.counts:
            self.counts[key] += counts[key]
        faulty = self.counts["faulty"]
        if faulty > max(1.0, self._share * self._num_pictures) or faulty == self._num_pictures:
            raise DataError(
                f"{faulty} of {self._num_pictures} pictures cannot be read, --skip-budget allows {self._share:.2%}; "
                "parts/ holds the reasons. What is done stays: go on with a larger budget, or label other pictures "
                "into another folder"
            )


def answer_part(
    predictor: Labeller,
    pictures: Iterable[tuple[Picture, AnyDrawn | DataError]],
    job: Job,
    batch_size: int,
    advance: Callable[[int], None] = lambda count: None,
) -> list[dict[str, Any]]:
    """Return a record per picture, in order: its place and size with ``boxes``, ``labels``, ``scores`` and ``masks``.

    Pictures of one input size are computed together, so that a source of many sizes has whole batches, too.
    """
    records: list[dict[str, Any]] = []
    waiting: dict[tuple[int, int], list[tuple[int, AnyDrawn]]] = {}
    for place, (picture, drawn) in enumerate(pictures):
        records.append({"file": picture.name} | ({} if picture.id is None else {"id": picture.id}))
        if isinstance(drawn, DataError):
            records[place]["fault"] = str(drawn)
            advance(1)
            continue
        batch = waiting.setdefault(tuple(drawn.frame.input_hw), [])
        batch.append((place, drawn))
        if len(batch) == batch_size:
            _answer(predictor, batch, job, records)
            advance(len(batch))
            batch.clear()
    for batch in filter(None, waiting.values()):
        _answer(predictor, batch, job, records)
        advance(len(batch))
    return records


def read_ahead(
    items: Iterable[Item], read: Callable[[Item], Result], *, pool: ThreadPoolExecutor, ahead: int
) -> Iterator[tuple[Item, Result]]:
    """Yield each item with what ``read`` makes of it, in order, while threads work on the next ``ahead`` items."""
    waiting: deque[tuple[Item, Future[Result]]] = deque()
    source = iter(items)
    try:
        while True:
            waiting.extend((item, pool.submit(read, item)) for item in islice(source, ahead + 1 - len(waiting)))
            if not waiting:
                return
            item, result = waiting.popleft()
            yield item, result.result()
    finally:
        for _, result in waiting:
            result.cancel()


def missing_parts(
    pictures: Iterable[Picture],
    job: Job,
    folder: Path,
    part: tuple[int, int],
    pass_over: Callable[[int], None],
) -> Iterator[tuple[int, Picture]]:
    """Yield the pictures of the parts of a task that are not done, with the numbers of their parts.

    Args:
        pictures: All of the job.
        job: The job.
        folder: Where parts are.
        part: See ``label_pictures``.
        pass_over: Called with the number of each part that is done.
    """
    numbered = ((place // job.part_size, picture) for place, picture in enumerate(pictures))
    for number, pictures in groupby(numbered, key=lambda each: each[0]):
        if number % part[1] != part[0] - 1:
            continue
        if part_path(folder, number).exists():
            pass_over(number)
        else:
            yield from pictures


def draw_picture(predictor: Labeller, picture: Picture) -> AnyDrawn | DataError:
    """Return a picture at input size, or why it cannot be read."""
    try:
        return predictor.draw(picture.read())
    except DataError as error:
        return error


def _answer(
    predictor: Labeller, batch: Sequence[tuple[int, AnyDrawn]], job: Job, records: list[dict[str, Any]]
) -> None:
    drawn = [image for _, image in batch]
    tables = predictor.predict_drawn(drawn, job.names, task=job.task, score_threshold=job.threshold)
    for (place, image), table in zip(batch, tables, strict=True):
        height, width = image.frame.ori_hw
        records[place] |= {"height": int(height), "width": int(width), **_plain(table)}


def _plain(table: InstanceData) -> dict[str, Any]:
    """Return the rows of an answer as lists: ``labels``, ``scores`` and what there is of ``bboxes`` and ``masks``."""
    answer: dict[str, Any] = {"labels": table.labels.tolist()}
    for key, digits in _DIGITS.items():
        if key in table:
            answer[key] = table[key].double().numpy().round(digits).tolist()
    if "masks" in table:
        answer["masks"] = [code["counts"] for code in table.masks]
    return answer

"""Label on several processes or machines by Ray Data. A part that a killed worker had begun is answered by another."""

import json
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from itertools import groupby
from pathlib import Path
from typing import Any

from lumen.errors import ConfigError
from lumen.inference.labelling.job import Job, read_counts, write_part
from lumen.inference.labelling.pictures import Picture
from lumen.inference.labelling.run import (
    Advance,
    Effort,
    Totals,
    answer_part,
    describe_predictor,
    draw_picture,
    missing_parts,
    read_ahead,
)
from lumen.inference.sources import Source, open_model
from lumen.serialization.fingerprint import require_equal


class PartLabeller:
    """What Ray runs in each worker: opens the model once, then answers parts and writes them to the shared folder.

    Args:
        source: Where the model comes from.
        device: See ``open_model``.
        dtype: See ``open_model``.
        job: What is asked.
        folder: Where parts are written; each worker sees it under this path.
        effort: How it is computed.

    Raises:
        ConfigError: The model on this machine is not that of the job.
    """

    def __init__(
        self, source: Source, device: str | None, dtype: str | None, *, job: Job, folder: Path, effort: Effort
    ) -> None:
        self._predictor = open_model(source, device, dtype)
        found = describe_predictor(self._predictor, job.task)
        complaint = "the model of this worker is not that of the job"
        require_equal(dict(job.model), found, complaint, remedy="Copy the model to all machines", error=ConfigError)
        self._job, self._folder, self._effort = job, folder, effort
        self._pool = ThreadPoolExecutor(effort.workers)

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Answer the one part of a batch and return its counts, in lists."""
        pictures = [_picture(fields) for fields in json.loads(batch["pictures"][0])]
        ahead = read_ahead(
            pictures,
            lambda picture: draw_picture(self._predictor, picture),
            pool=self._pool,
            ahead=2 * self._effort.batch_size,
        )
        records = answer_part(self._predictor, ahead, self._job, self._effort.batch_size)
        counts = write_part(self._folder, int(batch["number"][0]), records)
        return {key: [value] for key, value in counts.items()}


def label_on_ray(
    source: Source,
    pictures: Iterable[Picture],
    job: Job,
    folder: Path,
    *,
    num_workers: int,
    device: str | None = None,
    dtype: str | None = None,
    effort: Effort | None = None,
    advance: Advance = lambda count, was_done: None,
) -> dict[str, int]:
    """Do what ``label_pictures`` does, by ``map_batches`` over the parts that are missing.

    Uses the cluster that ``RAY_ADDRESS`` names, or this machine. Names of pictures lie in Ray's object store. A worker
    takes one CPU, and one GPU where ``device`` names one.

    Args:
        source: Where each worker takes its model from; the paths are the same on all machines.
        pictures: See ``label_pictures``.
        job: See ``label_pictures``.
        folder: See ``label_pictures``; on a file system that all machines share.
        num_workers: Processes that answer.
        device: Device of a worker, such as ``cuda``.
        dtype: See ``open_model``.
        effort: How a worker computes.
        advance: See ``label_pictures``.

    Raises:
        ConfigError: Ray is not installed.
        DataError: More pictures than the budget allows cannot be read; what is done stays.
    """
    ray = _ray()
    effort = effort or Effort()
    totals = Totals(job, effort.skip_budget)

    def pass_over(number: int) -> None:
        counts = read_counts(folder, number)
        advance(counts["pictures"], True)
        totals.add(counts)

    items = list(rows_of_parts(missing_parts(pictures, job, folder, (1, 1), pass_over)))
    if not items:
        return totals.counts
    work = {"job": job, "folder": folder.resolve(), "effort": effort}
    for counts in _answered(ray, items, (source, device, dtype), work, num_workers):
        advance(counts["pictures"], False)
        totals.add(counts)
    return totals.counts


def _answered(
    ray: Any,
    items: list[dict[str, Any]],
    model: tuple[Source, str | None, str | None],
    work: dict[str, Any],
    num_workers: int,
) -> Iterator[dict[str, int]]:
    """Yield the counts of each part, once a worker has written it."""
    if not ray.is_initialized():
        ray.init(log_to_driver=False, include_dashboard=False)
    on_gpu = (model[1] or "").startswith("cuda")
    parts = ray.data.from_items(items, override_num_blocks=len(items)).map_batches(
        PartLabeller,
        fn_constructor_args=model,
        fn_constructor_kwargs=work,
        batch_size=1,
        compute=ray.data.ActorPoolStrategy(size=num_workers),
        num_cpus=1,
        num_gpus=int(on_gpu),
        # A worker that is killed is started again, and its part is given to another.
        max_restarts=-1,
        max_task_retries=-1,
    )
    yield from parts.iter_rows()


def rows_of_parts(missing: Iterable[tuple[int, Picture]]) -> Iterator[dict[str, Any]]:
    """Yield what Ray hands to the workers: ``number`` of a part, and its ``pictures`` as json."""
    for number, group in groupby(missing, key=lambda each: each[0]):
        yield {"number": number, "pictures": json.dumps([asdict(picture) for _, picture in group])}


def _picture(fields: dict[str, Any]) -> Picture:
    place = fields.pop("place")
    return Picture(**fields, place=None if place is None else tuple(place))


def _ray() -> Any:
    try:
        import ray
        import ray.data
    except ModuleNotFoundError as error:
        raise ConfigError(f"--ray needs the package ray ({error}): pip install 'lumen-perception[ray]'") from error
    return ray

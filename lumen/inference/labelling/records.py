"""The answers of a job, picture by picture, for the functions that write files of them."""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import torch
from mmengine.structures import InstanceData

from lumen.inference.labelling.job import Job

Records = Callable[[], Iterator[dict[str, Any]]]
"""Yields the record of each picture from the start."""


def table_of(record: Mapping[str, Any], job: Job) -> InstanceData:
    """Return the answer about a picture as ``LumenPredictor.predict`` gave it, rounded."""
    table = InstanceData(scores=torch.tensor(record["scores"]), labels=torch.tensor(record["labels"], dtype=torch.long))
    if "bboxes" in record:
        table.bboxes = torch.tensor(record["bboxes"]).reshape(-1, 4)
    if "masks" in record:
        table.masks = [{"size": list(size_hw(record)), "counts": counts} for counts in record["masks"]]
    table.phrases = [job.names[label] for label in record["labels"]]
    return table


def readable(records: Records) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the pictures that could be read, with their positions from 1."""
    return ((number, record) for number, record in enumerate(records(), start=1) if "fault" not in record)


def size_hw(record: Mapping[str, Any]) -> tuple[int, int]:
    """Return height and width of a picture."""
    return record["height"], record["width"]


def write_lines(file: Any, entries: Iterable[dict[str, Any]]) -> None:
    """Write the elements of a JSON list, a line each, without holding them."""
    for place, entry in enumerate(entries):
        file.write((b",\n" if place else b"\n") + json.dumps(entry).encode())

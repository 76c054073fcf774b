"""What metrics share: checked fields of samples, tensors as arrays, shares and means of what exists."""

from collections.abc import Collection, Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from mmengine.structures import InstanceData
from torch import Tensor

from lumen.errors import DataError

NOT_MEASURED = -1.0
"""Value of a figure where nothing could be measured, as in COCO's evaluation."""


def require_fields(sample: Mapping[str, Any], table: str, fields: Collection[str]) -> Mapping[str, Any] | InstanceData:
    """Return a table of a sample, such as ``pred_instances``.

    Raises:
        DataError: The sample lacks the table, or the table one of ``fields``.
    """
    found = sample.get(table)
    if found is None or any(field not in found for field in fields):
        raise DataError(
            f"image {sample.get('img_id')}: {table} must hold {sorted(fields)}, got {sorted(found or ())}; the "
            "decoder or the data pipeline gives these fields"
        )
    return found


def require_once(ids: Sequence[Hashable], what: str) -> None:
    """Raise DataError if an id occurs twice; ``what`` names the things in the plural."""
    if len(set(ids)) < len(ids):
        raise DataError(f"{len(ids)} answers for {len(set(ids))} different {what}; answer each once")


def annotation_file(given: str | None, meta: Mapping[str, Any] | None) -> str:
    """Return the annotation file of a metric, or that of the evaluated data set.

    Args:
        given: The file that the metric was built with.
        meta: ``dataset_meta`` of the metric.

    Raises:
        DataError: Neither names one.
    """
    named = given or (meta or {}).get("ann_file")
    if not named:
        raise DataError("the metric needs ann_file, or 'ann_file' in dataset_meta, which the data set has in test mode")
    return named


def to_array(values: Any) -> np.ndarray:
    """Return values as an array; NumPy has no bfloat16, so that 16-bit floats become float32."""
    if not isinstance(values, Tensor):
        return np.asarray(values)
    values = values.detach().cpu()
    return (values.float() if values.dtype in (torch.bfloat16, torch.float16) else values).numpy()


def mean_of_measured(values: Float[np.ndarray, "..."]) -> float:
    """Return the mean without values that are ``NOT_MEASURED``; ``NOT_MEASURED`` if none is left."""
    measured = values[values > NOT_MEASURED]
    return float(measured.mean()) if measured.size else NOT_MEASURED


def share(values: Float[np.ndarray, " n"] | Bool[np.ndarray, " n"]) -> float:
    """Return the mean of values in [0, 1]; ``NOT_MEASURED`` without any."""
    return float(values.mean()) if values.size else NOT_MEASURED

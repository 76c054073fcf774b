"""Figures of counting: how far counts are from the number of annotated objects."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from mmengine.evaluator import BaseMetric
from mmengine.logging import print_log

from lumen.errors import ConfigError, DataError
from lumen.metrics.tables import NOT_MEASURED, require_fields, to_array
from lumen.registry import METRICS
from lumen.structures import NO_LABEL

_FIELDS = ("counts", "prompt_index")
_KEYS = ("labels", "truth", "counts", "is_known")


@METRICS.register_module()
class CountingMetric(BaseMetric):
    """Mean absolute error (MAE) and root mean squared error (RMSE) of counts, over all prompts that were asked.

    The true count of a prompt is its number of rows in ``gt_instances``. Prompts with crowd or ignored regions are left
    out, since their count is not known. ``MAE`` and ``RMSE`` weigh all prompts equally; absent classes are easy, so
    ``MAE_present``, ``MAE_absent``, and so on, tell prompts with and without objects apart. ``protocol`` has the
    numbers of prompts. Counts are compared as they are, not rounded.

    Args:
        baseline: A constant to compare with, or one per class, such as the mean count of the training set; gives
            ``MAE_baseline`` and ``RMSE_baseline`` over the same prompts. Free phrases need the single constant.
        classwise: Report both errors of each class as well.
        prefix: First part of the metric names.
        collect_device: ``cpu`` or ``gpu``, see MMEngine.
    """

    default_prefix = "counting"
    needs = frozenset(_FIELDS)

    def __init__(
        self,
        *,
        baseline: float | int | Mapping[str, float | int] | None = None,
        classwise: bool = True,
        prefix: str | None = None,
        collect_device: str = "cpu",
    ) -> None:
        super().__init__(collect_device=collect_device, prefix=prefix)
        self.baseline = baseline
        self.classwise = classwise
        self.protocol: dict[str, Any] = {}

    @property
    def headline(self) -> str:
        """Name of the figure that ranks models; lower is better."""
        return f"{self.prefix}/MAE"

    def process(self, data_batch: Any, data_samples: Sequence[Mapping[str, Any]]) -> None:
        """Store label, true count and predicted count of every prompt.

        Raises:
            DataError: A prompt was not answered exactly once, or a count is not finite.
        """
        self.results += [_counts_of(sample) for sample in data_samples]

    def compute_metrics(self, results: list[dict[str, np.ndarray]]) -> dict[str, float]:
        """Return the errors, in objects; -1 where no prompt counts.

        Raises:
            ConfigError: The baseline lacks a class.
        """
        table = {key: np.concatenate([np.zeros(0), *(result[key] for result in results)]) for key in _KEYS}
        is_known = table["is_known"] > 0
        labels, truth, counts = (table[key][is_known] for key in ("labels", "truth", "counts"))
        is_present = truth > 0
        figures = _errors(counts - truth)
        figures |= _errors((counts - truth)[is_present], "_present") | _errors((counts - truth)[~is_present], "_absent")
        if self.baseline is not None:
            figures |= _errors(self._constants(labels) - truth, "_baseline")
        if self.classwise:
            for label, name in enumerate(self._classes()):
                figures |= _errors((counts - truth)[labels == label], f"_{name}")
        self.protocol = {
            "prompts": len(truth),
            "present": int(is_present.sum()),
            "absent": int((~is_present).sum()),
            "left_out_ignored": int((~is_known).sum()),
            "true_objects": int(truth.sum()),
        }
        print_log(f"{self.prefix}: {self.protocol}", logger="current")
        return figures

    def _classes(self) -> Sequence[str]:
        return (self.dataset_meta or {}).get("classes", ())

    def _constants(self, labels: np.ndarray) -> np.ndarray:
        if not isinstance(self.baseline, Mapping):
            return np.full(len(labels), float(self.baseline))
        names = [self._classes()[label] if label != NO_LABEL else None for label in labels.astype(int)]
        lacking = sorted({str(name) for name in names} - set(self.baseline))
        if lacking:
            raise ConfigError(f"baseline has no constant for {lacking}; it has {sorted(self.baseline)}")
        return np.array([self.baseline[name] for name in names], dtype=float)


def _counts_of(sample: Mapping[str, Any]) -> dict[str, np.ndarray]:
    predictions = require_fields(sample, "pred_instances", _FIELDS)
    num_prompts = len(sample["prompts"])
    prompt_index, found = to_array(predictions["prompt_index"]).astype(int), to_array(predictions["counts"])
    if sorted(prompt_index.tolist()) != list(range(num_prompts)) or not np.isfinite(found).all():
        raise DataError(
            f"image {sample.get('img_id')}: {num_prompts} prompts need one finite count each, got {found.tolist()} for "
            f"prompts {prompt_index.tolist()}"
        )
    counts = np.zeros(num_prompts)
    counts[prompt_index] = found
    targets, ignored = (to_array(sample[name]["prompt_index"]) for name in ("gt_instances", "ignored_instances"))
    return {
        "labels": np.array([prompt.label for prompt in sample["prompts"]], dtype=float),
        "truth": np.bincount(targets.astype(int), minlength=num_prompts).astype(float),
        "counts": counts,
        "is_known": (np.bincount(ignored.astype(int), minlength=num_prompts) == 0).astype(float),
    }


def _errors(difference: np.ndarray, name: str = "") -> dict[str, float]:
    if not len(difference):
        return {f"MAE{name}": NOT_MEASURED, f"RMSE{name}": NOT_MEASURED}
    return {
        f"MAE{name}": float(np.abs(difference).mean()),
        f"RMSE{name}": float(np.sqrt((difference**2).mean())),
    }

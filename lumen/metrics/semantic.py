"""Mean intersection over union of classes against label maps, in original pixels."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from mmengine.evaluator import BaseMetric

from lumen.errors import DataError
from lumen.metrics.tables import NOT_MEASURED, require_fields, require_once, share, to_array
from lumen.ops.masks import decode_masks, read_label_map
from lumen.registry import METRICS

_MAX_OVERLAP = 0.01


@METRICS.register_module()
class SemanticMetric(BaseMetric):
    """Mean IoU and pixel accuracy over all images together. Reads disjoint masks with labels, one row per prompt.

    Pixels that no mask covers are wrong answers; pixels without a class in the label map do not count. A class that is
    neither annotated nor predicted anywhere is left out of the means. Where masks overlap, by rounding, the first wins.

    The truth is the label map that ``label_map_path`` of a sample names, read by the rules in ``dataset_meta``
    (``classes``, ``ignore_label``, ``reduce_zero_label``), which ``SemanticDataset`` provides.

    Args:
        classwise: Report the IoU of each class as well.
        prefix: First part of the metric names.
        collect_device: ``cpu`` or ``gpu``, see MMEngine.

    Source:
        Everingham et al., "The PASCAL VOC Challenge: a Retrospective" (2015), section 3.2 (IoU); Long et al., "Fully
        Convolutional Networks" (2015), section 5 (the accuracies).
    """

    default_prefix = "semantic"
    needs = frozenset({"masks", "labels"})

    def __init__(self, *, classwise: bool = False, prefix: str | None = None, collect_device: str = "cpu") -> None:
        super().__init__(collect_device=collect_device, prefix=prefix)
        self.classwise = classwise

    @property
    def headline(self) -> str:
        """Name of the figure that ranks models."""
        return f"{self.prefix}/mIoU"

    def process(self, data_batch: Any, data_samples: Sequence[Mapping[str, Any]]) -> None:
        """Compare some samples with their label maps.

        Args:
            data_batch: Not used.
            data_samples: Dicts with ``img_id``, ``label_map_path`` and ``pred_instances``, whose ``masks`` are
                run-length codes of the original image.

        Raises:
            DataError: A field is missing, a label names no class, or masks overlap by more than rounding.
        """
        for sample in data_samples:
            self.results.append({"img_id": sample["img_id"], "areas": self._areas(sample)})

    def compute_metrics(self, results: list[dict[str, Any]]) -> dict[str, float]:
        """Return the figures, in [0, 1]; -1 where there is nothing to measure.

        Raises:
            DataError: An image was answered twice.
        """
        require_once([result["img_id"] for result in results], "images")
        zeros = np.zeros((3, len(self._meta("classes"))), dtype=np.int64)
        common, true, found = np.sum([result["areas"] for result in results], axis=0) if results else zeros
        iou = _ratio(common, true + found - common)
        recall = _ratio(common, true)
        figures = {
            "mIoU": share(iou[~np.isnan(iou)]),
            "pixel_accuracy": float(common.sum() / true.sum()) if true.sum() else NOT_MEASURED,
            "mean_class_accuracy": share(recall[~np.isnan(recall)]),
        }
        if self.classwise:
            named = zip(self._meta("classes"), iou.tolist(), strict=True)
            figures |= {f"IoU_{name}": NOT_MEASURED if np.isnan(value) else value for name, value in named}
        return figures

    def _areas(self, sample: Mapping[str, Any]) -> np.ndarray:
        """Return pixels of each class: answered rightly, annotated, answered; shape (3, classes)."""
        truth = self._read_truth(sample)
        answer = _paint(sample, truth.shape, len(self._meta("classes")))
        is_labelled = truth >= 0
        truth, answer = truth[is_labelled], answer[is_labelled]
        chosen = (truth[truth == answer], truth, answer[answer >= 0])
        return np.stack([np.bincount(values, minlength=len(self._meta("classes"))) for values in chosen])

    def _read_truth(self, sample: Mapping[str, Any]) -> np.ndarray:
        path = sample.get("label_map_path")
        if path is None:
            raise DataError(f"image {sample['img_id']} has no label_map_path, which SemanticDataset provides")
        rules = {name: self._meta(name) for name in ("ignore_label", "reduce_zero_label")}
        truth = read_label_map(path, **rules)
        if truth.max() >= len(self._meta("classes")):
            raise DataError(f"{path} holds class number {truth.max()} of {len(self._meta('classes'))} classes")
        return truth

    def _meta(self, name: str) -> Any:
        meta = self.dataset_meta or {}
        if name not in meta:
            raise DataError(f"the metric needs {name!r} in dataset_meta, which SemanticDataset provides")
        return meta[name]


def _paint(sample: Mapping[str, Any], size_hw: tuple[int, ...], num_classes: int) -> np.ndarray:
    """Return the answered label of each pixel, -1 where there is none."""
    predictions = require_fields(sample, "pred_instances", SemanticMetric.needs)
    labels = to_array(predictions["labels"])
    if len(labels) and (labels.min() < 0 or labels.max() >= num_classes):
        raise DataError(
            f"image {sample['img_id']}: labels {labels.tolist()} do not all name one of {num_classes} classes"
        )
    painted = np.full(size_hw, -1, dtype=np.int64)
    num_overlapping = 0
    for label, code in zip(labels.tolist(), predictions["masks"], strict=True):  # one mask of a large image at a time
        mask = decode_masks([code], size_hw)[0].numpy()
        num_overlapping += int((mask & (painted >= 0)).sum())
        painted[mask & (painted < 0)] = label
    if num_overlapping > _MAX_OVERLAP * painted.size:
        raise DataError(f"image {sample['img_id']}: masks overlap in {num_overlapping} pixels; they must be disjoint")
    return painted


def _ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """Return part / whole, nan where the whole is 0."""
    return np.divide(part, whole, out=np.full(len(whole), np.nan), where=whole > 0)

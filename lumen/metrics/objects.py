"""What a tower knows of the objects of an image: attributes and boxes that are read at their tokens."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from mmengine.evaluator import BaseMetric

from lumen.errors import DataError
from lumen.metrics.tables import share, to_array
from lumen.ops.geometry import box_iou
from lumen.registry import METRICS

_RIGHT = 0.5


@METRICS.register_module()
class ObjectsMetric(BaseMetric):
    """Shares of all objects, in [0, 1]: ``accuracy_NAME`` of each attribute, ``boxes`` with an IoU of at least 0.5.

    Reads ``objects`` and ``pred_instances`` of samples, a row for each object in both, in input pixels.

    Args:
        attributes: Fields of the objects, such as ``labels``.
        prefix: First part of the metric names.
        collect_device: ``cpu`` or ``gpu``, see MMEngine.
    """

    default_prefix = "objects"

    def __init__(self, attributes: Sequence[str], *, prefix: str | None = None, collect_device: str = "cpu") -> None:
        super().__init__(collect_device=collect_device, prefix=prefix)
        self.attributes = tuple(attributes)

    def process(self, data_batch: Any, data_samples: Sequence[Mapping[str, Any]]) -> None:
        """Compare the answers for some samples with their objects."""
        for sample in data_samples:
            truth, found = sample["objects"], sample["pred_instances"]
            right = {name: to_array(found[name]) == to_array(truth[name]) for name in self.attributes}
            overlaps = box_iou(torch.as_tensor(found["bboxes"]), torch.as_tensor(truth["bboxes"]))
            self.results.append((right, to_array(overlaps.diagonal()) >= _RIGHT))

    def compute_metrics(self, results: list[tuple[dict[str, Any], Any]]) -> dict[str, float]:
        """Return the shares."""
        if not sum(len(boxes) for _, boxes in results):
            raise DataError("no object was looked at; evaluate a data set with objects")
        figures = {
            f"accuracy_{name}": share(to_array([flag for right, _ in results for flag in right[name]]))
            for name in self.attributes
        }
        return {**figures, "boxes": share(to_array([flag for _, boxes in results for flag in boxes]))}

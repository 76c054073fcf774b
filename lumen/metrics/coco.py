"""Average precision after the COCO protocol, over every image and the unfiltered ground truth of an annotation file."""

import contextlib
import importlib.util
import io
import json
import math
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from mmengine.evaluator import BaseMetric
from mmengine.logging import print_log

from lumen.errors import ConfigError, DataError
from lumen.paths import find_path
from lumen.registry import METRICS

_AREAS = {"": 0, "_s": 1, "_m": 2, "_l": 3}
_BACKENDS = ("pycocotools", "faster-coco-eval")
_FIELDS = ("bboxes", "scores", "labels")


@METRICS.register_module()
class CocoMetric(BaseMetric):
    """Box AP of COCO. Reads predictions in original pixels; a label means ``dataset_meta['cat_ids'][label]``.

    Where several prompts of an image ask for one class, predictions that are equal to the last bit count once. Crowd
    regions are handled as COCO does; COCO's evaluation knows no other ignored regions.

    If predictions carry ``peak_scores``, the AP with these scores instead of ``scores`` is reported too.

    Args:
        ann_file: COCO-format json with the ground truth; the evaluated data set's own when left out.
        backend: ``pycocotools`` is the reference, ``faster-coco-eval`` gives the same figures sooner, ``auto`` takes it
            where it is installed.
        max_dets: Number of predictions per image and class that count, best first.
        classwise: Report the AP of each class as well.
        is_partial: Evaluate on the answered images only, such as the first hundred. Such figures are no COCO figures.
        prefix: First part of the metric names.
        collect_device: ``cpu`` or ``gpu``, see MMEngine.

    Raises:
        ConfigError: The backend is unknown or not installed.
        DataError: The annotation file is broken.
    """

    default_prefix = "coco"
    needs = frozenset(_FIELDS)

    def __init__(
        self,
        *,
        ann_file: str | None = None,
        backend: str = "auto",
        max_dets: int = 100,
        classwise: bool = False,
        is_partial: bool = False,
        prefix: str | None = None,
        collect_device: str = "cpu",
    ) -> None:
        super().__init__(collect_device=collect_device, prefix=prefix)
        self._ann_file = None if ann_file is None else find_path(ann_file)
        self.backend = _choose_backend(backend)
        self.max_dets = max_dets
        self.classwise = classwise
        self.is_partial = is_partial
        self._ground_truth = None if ann_file is None else read_ground_truth(self._ann_file)
        self.protocol: dict[str, Any] = {}

    @property
    def ann_file(self) -> str:
        """The annotation file, given or the data set's.

        Raises:
            DataError: If neither names one.
        """
        named = self._ann_file or (self.dataset_meta or {}).get("ann_file")
        if not named:
            raise DataError("the metric needs ann_file, or 'ann_file' in dataset_meta, which CocoDataset provides")
        return named

    @property
    def ground_truth(self) -> dict[str, list[dict]]:
        """Content of the annotation file, read once."""
        if self._ground_truth is None:
            self._ground_truth = read_ground_truth(self.ann_file)
        return self._ground_truth

    @property
    def headline(self) -> str:
        """Name of the figure that ranks models."""
        return f"{self.prefix}/bbox_mAP"

    def process(self, data_batch: Any, data_samples: Sequence[Mapping[str, Any]]) -> None:
        """Store the predictions of some samples, in original pixels.

        Args:
            data_batch: Not used.
            data_samples: Dicts with ``img_id``, ``prompts`` and ``pred_instances``.

        Raises:
            DataError: A prediction lacks a field, is not finite, or names no class.
        """
        for sample in data_samples:
            self.results.append(_answer(sample, len(self._cat_ids())))

    def compute_metrics(self, results: list[dict[str, Any]]) -> dict[str, float]:
        """Return the figures, in [0, 1]; -1 where no ground truth exists.

        Raises:
            DataError: An image of the annotation file was not answered, or one was answered twice.
        """
        cat_ids = self._cat_ids()
        img_ids = self._check_answered([result["img_id"] for result in results])
        detections = _detections(results, cat_ids, "scores")
        ap = self._average_precision(detections, img_ids, cat_ids)
        figures = {f"bbox_mAP{name}": _mean(ap[:, :, :, area]) for name, area in _AREAS.items()}
        figures |= {"bbox_mAP_50": _mean(ap[0, :, :, 0]), "bbox_mAP_75": _mean(ap[5, :, :, 0])}
        if self.classwise:
            # The evaluators sort the category ids.
            columns = np.argsort(np.argsort(cat_ids))
            names = self.dataset_meta["classes"]
            figures |= {f"bbox_AP_{n}": _mean(ap[:, :, c, 0]) for n, c in zip(names, columns, strict=True)}
        if len(detections) and all("peak_scores" in result for result in results):
            peaks = self._average_precision(_detections(results, cat_ids, "peak_scores"), img_ids, cat_ids)
            figures["bbox_mAP_peak_only"] = _mean(peaks[:, :, :, 0])
        num_prompts = [result["num_prompts"] for result in results]
        self.protocol = {
            "images": len(img_ids),
            "classes": len(cat_ids),
            "prompts_per_image": (min(num_prompts, default=0), max(num_prompts, default=0)),
            "ground_truth": "answered images only" if self.is_partial else "all images, unfiltered",
            "max_dets": self.max_dets,
            "backend": self.backend,
        }
        print_log(f"{self.prefix}: {self.protocol}", logger="current")
        return figures

    def _cat_ids(self) -> tuple[int, ...]:
        """Return the category id of each label, checked against the names in the annotation file."""
        meta = self.dataset_meta or {}
        if "classes" not in meta or "cat_ids" not in meta:
            raise DataError("the metric needs 'classes' and 'cat_ids' in dataset_meta, which CocoDataset provides")
        names = {category["id"]: category["name"] for category in self.ground_truth["categories"]}
        found = [names.get(cat_id) for cat_id in meta["cat_ids"]]
        if list(meta["classes"]) != found:
            raise DataError(
                f"{self.ann_file}: the data set's classes {list(meta['classes'])} have ids {list(meta['cat_ids'])}, "
                f"which this file calls {found}; evaluate with the annotation file of the data set"
            )
        return tuple(meta["cat_ids"])

    def _check_answered(self, answered: list[int]) -> list[int]:
        asked = {image["id"] for image in self.ground_truth["images"]}
        missing, unknown = asked - set(answered), set(answered) - asked
        is_complete = self.is_partial or not missing
        if unknown or len(set(answered)) < len(answered) or not is_complete:
            raise DataError(
                f"{self.ann_file}: asked {len(asked)} images, answered {len(answered)} ({len(set(answered))} different)"
                f"; not answered: {sorted(missing)[:5]}, not in the file: {sorted(unknown)[:5]}"
            )
        return sorted(set(answered))

    def _average_precision(self, detections: np.ndarray, img_ids: list[int], cat_ids: Sequence[int]) -> np.ndarray:
        """Return precision over (IoU threshold, recall, class by rising id, area); -1 without ground truth."""
        coco_class, eval_class = _load_backend(self.backend)
        with contextlib.redirect_stdout(io.StringIO()):
            truth = coco_class()
            truth.dataset = self.ground_truth
            truth.createIndex()
            if len(detections):
                answers = truth.loadRes(detections)
            else:
                answers = coco_class()
                answers.dataset = {**self.ground_truth, "annotations": []}
                answers.createIndex()
            evaluation = eval_class(truth, answers, "bbox")
            evaluation.params.imgIds = list(img_ids)
            evaluation.params.catIds = list(cat_ids)
            evaluation.params.maxDets = [self.max_dets]
            evaluation.evaluate()
            evaluation.accumulate()
        return np.asarray(evaluation.eval["precision"])[..., -1]


def read_ground_truth(ann_file: str | os.PathLike[str]) -> dict[str, list[dict]]:
    """Read what COCO's evaluation needs, with nothing left out.

    Annotations are numbered anew from 1: the evaluators take the id 0 for "not matched".

    Raises:
        DataError: The file cannot be read, or an entry lacks something.
    """
    try:
        with open(ann_file, encoding="utf-8") as file:
            content = json.load(file)
        images = [{"id": image["id"]} for image in content["images"]]
        categories = [{"id": category["id"], "name": category["name"]} for category in content["categories"]]
        annotations = [_truth(entry, number) for number, entry in enumerate(content["annotations"], start=1)]
        known = {image["id"] for image in images}, {category["id"] for category in categories}
        strays = [e for e in annotations if e["image_id"] not in known[0] or e["category_id"] not in known[1]]
    except (OSError, KeyError, TypeError, ValueError, OverflowError, RecursionError, AttributeError) as error:
        raise DataError(f"{ann_file}: no usable COCO ground truth ({type(error).__name__}: {error})") from error
    if strays:
        raise DataError(f"{ann_file}: {len(strays)} annotations of unknown images or categories, first {strays[0]}")
    return {"images": images, "categories": categories, "annotations": annotations}


def _truth(entry: Mapping[str, Any], number: int) -> dict[str, Any]:
    box = [float(value) for value in entry["bbox"]]
    area = float(entry.get("area", box[2] * box[3]))
    if len(box) != 4 or not all(map(math.isfinite, (*box, area))):
        raise ValueError(f"annotation {entry.get('id')}: bbox {box} or area {area} is not finite")
    ids = {"id": number, "image_id": entry["image_id"], "category_id": entry["category_id"]}
    return {**ids, "bbox": box, "area": area, "iscrowd": int(entry.get("iscrowd", 0))}


def _answer(sample: Mapping[str, Any], num_classes: int) -> dict[str, Any]:
    """Take out of one sample what the evaluation needs, as arrays."""
    predictions = sample.get("pred_instances")
    if predictions is None or any(key not in predictions for key in _FIELDS):
        raise DataError(
            f"image {sample.get('img_id')}: pred_instances must hold {_FIELDS}, got {list(predictions or ())}"
        )
    names = [*_FIELDS, "peak_scores"] if "peak_scores" in predictions else _FIELDS
    table = {name: _to_array(predictions[name]) for name in names}
    labels = table["labels"].astype(np.int64)
    if len(labels) and (labels.min() < 0 or labels.max() >= num_classes):
        raise DataError(
            f"image {sample['img_id']}: labels {labels.min()}..{labels.max()} do not fit {num_classes} classes; free "
            "phrases (label -1) have no AP"
        )
    if not all(np.isfinite(column).all() for column in table.values()):
        raise DataError(f"image {sample['img_id']}: boxes or scores are not finite")
    prompts = sample.get("prompts", ())
    if len(labels) and len({prompt.label for prompt in prompts}) < len(prompts):
        kept = _first_of_equal(table)
        table = {name: column[kept] for name, column in table.items()}
    return {"img_id": sample["img_id"], "num_prompts": len(prompts), **table}


def _first_of_equal(table: Mapping[str, np.ndarray]) -> np.ndarray:
    """Return the rows, in order, that do not repeat box, label and scores of an earlier row."""
    columns = np.concatenate([column.reshape(len(column), -1).astype(np.float64) for column in table.values()], axis=1)
    return np.sort(np.unique(columns, axis=0, return_index=True)[1])


def _detections(results: Sequence[Mapping[str, Any]], cat_ids: Sequence[int], score_name: str) -> np.ndarray:
    """Return rows of image id, x, y, width, height, score, category id."""
    filled = [result for result in results if len(result["labels"])]
    if not filled:
        return np.zeros((0, 7))
    boxes = np.concatenate([result["bboxes"] for result in filled]).astype(np.float64)
    ids = np.repeat([result["img_id"] for result in filled], [len(result["labels"]) for result in filled])
    scores = np.concatenate([result[score_name] for result in filled])
    labels = np.concatenate([result["labels"] for result in filled]).astype(np.int64)
    return np.column_stack([ids, boxes[:, :2], boxes[:, 2:] - boxes[:, :2], scores, np.asarray(cat_ids)[labels]])


def _mean(precision: np.ndarray) -> float:
    valid = precision[precision > -1]
    return float(valid.mean()) if valid.size else -1.0


def _to_array(values: Any) -> np.ndarray:
    return np.asarray(values.detach().float().cpu() if hasattr(values, "detach") else values)


def _choose_backend(backend: str) -> str:
    has_faster = importlib.util.find_spec("faster_coco_eval") is not None
    if backend == "auto":
        return "faster-coco-eval" if has_faster else "pycocotools"
    if backend not in _BACKENDS or (backend == "faster-coco-eval" and not has_faster):
        raise ConfigError(f"backend {backend!r} is unknown or not installed; known are 'auto' and {_BACKENDS}")
    return backend


def _load_backend(backend: str) -> tuple[type, type]:
    if backend == "faster-coco-eval":
        from faster_coco_eval import COCO, COCOeval_faster

        return COCO, COCOeval_faster
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    return COCO, COCOeval

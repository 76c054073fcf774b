"""Average precision after the COCO protocol, over every image and the unfiltered ground truth of an annotation file."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from mmengine.evaluator import BaseMetric
from mmengine.logging import print_log

from lumen.errors import ConfigError, DataError
from lumen.metrics.coco.backends import Predictions, choose_backend, evaluate
from lumen.metrics.coco.federated import columns_of, verified_answers, with_open_regions
from lumen.metrics.coco.ground_truth import FREQUENCIES, GroundTruth, read_ground_truth
from lumen.metrics.tables import annotation_file, mean_of_measured, require_fields, to_array
from lumen.ops.masks import Rle
from lumen.paths import find_path
from lumen.registry import METRICS

_AREAS = {"": 0, "_s": 1, "_m": 2, "_l": 3}
_FIELDS = {"bbox": ("bboxes", "scores", "labels"), "segm": ("masks", "scores", "labels")}


@METRICS.register_module()
class CocoMetric(BaseMetric):
    """AP of COCO, of boxes, masks or both. Reads predictions in original pixels.

    A label means ``dataset_meta['cat_ids'][label]``. Where several prompts of an image ask for one class, predictions
    that are equal to the last bit count once. Crowd regions are handled as COCO does; COCO's evaluation has no other
    ignored regions. Areas of masks, not of boxes, tell small from large when masks are evaluated.

    If predictions carry ``peak_scores``, the AP with these scores instead of ``scores`` is reported too.

    Args:
        ann_file: COCO-format json with the ground truth; the evaluated data set's own when left out.
        iou_type: ``bbox``, ``segm``, or both; the first one gives the headline. ``segm`` reads ``masks`` as RLE.
        backend: ``pycocotools`` is the reference; ``faster-coco-eval`` and ``numpy`` give the same figures sooner.
            ``auto`` takes ``numpy``, which is by far the fastest.
        max_dets: Number of predictions per image and class that count, best first.
        classwise: Report the AP of each class as well.
        federated: Evaluate as LVIS does: ``max_dets`` is the number of predictions per image over all classes,
            predictions of classes that nobody looked for in an image do not count, nor do unmatched ones of classes
            that are annotated incompletely. The AP of rare, common and frequent classes is reported too.
        is_partial: Evaluate on the answered images only, such as the first hundred. Such figures are not COCO figures.
        prefix: First part of the metric names.
        collect_device: ``cpu`` or ``gpu``, see MMEngine.

    Raises:
        ConfigError: The backend is unknown or not installed, or an IoU type is not known.
        DataError: The annotation file is broken.
    """

    default_prefix = "coco"
    needs = frozenset(_FIELDS["bbox"])

    def __init__(
        self,
        *,
        ann_file: str | None = None,
        iou_type: str | Sequence[str] = "bbox",
        backend: str = "auto",
        max_dets: int = 100,
        classwise: bool = False,
        federated: bool = False,
        is_partial: bool = False,
        prefix: str | None = None,
        collect_device: str = "cpu",
    ) -> None:
        super().__init__(collect_device=collect_device, prefix=prefix)
        self.iou_types = _choose_iou_types(iou_type)
        self.needs = frozenset(name for kind in self.iou_types for name in _FIELDS[kind])
        self._ann_file = None if ann_file is None else find_path(ann_file)
        self.backend = choose_backend(backend)
        self.max_dets = max_dets
        self.classwise = classwise
        self.federated = federated
        self.is_partial = is_partial
        self._ground_truth = None if ann_file is None else self._read()
        self._sizes_hw: dict[int, tuple[int, int]] = {}
        self.protocol: dict[str, Any] = {}

    @property
    def ann_file(self) -> str:
        """The annotation file, given or the data set's.

        Raises:
            DataError: If neither names one.
        """
        return annotation_file(self._ann_file, self.dataset_meta)

    @property
    def ground_truth(self) -> GroundTruth:
        """Content of the annotation file, read once."""
        if self._ground_truth is None:
            self._ground_truth = self._read()
        return self._ground_truth

    @property
    def headline(self) -> str:
        """Name of the figure that ranks models."""
        return f"{self.prefix}/{self.iou_types[0]}_mAP"

    def process(self, data_batch: Any, data_samples: Sequence[Mapping[str, Any]]) -> None:
        """Store the predictions of some samples, in original pixels.

        Args:
            data_batch: Not used.
            data_samples: Dicts with ``img_id``, ``prompts`` and ``pred_instances``.

        Raises:
            DataError: A prediction lacks a field, is not finite, names no class, or its mask is not of the image's
                size.
        """
        num_classes = len(self._cat_ids())
        for sample in data_samples:
            result = checked_answer(sample, self.needs, num_classes)
            if "masks" in result:
                _check_masks(result["masks"], self._size_hw(result["img_id"]), result["img_id"])
            self.results.append(result)

    def compute_metrics(self, results: list[dict[str, Any]]) -> dict[str, float]:
        """Return the figures, in [0, 1]; -1 where no ground truth exists.

        Raises:
            DataError: An image of the annotation file was not answered, or one was answered twice.
        """
        cat_ids = self._cat_ids()
        img_ids = self._check_answered([result["img_id"] for result in results])
        figures: dict[str, float] = {}
        for iou_type in self.iou_types:
            figures |= self._figures(iou_type, results, img_ids, cat_ids)
        num_prompts = [result["num_prompts"] for result in results]
        self.protocol = {
            "images": len(img_ids),
            "classes": len(cat_ids),
            "prompts_per_image": (min(num_prompts, default=0), max(num_prompts, default=0)),
            "ground_truth": "answered images only" if self.is_partial else "all images, unfiltered",
            **({"classes_counted": "verified per image, as in LVIS"} if self.federated else {}),
            "max_dets": self.max_dets,
            "backend": self.backend,
        }
        print_log(f"{self.prefix}: {self.protocol}", logger="current")
        return figures

    def _figures(
        self, iou_type: str, results: Sequence[Mapping[str, Any]], img_ids: list[int], cat_ids: Sequence[int]
    ) -> dict[str, float]:
        counted = self.ground_truth
        if self.federated:
            counted = with_open_regions(counted, with_masks=iou_type == "segm")
        predictions, ap = self._curves(_predictions(results, cat_ids, "scores", iou_type), counted, img_ids, cat_ids)
        figures = {f"{iou_type}_mAP{name}": mean_of_measured(ap[:, :, :, area]) for name, area in _AREAS.items()}
        figures |= {
            f"{iou_type}_mAP_50": mean_of_measured(ap[0, :, :, 0]),
            f"{iou_type}_mAP_75": mean_of_measured(ap[5, :, :, 0]),
        }
        if self.federated:
            columns = {name: columns_of(self.ground_truth, cat_ids, name) for name in FREQUENCIES}
            figures |= {f"{iou_type}_AP{n}": mean_of_measured(ap[:, :, c, 0]) for n, c in columns.items()}
        if self.classwise:
            # The evaluators sort the category ids.
            columns = np.argsort(np.argsort(cat_ids))
            names = self.dataset_meta["classes"]
            figures |= {
                f"{iou_type}_AP_{n}": mean_of_measured(ap[:, :, c, 0]) for n, c in zip(names, columns, strict=True)
            }
        if len(predictions.scores) and all("peak_scores" in result for result in results):
            _, ap = self._curves(_predictions(results, cat_ids, "peak_scores", iou_type), counted, img_ids, cat_ids)
            figures[f"{iou_type}_mAP_peak_only"] = mean_of_measured(ap[:, :, :, 0])
        return figures

    def _curves(
        self, predictions: Predictions, counted: GroundTruth, img_ids: list[int], cat_ids: Sequence[int]
    ) -> tuple[Predictions, np.ndarray]:
        """Return the predictions that count, and the interpolated precision; ``counted`` has the open regions, too."""
        if self.federated:
            predictions = verified_answers(predictions, self.ground_truth, max_dets=self.max_dets)
        settings = {"img_ids": img_ids, "cat_ids": cat_ids, "max_dets": self.max_dets}
        return predictions, evaluate(self.backend, counted, predictions, **settings)

    def _read(self) -> GroundTruth:
        return read_ground_truth(self.ann_file, with_masks="segm" in self.iou_types, federated=self.federated)

    def _size_hw(self, img_id: int) -> tuple[int, int] | None:
        """Return the size of an image; None where the file lacks it, which ``compute_metrics`` reports."""
        if not self._sizes_hw:
            self._sizes_hw = {i["id"]: (i["height"], i["width"]) for i in self.ground_truth["images"]}
        return self._sizes_hw.get(img_id)

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


def checked_answer(sample: Mapping[str, Any], needs: frozenset[str], num_classes: int) -> dict[str, Any]:
    """Return what an evaluation of detections needs of a sample.

    Args:
        sample: With ``img_id``, ``pred_instances`` in original pixels and, where there are any, ``prompts``.
        needs: Fields to take; with ``peak_scores`` where there are any.
        num_classes: Number of classes.

    Returns:
        ``img_id``, ``num_prompts``, the fields as arrays, and ``masks`` as a list of RLEs. Where several prompts ask
        for one class, rows that are equal to the last bit come once.

    Raises:
        DataError: A field is missing or not finite, or a label is not that of a class.
    """
    predictions = require_fields(sample, "pred_instances", needs)
    names = needs | {"peak_scores"} if "peak_scores" in predictions else needs
    table = {name: to_array(predictions[name]) for name in sorted(names - {"masks"})}
    masks = list(predictions["masks"]) if "masks" in needs else None
    labels = table["labels"] = table["labels"].astype(np.int64)
    if len(labels) and (labels.min() < 0 or labels.max() >= num_classes):
        raise DataError(
            f"image {sample['img_id']}: labels {labels.min()}..{labels.max()} do not fit {num_classes} classes; free "
            "phrases (label -1) have no AP"
        )
    if not all(np.isfinite(column).all() for column in table.values()):
        raise DataError(f"image {sample['img_id']}: boxes or scores are not finite")
    if masks is not None and len(masks) != len(labels):
        raise DataError(f"image {sample['img_id']}: {len(masks)} masks, but {len(labels)} labels")
    prompts = sample.get("prompts", ())
    if len(labels) and len({prompt.label for prompt in prompts}) < len(prompts):
        kept = _first_of_equal(table, masks)
        table = {name: column[kept] for name, column in table.items()}
        masks = None if masks is None else [masks[row] for row in kept]
    result = {"img_id": sample["img_id"], "num_prompts": len(prompts), **table}
    return result if masks is None else {**result, "masks": masks}


def _first_of_equal(table: Mapping[str, np.ndarray], masks: Sequence[Rle] | None) -> np.ndarray:
    """Return the rows, in order, that do not repeat box, label, scores and mask of an earlier row."""
    columns = [column.reshape(len(column), -1).astype(np.float64) for column in table.values()]
    if masks is not None:
        columns.append(np.unique([str(code["counts"]) for code in masks], return_inverse=True)[1].reshape(-1, 1))
    return np.sort(np.unique(np.concatenate(columns, axis=1), axis=0, return_index=True)[1])


def _check_masks(masks: Sequence[Rle], size_hw: tuple[int, int] | None, img_id: int) -> None:
    wrong = [code.get("size") for code in masks if size_hw and tuple(code.get("size", ())) != size_hw]
    if wrong:
        raise DataError(
            f"image {img_id}: {len(wrong)} masks of another size, first {list(wrong[0] or ())}, the image has "
            f"{list(size_hw)} (height, width): masks must be in original pixels"
        )


def _predictions(
    results: Sequence[Mapping[str, Any]], cat_ids: Sequence[int], score_name: str, iou_type: str
) -> Predictions:
    filled = [result for result in results if len(result["labels"])]
    labels = _join(filled, "labels", np.int64)
    boxes = _join(filled, "bboxes", np.float64).reshape(-1, 4) if iou_type == "bbox" else np.zeros((len(labels), 4))
    boxes[:, 2:] -= boxes[:, :2]
    counts = np.array([len(result["labels"]) for result in filled], dtype=np.int64)
    return Predictions(
        img_ids=np.repeat(np.array([result["img_id"] for result in filled], dtype=np.int64), counts),
        cat_ids=np.asarray(cat_ids, dtype=np.int64)[labels],
        boxes=boxes,
        scores=_join(filled, score_name, np.float64),
        masks=[code for result in filled for code in result["masks"]] if iou_type == "segm" else None,
    )


def _join(results: Sequence[Mapping[str, Any]], name: str, dtype: type) -> np.ndarray:
    return np.concatenate([result[name] for result in results] or [np.zeros(0)]).astype(dtype)


def _choose_iou_types(iou_type: str | Sequence[str]) -> tuple[str, ...]:
    chosen = (iou_type,) if isinstance(iou_type, str) else tuple(iou_type)
    if not chosen or len(set(chosen)) < len(chosen) or set(chosen) - set(_FIELDS):
        raise ConfigError(f"iou_type must be one or both of {tuple(_FIELDS)}, got {iou_type!r}")
    return chosen

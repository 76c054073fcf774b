"""Who computes COCO's precision curves: pycocotools (the reference), faster-coco-eval, or our array operations."""

import contextlib
import importlib.util
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from lumen.errors import ConfigError
from lumen.metrics.coco.ground_truth import GroundTruth, group_numbers, mask_areas, objects_of
from lumen.metrics.coco.matching import Answers
from lumen.metrics.coco.numpy_backend import precision_curves
from lumen.ops.masks import Rle

BACKENDS = ("pycocotools", "faster-coco-eval", "numpy")


@dataclass(frozen=True, slots=True)
class Predictions:
    """Predictions of many images, one row each.

    Args:
        img_ids: Image of each row.
        cat_ids: Category id of each row.
        boxes: x, y, width, height in original pixels; unused where there are masks.
        scores: Scores.
        masks: RLEs of the original images, when masks are evaluated.
    """

    img_ids: Int[np.ndarray, " n"]
    cat_ids: Int[np.ndarray, " n"]
    boxes: Float[np.ndarray, "n 4"]
    scores: Float[np.ndarray, " n"]
    masks: Sequence[Rle] | None = None


def choose_backend(backend: str) -> str:
    """Return the name of the backend to use; ``auto`` takes ours.

    Raises:
        ConfigError: It is unknown or not installed.
    """
    if backend == "auto":
        return "numpy"
    is_missing = backend == "faster-coco-eval" and importlib.util.find_spec("faster_coco_eval") is None
    if backend not in BACKENDS or is_missing:
        raise ConfigError(f"backend {backend!r} is unknown or not installed; known are 'auto' and {BACKENDS}")
    return backend


def evaluate(
    backend: str,
    truth: GroundTruth,
    predictions: Predictions,
    *,
    img_ids: Sequence[int],
    cat_ids: Sequence[int],
    max_dets: int,
) -> Float[np.ndarray, "thresholds recalls classes areas"]:
    """Return interpolated precision; classes by rising id, -1 where a class has no object in an area range.

    Args:
        backend: See ``choose_backend``.
        truth: Ground truth, with ``segmentation`` where predictions have masks.
        predictions: Predictions of these images and classes.
        img_ids: Images to evaluate.
        cat_ids: Classes to evaluate.
        max_dets: Predictions per image and class that count, best first.
    """
    images, classes = sorted(img_ids), sorted(cat_ids)
    if backend == "numpy":
        objects = objects_of(truth, images, classes, with_masks=predictions.masks is not None)
        groups = group_numbers(predictions.img_ids, predictions.cat_ids, images, classes)
        return precision_curves(
            objects,
            Answers(groups, predictions.boxes, _areas(predictions), predictions.scores, predictions.masks),
            num_images=len(images),
            num_classes=len(classes),
            max_dets=max_dets,
        )
    return _by_library(backend, truth, predictions, images, classes, max_dets)


def _by_library(
    backend: str, truth: GroundTruth, predictions: Predictions, images: list[int], classes: list[int], max_dets: int
) -> Float[np.ndarray, "thresholds recalls classes areas"]:
    coco_class, eval_class = _load(backend)
    with contextlib.redirect_stdout(io.StringIO()):
        wanted = coco_class()
        # The evaluators write into annotations.
        wanted.dataset = {**truth, "annotations": [dict(entry) for entry in truth["annotations"]]}
        wanted.createIndex()
        answered = coco_class()
        answered.dataset = {**truth, "annotations": _annotations(predictions)}
        answered.createIndex()
        evaluation = eval_class(wanted, answered, "bbox" if predictions.masks is None else "segm")
        evaluation.params.imgIds = images
        evaluation.params.catIds = classes
        evaluation.params.maxDets = [max_dets]
        evaluation.evaluate()
        evaluation.accumulate()
    return np.asarray(evaluation.eval["precision"])[..., -1]


def _annotations(predictions: Predictions) -> list[dict[str, Any]]:
    """Return what the libraries' ``loadRes`` makes of predictions: boxes with their area, or masks with theirs."""
    columns = {
        "image_id": predictions.img_ids.tolist(),
        "category_id": predictions.cat_ids.tolist(),
        "bbox": predictions.boxes.tolist(),
        "score": predictions.scores.tolist(),
        "area": _areas(predictions).tolist(),
        "id": range(1, len(predictions.scores) + 1),
    }
    if predictions.masks is not None:
        columns["segmentation"] = [dict(code) for code in predictions.masks]
    return [dict(zip(columns, row, strict=True), iscrowd=0) for row in zip(*columns.values(), strict=True)]


def _areas(predictions: Predictions) -> Float[np.ndarray, " n"]:
    if predictions.masks is not None:
        return mask_areas(predictions.masks)
    return predictions.boxes[:, 2] * predictions.boxes[:, 3]


def _load(backend: str) -> tuple[type, type]:
    if backend == "faster-coco-eval":
        from faster_coco_eval import COCO, COCOeval_faster

        return COCO, COCOeval_faster
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    return COCO, COCOeval

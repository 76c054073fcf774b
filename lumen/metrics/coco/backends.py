"""Backends for COCO's precision curves: pycocotools (the reference), faster-coco-eval, or our array operations."""

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


def choose_backend(backend: str, *, known: Sequence[str] = BACKENDS, auto: Sequence[str] = ("numpy",)) -> str:
    """Return the name of the backend to use.

    Args:
        backend: A name, or ``auto``.
        known: Names that may be used.
        auto: What ``auto`` stands for: the first of these that is installed.

    Raises:
        ConfigError: It is unknown or not installed.
    """
    has_faster = importlib.util.find_spec("faster_coco_eval") is not None
    usable = [name for name in known if name != "faster-coco-eval" or has_faster]
    if backend == "auto":
        return next(name for name in auto if name in usable)
    if backend not in usable:
        raise ConfigError(f"backend {backend!r} is unknown or not installed; known are 'auto' and {tuple(known)}")
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
    curves = evaluate_by_library(
        backend,
        truth,
        _annotations(predictions),
        iou_type="bbox" if predictions.masks is None else "segm",
        img_ids=images,
        cat_ids=classes,
        max_dets=max_dets,
    )
    return curves["precision"][..., -1]


def evaluate_by_library(
    backend: str,
    truth: GroundTruth,
    answers: list[dict[str, Any]],
    *,
    iou_type: str,
    img_ids: Sequence[int],
    cat_ids: Sequence[int],
    max_dets: int,
    sigmas: Float[np.ndarray, " k"] | None = None,
) -> dict[str, np.ndarray]:
    """Return what pycocotools' ``COCOeval``, or a library with the same classes, accumulates.

    Args:
        backend: ``pycocotools`` or ``faster-coco-eval``.
        truth: Content of an annotation file.
        answers: Annotations with ``score``, complete: with ``id``, ``area``, ``bbox``.
        iou_type: ``bbox``, ``segm`` or ``keypoints``.
        img_ids: Images to evaluate.
        cat_ids: Classes to evaluate.
        max_dets: Answers per image and class that count, best first.
        sigmas: One per keypoint, for ``keypoints``.

    Returns:
        ``precision`` over (threshold, recall, class, area, 1) and ``recall`` over (threshold, class, area, 1).
    """
    coco_class, eval_class = _load(backend)
    with contextlib.redirect_stdout(io.StringIO()):
        # The evaluators write into annotations.
        sides = [{**truth, "annotations": [dict(entry) for entry in truth["annotations"]]}]
        sides.append({**truth, "annotations": answers})
        evaluation = eval_class(*(_indexed(coco_class, side) for side in sides), iou_type)
        evaluation.params.imgIds = list(img_ids)
        evaluation.params.catIds = list(cat_ids)
        evaluation.params.maxDets = [max_dets]
        if sigmas is not None:
            evaluation.params.kpt_oks_sigmas = sigmas
        evaluation.evaluate()
        evaluation.accumulate()
    return {name: np.asarray(evaluation.eval[name]) for name in ("precision", "recall")}


def _indexed(coco_class: type, content: GroundTruth) -> Any:
    """Return a COCO object of content that is in memory."""
    coco = coco_class()
    coco.dataset = content
    coco.createIndex()
    return coco


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

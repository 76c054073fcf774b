"""What pose metrics read: keypoints of an annotation file, and one answer per object."""

import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from lumen.errors import DataError
from lumen.metrics.tables import annotation_file, require_once, to_array
from lumen.paths import open_file

_FIELDS = ("keypoints", "keypoint_scores", "scores")
_META = ("img_id", "prompts", "instance_id", "box_label")
_SHARE_OF_BOX = 0.53


@dataclass(frozen=True, slots=True)
class PoseTruth:
    """Content of an annotation file, with nothing left out.

    Args:
        img_ids: All images.
        categories: By id: ``name``, ``keypoints`` (names) and, if the file declares them, ``sigmas``.
        annotations: By annotation id, as COCO's evaluation reads them; ``keypoints`` is a flat list, zeros where the
            file has none, ``num_keypoints`` the number of labelled ones.
    """

    img_ids: tuple[int, ...]
    categories: dict[int, dict]
    annotations: dict[int, dict]


@dataclass(frozen=True, slots=True)
class PoseAnswer:
    """What was predicted for one object, in original pixels.

    Args:
        img_id: Image.
        instance_id: Annotation id, or index in the detection file.
        label: Label of the box.
        score: Score of the object.
        places: Index in the skeleton of each keypoint that was asked for.
        points: (x, y) of each of them.
    """

    img_id: int
    instance_id: int
    label: int
    score: float
    places: Int[np.ndarray, " k"]
    points: Float[np.ndarray, "k 2"]


@dataclass(frozen=True, slots=True)
class PoseEvaluation:
    """What one evaluation compares, checked.

    Args:
        ann_file: Where the truth is from.
        truth: Content of the annotation file.
        cat_ids: Category id of each label.
        answers: At most one per object.
    """

    ann_file: str
    truth: PoseTruth
    cat_ids: tuple[int, ...]
    answers: list[PoseAnswer]


def read_evaluation(
    results: Sequence[PoseAnswer | None], ann_file: str | None, meta: Mapping[str, Any]
) -> PoseEvaluation:
    """Read the ground truth and gather the answers.

    Args:
        results: What ``read_answer`` gave for each sample.
        ann_file: The annotation file; that of the data set when left out.
        meta: ``dataset_meta`` of the metric.

    Raises:
        DataError: The file cannot be read, does not fit the data set, or an object was answered twice.
    """
    named = annotation_file(ann_file, meta)
    truth = read_pose_truth(named)
    cat_ids = check_classes(truth, meta, named)
    answers = [answer for answer in results if answer is not None]
    require_once([answer.instance_id for answer in answers], "objects")
    return PoseEvaluation(named, truth, cat_ids, answers)


def read_pose_truth(ann_file: str | os.PathLike[str]) -> PoseTruth:
    """Read an annotation file.

    Raises:
        DataError: The file cannot be read, or an entry lacks something.
    """
    try:
        with open_file(ann_file) as file:
            content = json.load(file)
        img_ids = tuple(_id_of(image) for image in content["images"])
        categories = {_id_of(category): _category(category) for category in content["categories"]}
        annotations = {
            _id_of(entry): _annotation(entry, number, len(categories[entry["category_id"]]["keypoints"]))
            for number, entry in enumerate(content["annotations"], start=1)
        }
    except (OSError, KeyError, TypeError, ValueError, OverflowError, RecursionError, AttributeError) as error:
        raise DataError(f"{ann_file}: no usable keypoint annotations ({type(error).__name__}: {error})") from error
    return PoseTruth(img_ids, categories, annotations)


def check_classes(truth: PoseTruth, meta: Mapping[str, Any], ann_file: str) -> tuple[int, ...]:
    """Return the category id of each label, checked against names and keypoints in the annotation file.

    Raises:
        DataError: The evaluated data set and the file disagree.
    """
    wanted = ("classes", "cat_ids", "keypoint_names", "boxes")
    if any(key not in meta for key in wanted):
        raise DataError(f"pose metrics need {wanted} in dataset_meta, which CocoKeypointsDataset provides in test mode")
    for name, cat_id, keypoints in zip(meta["classes"], meta["cat_ids"], meta["keypoint_names"], strict=True):
        found = truth.categories.get(cat_id, {"name": None, "keypoints": ()})
        if found["name"] != name or len(found["keypoints"]) not in (0, len(keypoints)):
            raise DataError(
                f"{ann_file}: the data set calls category {cat_id} {name!r} with {len(keypoints)} keypoints, this file "
                f"{found['name']!r} with {len(found['keypoints'])}; evaluate with the annotation file of the data set"
            )
    return tuple(meta["cat_ids"])


def read_answer(sample: Mapping[str, Any]) -> PoseAnswer | None:
    """Extract from one sample what pose metrics need; None where nothing was predicted.

    Raises:
        DataError: A field is missing, or a number is not finite.
    """
    predictions = sample.get("pred_instances")
    lacking = [key for key in _META if key not in sample]
    if lacking or predictions is None or any(key not in predictions for key in _FIELDS):
        raise DataError(
            f"image {sample.get('img_id')}: pose metrics need {_META} (lacking: {lacking}; CropInstance and PackSample "
            f"pass them on) and pred_instances with {_FIELDS}, got {list(predictions or ())}"
        )
    if len(predictions["scores"]) == 0:
        return None
    points = to_array(predictions["keypoints"])[0].astype(np.float64)
    score = float(predictions["scores"][0])
    places = np.array([prompt.label for prompt in sample["prompts"]], dtype=np.int64)
    if len(points) != len(places):
        raise DataError(f"image {sample['img_id']}: {len(places)} prompts, but {len(points)} keypoints")
    if not (np.isfinite(points).all() and math.isfinite(score)):
        raise DataError(f"image {sample['img_id']}: keypoints or scores are not finite")
    return PoseAnswer(sample["img_id"], sample["instance_id"], sample["box_label"], score, places, points)


def _id_of(entry: Mapping[str, Any]) -> int:
    if type(entry["id"]) is not int:
        raise ValueError(f"id {entry['id']!r} is not an integer")
    return entry["id"]


def _category(category: Mapping[str, Any]) -> dict[str, Any]:
    sigmas, keypoints = category.get("sigmas"), category.get("keypoints", [])
    if not isinstance(category["name"], str) or not isinstance(keypoints, list):
        raise ValueError(f"category {category['id']} needs a name and, if any, a list of keypoints")
    return {
        "name": category["name"],
        "keypoints": tuple(keypoints),
        "sigmas": None if sigmas is None else [float(sigma) for sigma in sigmas],
    }


def _annotation(entry: Mapping[str, Any], number: int, num_keypoints: int) -> dict[str, Any]:
    """Return an annotation, renumbered from 1: the evaluators take the id 0 for "not matched".

    Without ``area`` it is 0.53 times the box, as CrowdPose has it.
    """
    x, y, width, height = map(float, entry["bbox"])
    area = float(entry.get("area", _SHARE_OF_BOX * width * height))
    keypoints = [float(value) for value in entry.get("keypoints", [0.0] * (3 * num_keypoints))]
    if not all(map(math.isfinite, (x, y, width, height, area, *keypoints))):
        raise ValueError(f"annotation {entry['id']}: bbox, area or keypoints are not finite")
    if num_keypoints and len(keypoints) != 3 * num_keypoints:
        raise ValueError(f"annotation {entry['id']}: {len(keypoints)} numbers for {num_keypoints} keypoints")
    ids = {"id": number, "image_id": entry["image_id"], "category_id": entry["category_id"]}
    num_labelled = sum(value > 0 for value in keypoints[2::3])
    further = {"keypoints": keypoints, "num_keypoints": int(entry.get("num_keypoints", num_labelled))}
    return {**ids, **further, "bbox": [x, y, width, height], "area": area, "iscrowd": int(entry.get("iscrowd", 0))}

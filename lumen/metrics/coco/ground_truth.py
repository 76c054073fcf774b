"""The ground truth of a COCO file, unfiltered, as evaluations need it."""

import json
import math
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from pycocotools import mask as codec

from lumen.errors import DataError
from lumen.metrics.coco.matching import Objects
from lumen.ops.masks import segmentation_to_rle
from lumen.paths import open_file
from lumen.structures import LVIS_ABSENT, LVIS_INCOMPLETE

GroundTruth = dict[str, list[dict]]
FREQUENCIES = ("r", "c", "f")

_AREAS_AT_ONCE = 255  # pycocotools counts the masks of a call in a byte


def read_ground_truth(
    ann_file: str | os.PathLike[str], *, with_masks: bool = False, federated: bool = False
) -> GroundTruth:
    """Read what COCO's evaluation needs, with nothing left out.

    Annotations are renumbered from 1: the evaluators take the id 0 for "not matched".

    Args:
        ann_file: COCO-format json.
        with_masks: Read ``segmentation`` too, as RLE, and the sizes of images.
        federated: Read too which classes are verified in an image, and how frequent each is, see ``add_verified``.

    Raises:
        DataError: The file cannot be read, or an entry lacks something.
    """
    try:
        with open_file(ann_file) as file:
            content = json.load(file)
        images = [{"id": image["id"], **(_size(image) if with_masks else {})} for image in content["images"]]
        categories = [{"id": category["id"], "name": category["name"]} for category in content["categories"]]
        annotations = [_truth(entry, number) for number, entry in enumerate(content["annotations"], start=1)]
        known = {image["id"] for image in images}, {category["id"] for category in categories}
        strays = [e for e in annotations if e["image_id"] not in known[0] or e["category_id"] not in known[1]]
    except (OSError, KeyError, TypeError, ValueError, OverflowError, RecursionError, AttributeError) as error:
        raise DataError(f"{ann_file}: no usable COCO ground truth ({type(error).__name__}: {error})") from error
    if strays:
        raise DataError(f"{ann_file}: {len(strays)} annotations of unknown images or categories, first {strays[0]}")
    if with_masks:
        sizes = {image["id"]: (image["height"], image["width"]) for image in images}
        for entry, annotation in zip(content["annotations"], annotations, strict=True):
            annotation["segmentation"] = _mask(entry, sizes[annotation["image_id"]], ann_file)
    truth = {"images": images, "categories": categories, "annotations": annotations}
    if federated:
        add_verified(truth, content, ann_file)
    return truth


def add_verified(truth: GroundTruth, content: Mapping[str, Any], ann_file: str | os.PathLike[str]) -> None:
    """Add to ground truth what an LVIS file states of its images and categories.

    Images get the ids of the classes that are verified absent and of those that are annotated incompletely, categories
    their ``frequency``: ``r`` for rare, ``c`` for common, ``f`` for frequent.

    Raises:
        DataError: An image lacks a list, or a category its frequency.
    """
    for table, keys in (("images", (LVIS_ABSENT, LVIS_INCOMPLETE)), ("categories", ("frequency",))):
        for entry, source in zip(truth[table], content[table], strict=True):
            lacking = [key for key in keys if key not in source]
            if lacking:
                raise DataError(f"{ann_file}: {table} {source['id']} has no {lacking}; federated files are LVIS's")
            entry.update({key: source[key] for key in keys})
    unknown = {str(entry["frequency"]) for entry in truth["categories"]} - set(FREQUENCIES)
    if unknown:
        raise DataError(f"{ann_file}: frequency must be one of {FREQUENCIES}, got {sorted(unknown)}")


def objects_of(
    truth: GroundTruth, img_ids: Sequence[int], cat_ids: Sequence[int], *, with_masks: bool = False
) -> Objects:
    """Return the objects of some images and classes as arrays.

    Args:
        truth: See ``read_ground_truth``.
        img_ids: The images, in rising order.
        cat_ids: The classes, in rising order. The group of an object is ``class * number of images + image``.
        with_masks: Take the masks along.
    """
    images, classes = set(img_ids), set(cat_ids)
    chosen = [e for e in truth["annotations"] if e["image_id"] in images and e["category_id"] in classes]
    return Objects(
        groups=group_numbers([e["image_id"] for e in chosen], [e["category_id"] for e in chosen], img_ids, cat_ids),
        boxes=np.array([e["bbox"] for e in chosen], dtype=np.float64).reshape(-1, 4),
        areas=np.array([e["area"] for e in chosen], dtype=np.float64),
        is_crowd=np.array([e["iscrowd"] for e in chosen], dtype=bool),
        masks=[e["segmentation"] for e in chosen] if with_masks else None,
    )


def group_numbers(
    of_images: Sequence[int] | np.ndarray,
    of_classes: Sequence[int] | np.ndarray,
    img_ids: Sequence[int],
    cat_ids: Sequence[int],
) -> np.ndarray:
    """Return ``class * number of images + image`` of each row, from its ids and the ids in rising order."""
    image = np.searchsorted(np.asarray(img_ids), np.asarray(of_images, dtype=np.int64))
    return np.searchsorted(np.asarray(cat_ids), np.asarray(of_classes, dtype=np.int64)) * len(img_ids) + image


def _truth(entry: Mapping[str, Any], number: int) -> dict[str, Any]:
    box = [float(value) for value in entry["bbox"]]
    if len(box) != 4:
        raise ValueError(f"annotation {entry.get('id')}: bbox {box} has not four numbers")
    area = float(entry.get("area", box[2] * box[3]))
    if not all(map(math.isfinite, (*box, area))):
        raise ValueError(f"annotation {entry.get('id')}: bbox {box} or area {area} is not finite")
    ids = {"id": number, "image_id": entry["image_id"], "category_id": entry["category_id"]}
    return {**ids, "bbox": box, "area": area, "iscrowd": int(entry.get("iscrowd", 0))}


def _size(image: Mapping[str, Any]) -> dict[str, int]:
    return {"height": int(image["height"]), "width": int(image["width"])}


def _mask(entry: Mapping[str, Any], size_hw: tuple[int, int], ann_file: str | os.PathLike[str]) -> dict[str, Any]:
    if "segmentation" not in entry:
        raise DataError(f"{ann_file}: annotation {entry.get('id')} has no segmentation; evaluate with iou_type='bbox'")
    try:
        return segmentation_to_rle(entry["segmentation"], size_hw)
    except DataError as error:
        raise DataError(f"{ann_file}: annotation {entry.get('id')}: {error}") from error


def mask_areas(codes: Sequence[Mapping[str, Any]]) -> np.ndarray:
    """Return the number of pixels of each RLE."""
    starts = range(0, len(codes), _AREAS_AT_ONCE)
    parts = [codec.area(list(codes[start : start + _AREAS_AT_ONCE])) for start in starts]
    return np.concatenate([np.zeros(0), *parts])

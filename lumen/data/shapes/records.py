"""COCO records of a scene: image, instances with visible masks and keypoints, and the head of a file."""

from typing import Any

import numpy as np
from pycocotools import mask as rle_codec

from lumen.data.shapes.outlines import CATEGORIES, KEYPOINTS
from lumen.data.shapes.scene import IMAGE_SIZE, ShapeObject

Record = dict[str, Any]

_MAX_OBJECTS = 10
_SKELETON = [[1, 2], [1, 3], [1, 4], [1, 5]]
_STAR_SKELETON = [[1, 2], [2, 3], [3, 4], [4, 5], [5, 1]]


def category_records() -> list[Record]:
    """Return the categories, with ids from 1 to 8 in the order of ``CATEGORIES``."""
    return [
        {
            "id": number,
            "name": name,
            "supercategory": "shape",
            "keypoints": list(KEYPOINTS[name]),
            "skeleton": _STAR_SKELETON if name == "star" else _SKELETON,
        }
        for number, name in enumerate(CATEGORIES, start=1)
    ]


def image_record(image_id: int, file_name: str, objects: tuple[ShapeObject, ...]) -> Record:
    """Return the record of an image; ``counts`` holds the number of shapes of each category that is present."""
    names = [item.category for item in objects]
    return {
        "id": image_id,
        "file_name": file_name,
        "width": IMAGE_SIZE,
        "height": IMAGE_SIZE,
        "license": 1,
        "counts": {name: names.count(name) for name in CATEGORIES if name in names},
    }


def annotation_records(image_id: int, objects: tuple[ShapeObject, ...]) -> list[Record]:
    """Return one instance per shape. Box, area and mask are those of its visible part."""
    return [_annotation(annotation_id(image_id, number), image_id, item) for number, item in enumerate(objects)]


def annotation_id(image_id: int, number: int) -> int:
    """Return the id of the shape at a position, from back to front, in an image."""
    return image_id * _MAX_OBJECTS + number


def _annotation(own_id: int, image_id: int, item: ShapeObject) -> Record:
    rle = rle_codec.encode(np.asfortranarray(item.mask, dtype=np.uint8))
    return {
        "id": own_id,
        "image_id": image_id,
        "category_id": CATEGORIES.index(item.category) + 1,
        "bbox": [float(value) for value in rle_codec.toBbox(rle)],
        "area": int(rle_codec.area(rle)),
        "segmentation": {"size": [int(v) for v in rle["size"]], "counts": rle["counts"].decode("ascii")},
        "iscrowd": 0,
        "keypoints": _flat_keypoints(item.keypoints),
        "num_keypoints": len(item.keypoints),
        "colour": item.colour,
        "texture": item.texture,
        "size": item.size,
        "visible_fraction": round(item.visible_fraction, 4),
    }


def _flat_keypoints(points: np.ndarray) -> list[float | int]:
    return [value for x, y, seen in points.tolist() for value in (round(x, 2), round(y, 2), int(seen))]

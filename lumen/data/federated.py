"""Federated annotations, as in LVIS: for most classes it is unknown whether an image shows them.

An image lists the classes that are verified absent (``neg_category_ids``) and those of which only some objects are
annotated (``not_exhaustive_category_ids``). Classes in neither list and without annotations are unknown.

Source: Gupta et al., "LVIS" (2019), section 3; field names of the LVIS v1 files.
"""

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np

from lumen.ops.masks import full_mask
from lumen.structures import LVIS_ABSENT, LVIS_INCOMPLETE

NO_ANNOTATION = -1


def file_name_of(entry: Mapping[str, Any]) -> Any:
    """Return the file name of an image entry; LVIS v1 has ``coco_url`` instead, whose last two parts are used."""
    # As in COCO's own layout: split folder and file.
    url = entry.get("coco_url")
    if "file_name" in entry or not isinstance(url, str):
        return entry.get("file_name")
    return "/".join(url.split("/")[-2:])


def federated_problem(entry: Mapping[str, Any], cat_ids: Collection[int]) -> str | None:
    """Return what is wrong with the two lists of an image entry, None if nothing is."""
    for key in (LVIS_ABSENT, LVIS_INCOMPLETE):
        listed = entry.get(key)
        if not isinstance(listed, list) or not all(type(cat_id) is int and cat_id in cat_ids for cat_id in listed):
            return f"{key} is missing or not a list of known category ids"
    return None


def verify(record: Mapping[str, Any], entry: Mapping[str, Any], label_of_id: Mapping[int, int]) -> dict[str, Any]:
    """Add to a record what is known about classes without annotations.

    Args:
        record: See ``CocoFile.records``.
        entry: The image entry that it was made from.
        label_of_id: Label of each category that was chosen.

    Returns:
        A record with ``absent_labels``, the labels that are verified absent. Per incompletely annotated class its
        ``instances`` have one more row, an ignored region as large as the image with annotation id -1, so that objects
        that are not annotated are not trained as background.
    """
    # Classes that were not chosen have no label and are not asked.
    absent = sorted({label_of_id[cat_id] for cat_id in entry[LVIS_ABSENT] if cat_id in label_of_id})
    incomplete = sorted({label_of_id[cat_id] for cat_id in entry[LVIS_INCOMPLETE] if cat_id in label_of_id})
    instances = record["instances"]
    # Annotated objects of such a class still count; beside them nothing is background.
    if incomplete:
        added = _whole_image_rows(incomplete, record["ori_hw"])
        instances = {key: np.concatenate([column, added[key]]) for key, column in instances.items()}
    return {**record, "instances": instances, "absent_labels": absent}


def _whole_image_rows(labels: list[int], ori_hw: tuple[int, int]) -> dict[str, np.ndarray]:
    codes = [full_mask(ori_hw)]  # one for all rows
    return {
        "bboxes": np.tile(np.array([0, 0, ori_hw[1], ori_hw[0]], dtype=np.float32), (len(labels), 1)),
        "labels": np.array(labels, dtype=np.int64),
        "is_ignored": np.ones(len(labels), dtype=bool),
        "ann_ids": np.full(len(labels), NO_ANNOTATION, dtype=np.int64),
        "segmentations": np.array(codes * len(labels), dtype=object),
    }

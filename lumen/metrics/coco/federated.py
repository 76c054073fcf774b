"""Federated evaluation, as for LVIS: an image counts for the classes that were verified in it, and for no others."""

from collections.abc import Collection, Sequence
from dataclasses import replace

import numpy as np

from lumen.metrics.coco.backends import Predictions
from lumen.metrics.coco.ground_truth import GroundTruth
from lumen.ops.masks import full_mask
from lumen.structures import LVIS_ABSENT, LVIS_INCOMPLETE

_EVERYWHERE = [-1e6, -1e6, 2e6, 2e6]


def with_open_regions(truth: GroundTruth, *, with_masks: bool) -> GroundTruth:
    """Return ground truth in which unmatched answers of incompletely annotated classes do not count.

    Each such class of an image gets a crowd region that covers everything: it takes the answers that match no object.
    """
    regions = []
    for image in truth["images"]:
        size_hw = (image["height"], image["width"]) if with_masks else None
        mask = full_mask(size_hw) if size_hw and image[LVIS_INCOMPLETE] else None
        for cat_id in image[LVIS_INCOMPLETE]:
            region = {"image_id": image["id"], "category_id": cat_id, "bbox": list(_EVERYWHERE), "area": 4e12}
            region |= {"id": len(truth["annotations"]) + len(regions) + 1, "iscrowd": 1}
            regions.append(region if mask is None else {**region, "segmentation": mask})
    return {**truth, "annotations": [*truth["annotations"], *regions]}


def verified_answers(predictions: Predictions, truth: GroundTruth, *, max_dets: int) -> Predictions:
    """Return the best ``max_dets`` answers of each image over all classes, without those of unverified classes.

    A class is verified in an image that shows it, and in one that lists it as absent.
    """
    verified = {(entry["image_id"], entry["category_id"]) for entry in truth["annotations"]}
    verified |= {(image["id"], cat_id) for image in truth["images"] for cat_id in image[LVIS_ABSENT]}
    # The place of each answer among those of its image, best first; of equal scores the first.
    order = np.lexsort((-predictions.scores, predictions.img_ids))
    _, first = np.unique(predictions.img_ids[order], return_index=True)
    counts = np.diff(np.append(first, len(order)))
    place = np.empty(len(order), dtype=np.int64)
    place[order] = np.arange(len(order)) - np.repeat(first, counts)
    pairs = zip(predictions.img_ids.tolist(), predictions.cat_ids.tolist(), strict=True)
    kept = np.flatnonzero((place < max_dets) & np.fromiter((pair in verified for pair in pairs), bool, len(order)))
    columns = {name: getattr(predictions, name)[kept] for name in ("img_ids", "cat_ids", "boxes", "scores")}
    masks = None if predictions.masks is None else [predictions.masks[row] for row in kept]
    return replace(predictions, **columns, masks=masks)


def columns_of(truth: GroundTruth, cat_ids: Collection[int], frequency: str) -> Sequence[int]:
    """Return the places, among the chosen ids in rising order, of the classes of one frequency."""
    of_id = {category["id"]: category["frequency"] for category in truth["categories"]}
    return [place for place, cat_id in enumerate(sorted(cat_ids)) if of_id[cat_id] == frequency]

"""Our evaluation of COCO's AP against pycocotools', precision by precision."""

import numpy as np
import pytest
import torch

from lumen.metrics.coco import matching
from lumen.metrics.coco.backends import Predictions, evaluate
from lumen.metrics.coco.matching import HIT, IGNORED, MISS, Answers, Objects, box_ious, match
from lumen.ops.masks import encode_masks

SIDE = 160
CAT_IDS = (7, 2, 11)


def draw(seed, *, num_images=6, per_image=12, num_predictions=30, crowd=0.15, levels=8, with_masks=False):
    """Draw objects, and predictions near them or anywhere, with few different scores, and some equal boxes."""
    rng = np.random.default_rng(seed)
    annotations, rows = [], []
    for img_id in range(1, num_images + 1):
        count = int(rng.integers(0, per_image + 1)) if img_id > 1 else 0
        boxes = random_boxes(rng, count)
        boxes[1::4] = boxes[: len(boxes[1::4])]  # equal boxes tie in IoU
        labels = rng.integers(0, len(CAT_IDS), count)
        for box, label in zip(boxes.tolist(), labels.tolist(), strict=True):
            entry = {"id": len(annotations) + 1, "image_id": img_id, "category_id": CAT_IDS[label], "bbox": box}
            area = box[2] * box[3] * rng.uniform(0.5, 1)
            annotations.append(entry | {"area": area, "iscrowd": int(rng.random() < crowd)})
        if img_id == 2:
            continue  # an image without predictions
        near = rng.integers(0, max(count, 1), num_predictions if count else 0)
        found = boxes[near] + rng.integers(-3, 4, (len(near), 4))
        stray = random_boxes(rng, num_predictions // 3)
        classes = np.concatenate([labels[near], rng.integers(0, len(CAT_IDS), len(stray))])
        scores = rng.integers(0, levels, len(classes)) / levels
        rows += [(img_id, CAT_IDS[c], b, s) for c, b, s in zip(classes, [*found, *stray], scores, strict=True)]
    predictions = Predictions(
        img_ids=np.array([row[0] for row in rows], dtype=np.int64),
        cat_ids=np.array([row[1] for row in rows], dtype=np.int64),
        boxes=np.array([row[2] for row in rows], dtype=np.float64).reshape(-1, 4),
        scores=np.array([row[3] for row in rows], dtype=np.float64),
        masks=[ellipse(row[2]) for row in rows] if with_masks else None,
    )
    if with_masks:
        for entry in annotations:
            entry["segmentation"] = ellipse(entry["bbox"])
    images = [{"id": img_id, "height": SIDE, "width": SIDE} for img_id in range(1, num_images + 1)]
    categories = [{"id": cat_id, "name": str(cat_id)} for cat_id in CAT_IDS]
    return {"images": images, "categories": categories, "annotations": annotations}, predictions


def random_boxes(rng, count):
    low = rng.integers(0, SIDE - 10, (count, 2))
    return np.concatenate([low, rng.integers(4, 110, (count, 2))], axis=1).astype(np.float64)


def ellipse(box):
    left, top, width, height = box
    rows, cols = torch.meshgrid(torch.arange(SIDE) + 0.5, torch.arange(SIDE) + 0.5, indexing="ij")
    inside = ((cols - left - width / 2) / (width / 2)) ** 2 + ((rows - top - height / 2) / (height / 2)) ** 2 <= 1
    return encode_masks(inside[None])[0]


def both(truth, predictions, *, max_dets=100, img_ids=None):
    settings = {"img_ids": img_ids or [i["id"] for i in truth["images"]], "cat_ids": CAT_IDS, "max_dets": max_dets}
    return [evaluate(backend, truth, predictions, **settings) for backend in ("pycocotools", "numpy")]


@pytest.mark.parametrize("seed", range(12))
def test_precision_equals_that_of_pycocotools(seed):
    expected, found = both(*draw(seed))
    assert found.shape == expected.shape == (10, 101, 3, 4)
    np.testing.assert_array_equal(found, expected)
    assert ((expected > 0) & (expected < 1)).any()


def test_more_predictions_than_count_are_cut_in_the_same_place():
    truth, predictions = draw(3, num_images=3, num_predictions=400, levels=50)
    assert np.unique(predictions.img_ids * 100 + predictions.cat_ids, return_counts=True)[1].max() > 100
    for max_dets in (1, 10, 100):
        expected, found = both(truth, predictions, max_dets=max_dets)
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("change", ["no objects", "no predictions", "neither", "only crowds", "all scores equal"])
def test_borderline_cases_equal_those_of_pycocotools(change):
    options = {"crowd": 1.1} if change == "only crowds" else {"levels": 1} if change == "all scores equal" else {}
    truth, predictions = draw(5, **options)
    if change in ("no objects", "neither"):
        truth = truth | {"annotations": []}
    if change in ("no predictions", "neither"):
        predictions = Predictions(
            predictions.img_ids[:0], predictions.cat_ids[:0], predictions.boxes[:0], predictions.scores[:0]
        )
    expected, found = both(truth, predictions)
    np.testing.assert_array_equal(found, expected)


def test_a_part_of_the_images_is_evaluated_alone():
    truth, predictions = draw(1)
    keep = predictions.img_ids <= 4
    part = Predictions(*(getattr(predictions, name)[keep] for name in ("img_ids", "cat_ids", "boxes", "scores")))
    expected, found = both(truth, part, img_ids=[4, 1, 3, 2])
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("seed", range(3))
def test_precision_of_masks_equals_that_of_pycocotools(seed):
    expected, found = both(*draw(seed, num_images=4, num_predictions=12, with_masks=True))
    np.testing.assert_array_equal(found, expected)
    assert expected.max() > 0


def test_blocks_do_not_change_the_result(monkeypatch):
    truth, predictions = draw(2)
    whole = both(truth, predictions)[1]
    monkeypatch.setattr(matching, "_PAIRS_AT_ONCE", 7)
    np.testing.assert_array_equal(both(truth, predictions)[1], whole)


def test_iou_with_a_crowd_is_the_share_of_our_box():
    ours, theirs = np.array([[0.0, 0, 10, 10]] * 3), np.array([[5.0, 0, 10, 10], [5, 0, 10, 10], [20, 0, 5, 5]])
    np.testing.assert_allclose(box_ious(ours, theirs, np.array([False, True, False])), [1 / 3, 1 / 2, 0])


def test_the_best_prediction_takes_the_object_and_a_crowd_takes_any_number():
    boxes = np.array([[0.0, 0, 10, 10], [100, 0, 50, 50]])
    objects = Objects(np.zeros(2, dtype=int), boxes, boxes[:, 2] * boxes[:, 3], np.array([False, True]))
    rows = np.array([[0.0, 0, 10, 9], [0, 0, 10, 10], [110, 0, 9, 9], [120, 0, 9, 9], [60, 60, 5, 5]])
    scores = np.array([0.5, 0.9, 0.8, 0.7, 0.6])
    answers = Answers(np.zeros(5, dtype=int), rows, rows[:, 2] * rows[:, 3], scores)
    found = match(objects, answers, thresholds=[0.5], areas=[(0.0, 1e10)], max_dets=100)
    status = np.full(5, MISS)
    status[found.rows[found.reaching]] = found.status[0]
    assert found.rows.tolist() == [1, 2, 3, 4, 0]
    assert status.tolist() == [MISS, HIT, IGNORED, IGNORED, MISS]

"""From file to figure: neither the order of categories, nor gaps in ids, nor the order of prompts changes the AP."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from lumen.data.coco import CocoDataset
from lumen.data.transforms import AskClasses, LoadImage, PackSample, ResizeToInput
from lumen.metrics.coco.metric import CocoMetric

NAMES = ("ant", "bee", "cat", "dog")


def write_set(root, cat_ids, order):
    """Write one fixed set of boxes; only the ids of the classes and the order of the categories differ."""
    rng = np.random.default_rng(0)
    images, annotations = [], []
    for img_id in range(1, 7):
        Image.new("RGB", (64, 48)).save(root / f"{img_id}.png")
        images.append({"id": img_id, "file_name": f"{img_id}.png", "width": 64, "height": 48})
        for label in rng.integers(0, 4, img_id - 1):
            box = [*rng.uniform(0, 20, 2), *rng.uniform(8, 25, 2)]
            row = {"id": len(annotations) + 1, "image_id": img_id, "category_id": cat_ids[label], "bbox": box}
            annotations.append(row | {"area": box[2] * box[3], "iscrowd": 0})
    categories = [{"id": cat_ids[label], "name": NAMES[label]} for label in order]
    (root / "a.json").write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories}))


def answers(dataset):
    """Answer each prompt with its own targets, moved a little; scores and shifts depend on the phrase alone."""
    for index in range(len(dataset)):
        sample = dataset[index]["data_samples"]
        table = sample.gt_instances
        labels = torch.tensor([prompt.label for prompt in sample.prompts])[table.prompt_index]
        names = [dataset.metainfo["classes"][label] for label in labels.tolist()]
        strength = torch.tensor([NAMES.index(name) + 1.0 for name in names])
        bboxes = sample.frame.boxes_to_original(table.bboxes)
        bboxes = bboxes + strength[:, None] * torch.tensor([0.0, 0.0, 0.8, 0.0])
        predictions = {"bboxes": bboxes, "labels": labels, "scores": 1 - 0.1 * strength - 0.001 * bboxes[:, 0]}
        yield {"img_id": sample.img_id, "prompts": sample.prompts, "pred_instances": predictions}


def average_precision(root, classes=None, **ask):
    pipeline = [LoadImage(), ResizeToInput(input_hw=(32, 32)), AskClasses(num_prompts=None, **ask), PackSample()]
    dataset = CocoDataset(
        ann_file="a.json", data_root=str(root), pipeline=pipeline, classes=classes, skip_budget=0.0, test_mode=True
    )
    metric = CocoMetric(ann_file=str(root / "a.json"), backend="pycocotools", classwise=True)
    metric.dataset_meta = dataset.metainfo
    metric.process(None, list(answers(dataset)))
    figures = metric.evaluate(len(dataset))
    return {name: pytest.approx(value, abs=1e-6) for name, value in figures.items()}


@pytest.fixture
def reference(tmp_path):
    (tmp_path / "plain").mkdir()
    write_set(tmp_path / "plain", (1, 2, 3, 4), (0, 1, 2, 3))
    figures = average_precision(tmp_path / "plain", shuffle=False)
    values = [figure.expected for name, figure in figures.items() if "bbox_AP_" in name]
    assert len(set(values)) == 4 and min(values) > 0  # each class has its own figure, so a mix-up shows
    return figures


@pytest.mark.parametrize("cat_ids", [(1, 2, 3, 4), (90, 7, 33, 1), (0, 5, 2, 9)])
@pytest.mark.parametrize("order", [(0, 1, 2, 3), (3, 1, 0, 2)])
@pytest.mark.parametrize("classes", [None, ("dog", "ant", "cat", "bee")])
def test_ids_and_orders_do_not_change_the_figures(tmp_path, reference, cat_ids, order, classes):
    write_set(tmp_path, cat_ids, order)
    assert average_precision(tmp_path, classes, shuffle=False) == {k: v.expected for k, v in reference.items()}


def test_prompts_in_random_order_do_not_change_the_figures(tmp_path, reference):
    write_set(tmp_path, (1, 2, 3, 4), (0, 1, 2, 3))
    np.random.seed(3)
    assert average_precision(tmp_path, shuffle=True) == {k: v.expected for k, v in reference.items()}


def test_asking_twice_for_a_class_does_not_change_the_figures(tmp_path, reference):
    write_set(tmp_path, (1, 2, 3, 4), (0, 1, 2, 3))
    wording = {"cat": ["cat", "cat", "kitten"], "dog": ["hound", "dog"]}
    figures = average_precision(tmp_path, wording=wording, every_wording=True)
    assert figures == {k: v.expected for k, v in reference.items()}


@pytest.mark.skipif("LUMEN_DATA" not in os.environ, reason="set LUMEN_DATA to a folder with bccd and tiny_coco")
@pytest.mark.parametrize("backend", ["pycocotools", "faster-coco-eval"])
def test_the_ground_truth_of_real_sets_scores_one(backend):
    root = Path(os.environ["LUMEN_DATA"]) / "tiny_coco"
    ann_file = str(root / "annotations/instances_val2017.json")
    pipeline = [LoadImage(), ResizeToInput(input_hw=(336, 336)), AskClasses(num_prompts=None), PackSample()]
    dataset = CocoDataset(ann_file=ann_file, data_prefix={"img": str(root / "val2017")}, pipeline=pipeline)
    metric = CocoMetric(ann_file=ann_file, backend=backend)
    metric.dataset_meta = dataset.metainfo
    for index in range(len(dataset)):
        sample = dataset[index]["data_samples"]
        bboxes = sample.frame.boxes_to_original(sample.gt_instances.bboxes)
        table = {"bboxes": bboxes, "labels": sample.gt_instances.labels, "scores": torch.ones(len(bboxes))}
        metric.process(None, [{"img_id": sample.img_id, "prompts": sample.prompts, "pred_instances": table}])
    assert metric.evaluate(len(dataset))["coco/bbox_mAP"] == pytest.approx(1)

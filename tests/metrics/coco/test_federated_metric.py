"""Federated evaluation against LVIS's rules, by cases that can be worked out by hand."""

import json

import numpy as np
import pytest
import torch
from mmengine.structures import InstanceData

from lumen.errors import DataError
from lumen.metrics.coco.metric import CocoMetric

BOX = [10.0, 10.0, 40.0, 40.0]
FAR = [60.0, 60.0, 90.0, 90.0]
CLASSES = {1: "cat", 2: "dog", 5: "owl"}


def write(folder, *, absent=((), ()), incomplete=((), ()), objects=((1, 1),)):
    """Write a file of two images; an object is (image, class) and lies in BOX."""
    images = [
        {"id": at, "width": 100, "height": 100, "neg_category_ids": list(no), "not_exhaustive_category_ids": list(some)}
        for at, (no, some) in enumerate(zip(absent, incomplete, strict=True), start=1)
    ]
    annotations = [
        {"id": at, "image_id": image, "category_id": kind, "bbox": [10, 10, 30, 30], "area": 900}
        for at, (image, kind) in enumerate(objects)
    ]
    categories = [
        {"id": cat_id, "name": name, "frequency": frequency}
        for (cat_id, name), frequency in zip(CLASSES.items(), "rcf", strict=True)
    ]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (folder / "a.json").write_text(json.dumps(content))


def figures(folder, answers, *, backend="numpy", max_dets=300):
    """Evaluate answers (image, class, score, box)."""
    metric = CocoMetric(ann_file=str(folder / "a.json"), federated=True, backend=backend, max_dets=max_dets)
    metric.dataset_meta = {"classes": list(CLASSES.values()), "cat_ids": list(CLASSES)}
    label_of = {cat_id: label for label, cat_id in enumerate(CLASSES)}
    for image in (1, 2):
        rows = [row for row in answers if row[0] == image]
        table = InstanceData(
            labels=torch.tensor([label_of[row[1]] for row in rows], dtype=torch.long),
            scores=torch.tensor([row[2] for row in rows], dtype=torch.float32),
            bboxes=torch.tensor([row[3] for row in rows], dtype=torch.float32).reshape(-1, 4),
        )
        metric.process(None, [{"img_id": image, "prompts": (), "pred_instances": table}])
    return metric.evaluate(size=2)


RIGHT = (1, 1, 0.5, BOX)


@pytest.mark.parametrize("backend", ["numpy", "pycocotools"])
def test_answers_of_unverified_classes_do_not_count(tmp_path, backend):
    """A better scored answer in the second image halves the AP only where that image is verified not to show it."""
    wrong = (2, 1, 0.9, FAR)
    write(tmp_path)
    assert figures(tmp_path, [RIGHT, wrong], backend=backend)["coco/bbox_mAP"] == pytest.approx(1)
    write(tmp_path, absent=((), (1,)))
    assert figures(tmp_path, [RIGHT, wrong], backend=backend)["coco/bbox_mAP"] == pytest.approx(0.5)


@pytest.mark.parametrize("backend", ["numpy", "pycocotools"])
def test_unmatched_answers_of_incomplete_classes_do_not_count(tmp_path, backend):
    wrong = (1, 1, 0.9, [60.0, 60.0, 120.0, 90.0])  # reaches beyond the image
    write(tmp_path)
    assert figures(tmp_path, [RIGHT, wrong], backend=backend)["coco/bbox_mAP"] == pytest.approx(0.5)
    write(tmp_path, incomplete=((1,), ()))
    assert figures(tmp_path, [RIGHT, wrong], backend=backend)["coco/bbox_mAP"] == pytest.approx(1)
    # An object that is annotated there must still be found.
    assert figures(tmp_path, [wrong], backend=backend)["coco/bbox_mAP"] == 0


def test_the_best_answers_of_an_image_count_over_all_classes(tmp_path):
    """Answers of classes that do not count take places too, as in LVIS's evaluator, which cuts first."""
    write(tmp_path)
    others = [(1, 2, 0.8, FAR), (1, 5, 0.7, FAR)]
    assert figures(tmp_path, [RIGHT, *others], max_dets=3)["coco/bbox_mAP"] == pytest.approx(1)
    assert figures(tmp_path, [RIGHT, *others], max_dets=2)["coco/bbox_mAP"] == 0


def test_rare_common_and_frequent_classes_have_their_own_figures(tmp_path):
    write(tmp_path, objects=((1, 1), (1, 2)))
    found = figures(tmp_path, [RIGHT])
    assert [found[f"coco/bbox_AP{name}"] for name in "rcf"] == pytest.approx([1, 0, -1])
    assert found["coco/bbox_mAP"] == pytest.approx(0.5)


def test_without_an_answer_all_is_zero(tmp_path):
    write(tmp_path)
    assert figures(tmp_path, [])["coco/bbox_mAP"] == 0


def test_a_file_without_the_lists_is_refused(tmp_path):
    write(tmp_path)
    content = json.loads((tmp_path / "a.json").read_text())
    del content["images"][1]["neg_category_ids"]
    (tmp_path / "a.json").write_text(json.dumps(content))
    with pytest.raises(DataError, match="images 2 has no"):
        figures(tmp_path, [])


def test_masks_are_evaluated_by_the_same_rules(tmp_path):
    """The mask of BOX, and a wrong one: not counted where the class is annotated incompletely."""
    from lumen.ops.masks import encode_masks

    masks = torch.zeros(2, 100, 100, dtype=torch.bool)
    masks[0, 10:40, 10:40] = masks[1, 60:90, 60:90] = True
    codes = encode_masks(masks)
    for incomplete, expected in ((((), ()), 0.5), (((1,), ()), 1.0)):
        write(tmp_path, incomplete=incomplete)
        content = json.loads((tmp_path / "a.json").read_text())
        content["annotations"][0]["segmentation"] = [[10, 10, 40, 10, 40, 40, 10, 40]]
        (tmp_path / "a.json").write_text(json.dumps(content))
        metric = CocoMetric(ann_file=str(tmp_path / "a.json"), federated=True, iou_type="segm")
        metric.dataset_meta = {"classes": list(CLASSES.values()), "cat_ids": list(CLASSES)}
        fields = {"labels": torch.zeros(2, dtype=torch.long), "scores": torch.tensor([0.5, 0.9])}
        answer = InstanceData(**fields, masks=np.array(codes, dtype=object))
        nothing = InstanceData(labels=torch.zeros(0, dtype=torch.long), scores=torch.zeros(0), masks=[])
        for image, table in ((1, answer), (2, nothing)):
            metric.process(None, [{"img_id": image, "prompts": (), "pred_instances": table}])
        assert metric.evaluate(size=2)["coco/segm_mAP"] == pytest.approx(expected)

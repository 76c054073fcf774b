import json

import numpy as np
import pytest
import torch

from lumen.errors import ConfigError, DataError
from lumen.metrics.coco.ground_truth import read_ground_truth
from lumen.metrics.coco.metric import CocoMetric
from lumen.ops.masks import encode_masks
from lumen.structures import Prompt

BACKENDS = ["pycocotools", "faster-coco-eval", "numpy"]


@pytest.fixture(params=BACKENDS)
def backend(request):
    if request.param == "faster-coco-eval":
        pytest.importorskip("faster_coco_eval")
    return request.param


def write_truth(path, *, cat_ids=(1, 2), names=("cat", "dog"), boxes=None, num_images=2):
    """Write a file whose annotations are given as {image id: [(category id, xywh box), ...]}."""
    boxes = {1: [(cat_ids[0], [10, 10, 50, 40]), (cat_ids[1], [100, 100, 20, 20])], 2: []} if boxes is None else boxes
    rows = [(img_id, *row) for img_id, rows in boxes.items() for row in rows]
    content = {
        "images": [{"id": i, "file_name": f"{i}.png", "width": 200, "height": 200} for i in range(1, num_images + 1)],
        "categories": [{"id": i, "name": n} for i, n in zip(cat_ids, names, strict=True)],
        "annotations": [
            {
                "id": number,
                "image_id": img_id,
                "category_id": cat,
                "bbox": list(map(float, b)),
                "area": float(b[2] * b[3]),
                "iscrowd": 0,
            }
            for number, (img_id, cat, b) in enumerate(rows, start=1)
        ],
    }
    path.write_text(json.dumps(content))
    return str(path)


def answer(img_id, rows, *, prompt_labels=(0, 1), **extra):
    """Make a processed sample from rows (label, score, xyxy box)."""
    labels = [row[0] for row in rows]
    table = {
        "bboxes": torch.tensor([row[2] for row in rows], dtype=torch.float32).reshape(-1, 4),
        "scores": torch.tensor([row[1] for row in rows], dtype=torch.float32),
        "labels": torch.tensor(labels, dtype=torch.long),
    } | {name: torch.tensor(values) for name, values in extra.items()}
    prompts = tuple(Prompt(text=str(label), label=label) for label in prompt_labels)
    return {"img_id": img_id, "prompts": prompts, "pred_instances": table}


def evaluate(ann_file, samples, *, classes=("cat", "dog"), cat_ids=(1, 2), **kwargs):
    metric = CocoMetric(ann_file=ann_file, **kwargs)
    metric.dataset_meta = {"classes": classes, "cat_ids": cat_ids}
    metric.process(None, samples)
    return metric.evaluate(len(samples))


CAT, DOG = [10, 10, 60, 50], [100, 100, 120, 120]
PERFECT = [(0, 0.9, CAT), (1, 0.8, DOG)]


def test_perfect_predictions_reach_one(tmp_path, backend):
    figures = evaluate(write_truth(tmp_path / "a.json"), [answer(1, PERFECT), answer(2, [])], backend=backend)
    assert figures["coco/bbox_mAP"] == pytest.approx(1)
    assert figures["coco/bbox_mAP_s"] == pytest.approx(1)  # the dog, 20 x 20
    assert figures["coco/bbox_mAP_m"] == pytest.approx(1)  # the cat, 50 x 40
    assert figures["coco/bbox_mAP_l"] == -1


def test_a_box_with_half_overlap_counts_at_its_own_thresholds_only(tmp_path, backend):
    # IoU of (10, 10, 60, 50) and (10, 10, 60, 42) is 32 / 40 = 0.8: right at 0.5 ... 0.8, seven of ten thresholds.
    rows = [(0, 0.9, [10, 10, 60, 42]), (1, 0.8, DOG)]
    figures = evaluate(
        write_truth(tmp_path / "a.json"), [answer(1, rows), answer(2, [])], backend=backend, classwise=True
    )
    assert figures["coco/bbox_AP_cat"] == pytest.approx(0.7)
    assert figures["coco/bbox_AP_dog"] == pytest.approx(1)
    assert figures["coco/bbox_mAP_75"] == pytest.approx(1)


def test_no_predictions_give_zeros(tmp_path, backend):
    figures = evaluate(write_truth(tmp_path / "a.json"), [answer(1, []), answer(2, [])], backend=backend)
    assert figures["coco/bbox_mAP"] == 0


def test_a_file_without_annotations_gives_minus_one(tmp_path, backend):
    ann_file = write_truth(tmp_path / "a.json", boxes={})
    figures = evaluate(ann_file, [answer(1, PERFECT), answer(2, [])], backend=backend)
    assert figures["coco/bbox_mAP"] == -1


def test_labels_follow_the_order_of_classes_not_of_ids(tmp_path, backend):
    ann_file = write_truth(tmp_path / "a.json", cat_ids=(90, 7))
    swapped = [(1, 0.9, CAT), (0, 0.8, DOG)]
    figures = evaluate(
        ann_file,
        [answer(1, swapped), answer(2, [])],
        classes=("dog", "cat"),
        cat_ids=(7, 90),
        backend=backend,
        classwise=True,
    )
    assert figures["coco/bbox_AP_dog"] == figures["coco/bbox_AP_cat"] == pytest.approx(1)
    wrong = evaluate(ann_file, [answer(1, swapped), answer(2, [])], cat_ids=(90, 7), backend=backend)
    assert wrong["coco/bbox_mAP"] == 0


def test_classwise_figures_go_with_their_names_when_ids_are_not_sorted(tmp_path, backend):
    ann_file = write_truth(tmp_path / "a.json", cat_ids=(90, 7))
    figures = evaluate(
        ann_file, [answer(1, PERFECT[:1]), answer(2, [])], cat_ids=(90, 7), backend=backend, classwise=True
    )
    assert figures["coco/bbox_AP_cat"] == pytest.approx(1)
    assert figures["coco/bbox_AP_dog"] == 0


def test_classes_that_the_file_calls_otherwise_are_an_error(tmp_path):
    ann_file = write_truth(tmp_path / "a.json")
    with pytest.raises(DataError, match="which this file calls"):
        evaluate(ann_file, [answer(1, PERFECT)], classes=("dog", "cat"))


def test_equal_answers_to_two_prompts_for_one_class_count_once(tmp_path, backend):
    ann_file = write_truth(tmp_path / "a.json")
    once = evaluate(ann_file, [answer(1, [*PERFECT, (0, 0.3, [0, 0, 9, 9])]), answer(2, [])], backend=backend)
    rows = [PERFECT[0], PERFECT[1], PERFECT[0], (0, 0.3, [0, 0, 9, 9]), (0, 0.3, [0, 0, 9, 9])]
    twice = evaluate(ann_file, [answer(1, rows, prompt_labels=(0, 1, 0)), answer(2, [])], backend=backend)
    assert twice == once


def test_the_order_of_rows_and_images_does_not_matter(tmp_path, backend):
    ann_file = write_truth(tmp_path / "a.json")
    rows = [*PERFECT, (0, 0.95, [0, 0, 9, 9])]
    one = evaluate(ann_file, [answer(1, rows), answer(2, [])], backend=backend)
    other = evaluate(ann_file, [answer(2, []), answer(1, rows[::-1], prompt_labels=(1, 0))], backend=backend)
    assert one == other


def test_an_image_without_an_answer_is_an_error(tmp_path):
    ann_file = write_truth(tmp_path / "a.json")
    with pytest.raises(DataError, match=r"asked 2 images, answered 1"):
        evaluate(ann_file, [answer(1, PERFECT)])
    assert evaluate(ann_file, [answer(1, PERFECT)], is_partial=True)["coco/bbox_mAP"] == pytest.approx(1)


def test_an_image_answered_twice_is_an_error(tmp_path):
    with pytest.raises(DataError, match="answered 3"):
        evaluate(write_truth(tmp_path / "a.json"), [answer(1, PERFECT), answer(1, PERFECT), answer(2, [])])


@pytest.mark.parametrize("label", [-1, 2])
def test_a_label_without_a_class_is_an_error(tmp_path, label):
    with pytest.raises(DataError, match="do not fit 2 classes"):
        evaluate(write_truth(tmp_path / "a.json"), [answer(1, [(label, 0.5, CAT)]), answer(2, [])])


def test_boxes_that_are_not_finite_are_an_error(tmp_path):
    with pytest.raises(DataError, match="not finite"):
        evaluate(write_truth(tmp_path / "a.json"), [answer(1, [(0, float("nan"), CAT)]), answer(2, [])])


def test_missing_fields_are_named(tmp_path):
    sample = answer(1, PERFECT)
    del sample["pred_instances"]["scores"]
    with pytest.raises(DataError, match="must hold"):
        evaluate(write_truth(tmp_path / "a.json"), [sample])


def test_scores_without_presence_give_their_own_figure(tmp_path, backend):
    # The false alarm is below the cat by `scores` and above it by `peak_scores`: precision 1/2 at every recall.
    rows = [(0, 0.9, CAT), (0, 0.1, [0, 0, 9, 9])]
    samples = [answer(1, rows, peak_scores=[0.5, 0.8]), answer(2, [], peak_scores=[])]
    ann_file = write_truth(tmp_path / "a.json", boxes={1: [(1, [10, 10, 50, 40])]})
    figures = evaluate(ann_file, samples, backend=backend)
    assert figures["coco/bbox_mAP"] == pytest.approx(1)
    assert figures["coco/bbox_mAP_peak_only"] == pytest.approx(0.5)


def test_an_annotation_with_id_zero_can_be_matched(tmp_path, backend):
    ann_file = write_truth(tmp_path / "a.json")
    content = json.loads((tmp_path / "a.json").read_text())
    for number, entry in enumerate(content["annotations"]):
        entry["id"] = number
    (tmp_path / "a.json").write_text(json.dumps(content))
    assert evaluate(ann_file, [answer(1, PERFECT), answer(2, [])], backend=backend)["coco/bbox_mAP"] == pytest.approx(1)


def test_headline_names_a_reported_figure_and_the_protocol_is_kept(tmp_path):
    metric = CocoMetric(ann_file=write_truth(tmp_path / "a.json"), backend="pycocotools")
    metric.dataset_meta = {"classes": ("cat", "dog"), "cat_ids": (1, 2)}
    metric.process(None, [answer(1, PERFECT), answer(2, [])])
    assert metric.headline in metric.evaluate(2)
    assert metric.protocol == {
        "images": 2,
        "classes": 2,
        "prompts_per_image": (2, 2),
        "ground_truth": "all images, unfiltered",
        "max_dets": 100,
        "backend": "pycocotools",
    }


def test_an_unknown_backend_is_an_error(tmp_path):
    with pytest.raises(ConfigError, match="unknown or not installed"):
        CocoMetric(ann_file=write_truth(tmp_path / "a.json"), backend="magic")


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"images": [], "categories": [], "annotations": [{"id": 1}]}', '{"images": 1}']
)
def test_broken_ground_truth_is_a_data_error(tmp_path, text):
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(DataError, match=r"a\.json"):
        read_ground_truth(tmp_path / "a.json")


def random_case(path, *, num_images=12, num_classes=4, seed=0):
    """Random boxes, and predictions that are noisy copies of them plus false alarms."""
    rng = np.random.default_rng(seed)
    boxes, samples = {}, []
    for img_id in range(1, num_images + 1):
        corners = rng.uniform(0, 120, (rng.integers(0, 8), 2))
        sizes = rng.uniform(5, 75, corners.shape)
        labels = rng.integers(0, num_classes, len(corners))
        boxes[img_id] = [
            (int(c) + 1, [*a, *s]) for c, a, s in zip(labels, corners.tolist(), sizes.tolist(), strict=True)
        ]
        found = np.concatenate([corners, corners + sizes], axis=1) + rng.normal(0, 2, (len(corners), 4))
        wrong = rng.uniform(0, 60, (5, 2))
        rows = [(int(c), float(rng.uniform(0.2, 1)), b) for c, b in zip(labels, found.tolist(), strict=True)]
        rows += [(int(rng.integers(num_classes)), float(rng.uniform(0, 0.6)), [*a, *(a + 30)]) for a in wrong]
        samples.append(answer(img_id, rows, prompt_labels=range(num_classes)))
    names = tuple(f"class {i}" for i in range(num_classes))
    ids = tuple(range(1, num_classes + 1))
    return write_truth(path, cat_ids=ids, names=names, boxes=boxes, num_images=num_images), samples, names, ids


def test_backends_agree(tmp_path):
    pytest.importorskip("faster_coco_eval")
    ann_file, samples, names, ids = random_case(tmp_path / "a.json")
    options = {"classes": names, "cat_ids": ids, "classwise": True}
    one, *others = (evaluate(ann_file, samples, backend=backend, **options) for backend in BACKENDS)
    assert 0.1 < one["coco/bbox_mAP"] < 0.9
    for other in others:
        assert one == pytest.approx(other, abs=1e-9)


@pytest.mark.filterwarnings("ignore")
def test_figures_equal_those_of_mmdet(tmp_path):
    mmdet_metrics = pytest.importorskip("mmdet.evaluation.metrics")
    ann_file, samples, names, ids = random_case(tmp_path / "a.json")
    ours = evaluate(ann_file, samples, classes=names, cat_ids=ids, backend="pycocotools")
    theirs = mmdet_metrics.CocoMetric(ann_file=ann_file, metric="bbox", format_only=False)
    theirs.dataset_meta = {"classes": names}
    theirs.process({}, [{**s, "ori_shape": (200, 200)} for s in samples])
    expected = theirs.evaluate(len(samples))
    for name in ("bbox_mAP", "bbox_mAP_50", "bbox_mAP_75", "bbox_mAP_s", "bbox_mAP_m", "bbox_mAP_l"):
        assert ours[f"coco/{name}"] == pytest.approx(expected[f"coco/{name}"], abs=6e-4)  # mmdet rounds to 3 digits


def square(box, size_hw=(200, 200)):
    mask = torch.zeros(1, *size_hw, dtype=torch.bool)
    mask[0, box[1] : box[3], box[0] : box[2]] = True
    return encode_masks(mask)[0]


def write_mask_truth(path):
    write_truth(path)
    content = json.loads(path.read_text())
    for entry in content["annotations"]:
        left, top, width, height = entry["bbox"]
        corners = [left, top, left + width, top, left + width, top + height, left, top + height]
        entry["segmentation"] = [corners]
    path.write_text(json.dumps(content))
    return str(path)


def mask_answer(img_id, rows, boxes=None, **extra):
    """Make a processed sample whose masks are the rows' boxes; ``boxes`` may say otherwise."""
    sample = answer(img_id, [(label, score, box) for (label, score, _), box in zip(rows, boxes, strict=True)]
                    if boxes else rows, **extra)  # fmt: skip
    sample["pred_instances"]["masks"] = [square(row[2]) for row in rows]
    return sample


def test_masks_and_boxes_are_judged_apart_in_one_metric(tmp_path, backend):
    # The cat's box is right and its mask lacks the lower fifth: IoU .8, right at seven of ten thresholds.
    rows = [(0, 0.9, [10, 10, 60, 42]), (1, 0.8, DOG)]
    samples = [mask_answer(1, rows, boxes=[CAT, DOG]), mask_answer(2, [])]
    ann_file = write_mask_truth(tmp_path / "a.json")
    figures = evaluate(ann_file, samples, backend=backend, iou_type=("bbox", "segm"), classwise=True)
    assert figures["coco/bbox_mAP"] == pytest.approx(1)
    assert figures["coco/segm_AP_cat"] == pytest.approx(0.7)
    assert figures["coco/segm_AP_dog"] == pytest.approx(1)
    assert figures["coco/segm_mAP_l"] == -1


def test_masks_alone_need_no_boxes(tmp_path, backend):
    samples = [mask_answer(1, PERFECT), mask_answer(2, [])]
    for sample in samples:
        del sample["pred_instances"]["bboxes"]
    metric = CocoMetric(ann_file=write_mask_truth(tmp_path / "a.json"), iou_type="segm", backend=backend)
    metric.dataset_meta = {"classes": ("cat", "dog"), "cat_ids": (1, 2)}
    metric.process(None, samples)
    assert metric.needs == {"masks", "scores", "labels"}
    assert metric.headline == "coco/segm_mAP"
    assert metric.evaluate(2)[metric.headline] == pytest.approx(1)


def test_equal_masks_to_two_prompts_for_one_class_count_once(tmp_path, backend):
    ann_file = write_mask_truth(tmp_path / "a.json")
    once = evaluate(ann_file, [mask_answer(1, PERFECT), mask_answer(2, [])], backend=backend, iou_type="segm")
    samples = [mask_answer(1, [*PERFECT, PERFECT[0]], prompt_labels=(0, 1, 0)), mask_answer(2, [])]
    assert evaluate(ann_file, samples, backend=backend, iou_type="segm") == once


def test_a_mask_of_another_size_than_its_image_is_an_error(tmp_path):
    sample = mask_answer(1, PERFECT)
    sample["pred_instances"]["masks"][1] = square(DOG, (200, 150))
    with pytest.raises(DataError, match=r"image 1: 1 masks of another size, first \[200, 150\].*\[200, 200\]"):
        evaluate(write_mask_truth(tmp_path / "a.json"), [sample, mask_answer(2, [])], iou_type="segm")


def test_an_annotation_without_a_mask_is_an_error_when_masks_are_evaluated(tmp_path):
    with pytest.raises(DataError, match="no segmentation"):
        CocoMetric(ann_file=write_truth(tmp_path / "a.json"), iou_type="segm")


@pytest.mark.parametrize("iou_type", ["keypoints", (), ("bbox", "bbox")])
def test_an_unknown_iou_type_is_an_error(tmp_path, iou_type):
    with pytest.raises(ConfigError, match="iou_type must be"):
        CocoMetric(ann_file=write_truth(tmp_path / "a.json"), iou_type=iou_type)

import contextlib
import io
import json
import math

import numpy as np
import pytest
import torch
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from lumen.errors import ConfigError, DataError
from lumen.metrics.pose import COCO_SIGMAS, PCK, KeypointAP
from lumen.structures import Prompt

NAMES = ("head", "left_hand", "right_hand")


@pytest.fixture(params=["pycocotools", "faster-coco-eval"])
def backend(request):
    if request.param == "faster-coco-eval":
        pytest.importorskip("faster_coco_eval")
    return request.param


def person(ann_id, points, *, image_id=1, category_id=1, box=(0, 0, 100, 50), **further):
    flat = [float(value) for point in points for value in point]
    visible = sum(point[2] > 0 for point in points)
    own = {"id": ann_id, "image_id": image_id, "category_id": category_id, "bbox": list(box), "area": 5000.0}
    return own | {"iscrowd": 0, "keypoints": flat, "num_keypoints": visible} | further


def write(path, annotations, *, categories=None, num_images=3):
    content = {
        "images": [{"id": number, "width": 200, "height": 200} for number in range(1, num_images + 1)],
        "categories": categories or [{"id": 1, "name": "person", "keypoints": list(NAMES)}],
        "annotations": annotations,
    }
    path.write_text(json.dumps(content))
    return str(path)


def answer(instance_id, points, *, img_id=1, score=0.9, label=0, places=None):
    """Make a processed sample; ``points`` of None is an empty prediction."""
    places = range(len(points or ())) if places is None else places
    count = 0 if points is None else 1
    return {
        "img_id": img_id,
        "instance_id": instance_id,
        "box_label": label,
        "prompts": tuple(Prompt(str(place), task="pose", label=place) for place in places),
        "pred_instances": {
            "keypoints": torch.tensor(points or [], dtype=torch.float32).reshape(count, len(points or ()), 2),
            "keypoint_scores": torch.ones(count, len(points or ())),
            "scores": torch.full((count,), score),
        },
    }


def evaluate(metric, samples, *, names=(NAMES,), classes=("person",), cat_ids=(1,), boxes="annotated"):
    metric.dataset_meta = {"classes": classes, "cat_ids": cat_ids, "keypoint_names": names, "boxes": boxes}
    metric.process(None, samples)
    return metric.evaluate(max(len(samples), 1))


TRUE = [(10, 10, 2), (20, 30, 1), (60, 40, 2)]
RIGHT = [(10, 10), (20, 30), (60, 40)]


def test_perfect_keypoints_reach_one(tmp_path, backend):
    ann_file = write(tmp_path / "a.json", [person(0, TRUE)])  # the id 0 is a trap of the evaluators
    metric = KeypointAP(ann_file=ann_file, sigmas=0.05, backend=backend, classwise=True)
    figures = evaluate(metric, [answer(0, RIGHT)])
    assert figures["pose/AP"] == pytest.approx(1)
    assert figures["pose/AP_person"] == pytest.approx(1)
    assert figures["pose/AR"] == pytest.approx(1)
    assert figures["pose/AP_m"] == pytest.approx(1)  # 5000 square pixels
    assert figures["pose/AP_l"] == -1
    assert metric.protocol["boxes"] == "annotated"
    assert metric.protocol["sigmas"] == {"person": [0.05] * 3}


def test_similarity_is_the_one_worked_out_by_hand(tmp_path, backend):
    # one keypoint of three off by d, with exp(-d^2 / (2 * area * (2 sigma)^2)) = 0.37: OKS (2 + 0.37) / 3 = 0.79,
    # right at the thresholds 0.5 ... 0.75, six of ten
    distance = math.sqrt(-2 * 5000 * 0.1**2 * math.log(0.37))
    ann_file = write(tmp_path / "a.json", [person(3, TRUE)])
    metric = KeypointAP(ann_file=ann_file, sigmas=[0.05] * 3, backend=backend)
    figures = evaluate(metric, [answer(3, [(10 + distance, 10), *RIGHT[1:]])])
    assert figures["pose/AP"] == pytest.approx(0.6)
    assert figures["pose/AP_75"] == pytest.approx(1)


def test_keypoints_that_are_not_labelled_do_not_count(tmp_path, backend):
    ann_file = write(tmp_path / "a.json", [person(3, [TRUE[0], (0, 0, 0), TRUE[2]])])
    figures = evaluate(
        KeypointAP(ann_file=ann_file, sigmas=0.05, backend=backend), [answer(3, [RIGHT[0], (150, 150), RIGHT[2]])]
    )
    assert figures["pose/AP"] == pytest.approx(1)


def test_columns_are_read_by_the_prompts(tmp_path, backend):
    ann_file = write(tmp_path / "a.json", [person(3, TRUE)])
    shuffled = answer(3, [RIGHT[2], RIGHT[0], RIGHT[1]], places=(2, 0, 1))
    assert evaluate(KeypointAP(ann_file=ann_file, sigmas=0.05, backend=backend), [shuffled])[
        "pose/AP"
    ] == pytest.approx(1)
    assert evaluate(PCK(ann_file=ann_file), [shuffled])["pose/PCK@0.1"] == 1


def test_figures_equal_those_of_pycocotools(tmp_path, backend):
    rng = np.random.default_rng(0)
    names = tuple(COCO_SIGMAS)
    annotations, samples, detections = [], [], []
    for ann_id in range(1, 25):
        points = np.column_stack([rng.uniform(0, 150, (17, 2)), rng.integers(0, 3, 17)])
        points[:, 2] *= ann_id % 6 > 0  # some have no labelled keypoint
        image_id = 1 + ann_id % 3
        area = float(rng.choice([500, 3000, 20000]))
        annotations.append(person(ann_id, points.tolist(), image_id=image_id, area=area, iscrowd=int(ann_id % 11 == 0)))
        if ann_id % 7 == 0:
            continue  # missed
        found = (points[:, :2] + rng.normal(0, rng.choice([1, 4, 9]), (17, 2))).astype(np.float32)
        score = float(np.float32(rng.random()))
        samples.append(answer(ann_id, found.tolist(), img_id=image_id, score=score))
        flat = np.column_stack([found, np.ones(17)]).ravel().tolist()
        detections.append({"image_id": image_id, "category_id": 1, "keypoints": flat, "score": score})
    ann_file = write(
        tmp_path / "a.json", annotations, categories=[{"id": 1, "name": "person", "keypoints": list(names)}]
    )
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(ann_file)
        evaluation = COCOeval(truth, truth.loadRes(detections), "keypoints")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    figures = evaluate(KeypointAP(ann_file=ann_file, backend=backend), samples, names=(names,))
    expected = dict(zip(("AP", "AP_50", "AP_75", "AP_m", "AP_l", "AR"), evaluation.stats, strict=False))
    assert 0.1 < expected["AP"] < 0.9
    assert {name: figures[f"pose/{name}"] for name in expected} == pytest.approx(expected, abs=1e-12)


def test_categories_keep_their_own_skeletons_and_sigmas(tmp_path, backend):
    categories = [
        {"id": 4, "name": "person", "keypoints": list(NAMES), "sigmas": [0.05, 0.05, 0.05]},
        {"id": 2, "name": "clock", "keypoints": ["centre", "tip"], "sigmas": [0.1, 0.2]},
    ]
    annotations = [person(1, TRUE, category_id=4), person(2, TRUE[:2], category_id=2)]
    ann_file = write(tmp_path / "a.json", annotations, categories=categories)
    samples = [answer(1, RIGHT), answer(2, [(150, 150), (150, 150)], label=1)]
    options = {"names": (NAMES, ("centre", "tip")), "classes": ("person", "clock"), "cat_ids": (4, 2)}
    metric = KeypointAP(ann_file=ann_file, backend=backend, classwise=True)
    figures = evaluate(metric, samples, **options)
    assert (figures["pose/AP_person"], figures["pose/AP_clock"]) == pytest.approx((1, 0))
    assert figures["pose/AP"] == pytest.approx(0.5)
    assert metric.protocol["sigmas"]["clock"] == [0.1, 0.2]


def test_missed_objects_count_unless_only_a_part_is_evaluated(tmp_path, backend):
    annotations = [person(1, TRUE), person(2, TRUE, image_id=2)]
    ann_file = write(tmp_path / "a.json", annotations)
    whole = evaluate(KeypointAP(ann_file=ann_file, sigmas=0.05, backend=backend), [answer(1, RIGHT)])
    assert whole["pose/AR"] == pytest.approx(0.5)
    part = KeypointAP(ann_file=ann_file, sigmas=0.05, backend=backend, is_partial=True)
    assert evaluate(part, [answer(1, RIGHT)])["pose/AR"] == pytest.approx(1)


def test_empty_predictions_are_zero_and_no_objects_minus_one(tmp_path, backend):
    ann_file = write(tmp_path / "a.json", [person(1, TRUE)])
    assert evaluate(KeypointAP(ann_file=ann_file, sigmas=0.05, backend=backend), [answer(1, None)])["pose/AP"] == 0
    assert evaluate(PCK(ann_file=ann_file), [answer(1, None)])["pose/PCK@0.1"] == -1
    for annotations in ([], [person(1, [(0, 0, 0)] * 3)]):
        ann_file = write(tmp_path / "b.json", annotations)
        assert evaluate(KeypointAP(ann_file=ann_file, sigmas=0.05, backend=backend), [])["pose/AP"] == -1
        assert evaluate(PCK(ann_file=ann_file), [])["pose/PCK@0.1"] == -1


def test_detected_boxes_are_told_and_have_no_pck(tmp_path, backend):
    ann_file = write(tmp_path / "a.json", [person(1, TRUE)])
    metric = KeypointAP(ann_file=ann_file, sigmas=0.05, backend=backend)
    # the second detection of the same person is a false one of a higher score: precision a half at full recall
    samples = [answer(0, RIGHT, score=0.5), answer(1, [(150, 150)] * 3, score=0.9)]
    assert evaluate(metric, samples, boxes="found.json")["pose/AP"] == pytest.approx(0.5)
    assert metric.protocol["boxes"] == "found.json"
    with pytest.raises(DataError, match=r"boxes are from found\.json"):
        evaluate(PCK(ann_file=ann_file), samples, boxes="found.json")


def test_errors_of_keypoint_ap(tmp_path):
    ann_file = write(tmp_path / "a.json", [person(1, TRUE)])
    with pytest.raises(ConfigError, match="needs 3 positive sigmas"):
        evaluate(KeypointAP(ann_file=ann_file), [answer(1, RIGHT)])
    with pytest.raises(ConfigError, match="needs 3 positive sigmas"):
        evaluate(KeypointAP(ann_file=ann_file, sigmas=[0.1, 0.1]), [answer(1, RIGHT)])
    with pytest.raises(ConfigError, match="unknown or not installed"):
        KeypointAP(backend="mine")
    with pytest.raises(DataError, match="needs all 3 keypoints"):
        evaluate(KeypointAP(ann_file=ann_file, sigmas=0.1), [answer(1, RIGHT[:2])])
    with pytest.raises(DataError, match="2 answers for 1 different"):
        evaluate(KeypointAP(ann_file=ann_file, sigmas=0.1), [answer(1, RIGHT), answer(1, RIGHT)])
    with pytest.raises(DataError, match="not finite"):
        evaluate(KeypointAP(ann_file=ann_file, sigmas=0.1), [answer(1, [(math.nan, 0), *RIGHT[1:]])])
    with pytest.raises(DataError, match="lacking: \\['box_label'\\]"):
        sample = answer(1, RIGHT)
        del sample["box_label"]
        evaluate(KeypointAP(ann_file=ann_file, sigmas=0.1), [sample])
    with pytest.raises(DataError, match="evaluate with the annotation file of the data set"):
        evaluate(KeypointAP(ann_file=ann_file, sigmas=0.1), [], classes=("dog",))
    with pytest.raises(DataError, match="needs ann_file"):
        evaluate(KeypointAP(sigmas=0.1), [])


@pytest.mark.parametrize(
    "change",
    [{"bbox": [0, 0, 5]}, {"keypoints": [1.0] * 6}, {"area": math.nan}, {"category_id": 5}, {"keypoints": None}],
)
def test_a_broken_file_is_an_error(tmp_path, change):
    ann_file = write(tmp_path / "a.json", [person(1, TRUE) | change])
    with pytest.raises(DataError, match="no usable keypoint annotations"):
        evaluate(PCK(ann_file=ann_file), [])


def test_pck_is_the_mean_over_keypoints_of_correct_shares(tmp_path):
    # the longer side is 100, so 10 pixels are allowed
    annotations = [person(1, TRUE), person(2, [TRUE[0], TRUE[1], (0, 0, 0)], image_id=2)]
    ann_file = write(tmp_path / "a.json", annotations)
    samples = [
        answer(1, [(20, 10), (20, 41), (60, 40)]),  # right at 10 off, wrong at 11 off, right
        answer(2, [(10, 10), (20, 30), (199, 199)], img_id=2),  # right, right, not labelled
    ]
    metric = PCK(ann_file=ann_file)
    figures = evaluate(metric, samples)
    assert figures["pose/PCK@0.1_person_head"] == 1
    assert figures["pose/PCK@0.1_person_left_hand"] == 0.5
    assert figures["pose/PCK@0.1_person_right_hand"] == 1
    assert figures["pose/PCK@0.1"] == pytest.approx(2.5 / 3)
    assert metric.headline == "pose/PCK@0.1"
    strict = evaluate(PCK(ann_file=ann_file, threshold=0.05, per_keypoint=False), samples)
    assert strict == {"pose/PCK@0.05": pytest.approx((0.5 + 0.5 + 1) / 3)}


def test_pck_by_a_length_of_the_body(tmp_path):
    # head to left hand: (10, 10) to (40, 50), 50 pixels, so 5 are allowed; the second one has no left hand
    points = [(10, 10, 2), (40, 50, 1), (60, 40, 2)]
    ann_file = write(tmp_path / "a.json", [person(1, points), person(2, [points[0], (0, 0, 0), points[2]])])
    metric = PCK(ann_file=ann_file, reference=("head", "left_hand"))
    samples = [answer(1, [(15, 10), (40, 56), (60, 40)]), answer(2, [(99, 99)] * 3)]
    figures = evaluate(metric, samples)
    assert figures["pose/PCK@0.1"] == pytest.approx(2 / 3)
    assert metric.protocol["objects_without_reference"] == 1
    with pytest.raises(ConfigError, match="not among the keypoints"):
        evaluate(PCK(ann_file=ann_file, reference=("head", "tail")), samples)


def test_errors_of_pck(tmp_path):
    ann_file = write(tmp_path / "a.json", [person(1, TRUE)])
    with pytest.raises(DataError, match="no annotation 7 in image 1"):
        evaluate(PCK(ann_file=ann_file), [answer(7, RIGHT)])
    with pytest.raises(DataError, match="no annotation 1 in image 2"):
        evaluate(PCK(ann_file=ann_file), [answer(1, RIGHT, img_id=2)])
    for bad in ({"threshold": 0.0}, {"reference": "head"}, {"reference": ("head",)}):
        with pytest.raises(ConfigError, match="PCK needs"):
            PCK(**bad)


def test_cocos_sigmas_are_cocos():
    evaluation = COCOeval(iouType="keypoints")
    np.testing.assert_allclose(list(COCO_SIGMAS.values()), evaluation.params.kpt_oks_sigmas)

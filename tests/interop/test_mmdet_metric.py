"""Metrics of mmdet on Lumen's answers."""

import numpy as np
import pytest
import torch
from mmdet_layouts import make_coco, make_crowdhuman, make_openimages, make_voc
from mmengine.evaluator import Evaluator
from mmengine.registry import DefaultScope
from mmengine.structures import InstanceData

from lumen.data.transforms import AskClasses, LoadImage, PackSample, ResizeToInput
from lumen.errors import ConfigError, DataError
from lumen.interop.mmdet.dataset import MMDetDataset
from lumen.interop.mmdet.metric import MMDetMetric
from lumen.metrics.coco.metric import CocoMetric
from lumen.ops.masks import encode_masks
from lumen.registry import METRICS

pytest.importorskip("mmdet")
pytestmark = pytest.mark.filterwarnings("ignore::ImportWarning", "ignore::DeprecationWarning")

FIGURES = ("mAP", "mAP_50", "mAP_75", "mAP_s", "mAP_m", "mAP_l")


def open_data(kind, files, **options):
    # An input of another size than the picture: figures are those of original pixels.
    pipeline = [
        LoadImage(),
        ResizeToInput(input_hw=(32, 32)),
        AskClasses(num_prompts=None, shuffle=False),
        PackSample(),
    ]
    return MMDetDataset(dataset={"type": kind, **files, "test_mode": True}, pipeline=pipeline, **options)


def figures_of(metric, data, answers):
    """Return the figures of answers to the samples of a data set, as a test loop computes them."""
    evaluator = Evaluator([metric])
    evaluator.dataset_meta = data.metainfo
    samples = [data[place]["data_samples"] for place in range(len(data))]
    for sample, answer in zip(samples, answers, strict=True):
        sample.pred_instances = InstanceData(**answer)
        evaluator.process([sample])
    return evaluator.evaluate(len(samples))


def answer(labels, boxes, scores=None, **fields):
    boxes = torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)
    scores = torch.linspace(0.9, 0.5, len(boxes)) if scores is None else torch.tensor(scores)
    return {"bboxes": boxes, "labels": torch.tensor(labels, dtype=torch.long), "scores": scores, **fields}


@pytest.mark.parametrize("names", [("dog", "cat"), ("cat", "dog")])
def test_coco_gives_what_our_own_metric_gives(tmp_path, names):
    files = make_coco(tmp_path) | {"metainfo": {"classes": names}}
    data = open_data("CocoDataset", files, with_masks=True)
    ann_file = str(tmp_path / "annotations.json")
    rng, answers = np.random.default_rng(0), []
    for _ in range(2):
        corners = np.array([4, 6, 24, 30]) + rng.normal(0, 1.5, (12, 4))
        masks = torch.zeros(12, 40, 60, dtype=torch.bool)
        for mask, (x1, y1, x2, y2) in zip(masks, corners.astype(int), strict=True):
            mask[y1:y2, x1:x2] = True
        labels = rng.integers(0, 2, 12).tolist()
        answers.append(answer(labels, corners, rng.random(12).astype(np.float32), masks=encode_masks(masks)))
    settings = {"type": "CocoMetric", "ann_file": ann_file, "metric": ["bbox", "segm"]}
    theirs = figures_of(MMDetMetric(metric=settings), data, answers)
    ours = figures_of(CocoMetric(iou_type=("bbox", "segm")), data, answers)
    assert 0.05 < ours["coco/bbox_mAP"] < 0.95 and 0.05 < ours["coco/segm_mAP"] < 0.95
    for kind in ("bbox", "segm"):
        for name in FIGURES:  # mmdet rounds to three digits
            assert theirs[f"coco/{kind}_{name}"] == pytest.approx(ours[f"coco/{kind}_{name}"], abs=6e-4)


def test_coco_without_a_file_reads_the_samples(tmp_path):
    data = open_data("CocoDataset", make_coco(tmp_path) | {"metainfo": {"classes": ("cat", "dog")}})
    found = figures_of(MMDetMetric(metric={"type": "CocoMetric"}), data, [answer([1], [4, 6, 24, 30]), answer([], [])])
    assert found["coco/bbox_mAP"] == 1.0


def test_equal_answers_to_two_prompts_count_once(tmp_path):
    data = open_data("CocoDataset", make_coco(tmp_path) | {"metainfo": {"classes": ("dog", "cat")}})
    data.pipeline.transforms[2] = AskClasses(
        num_prompts=None, shuffle=False, wording={"dog": ["dog", "hound"]}, every_wording=True
    )
    twice = answer([0, 0], [[4, 6, 24, 30]] * 2, [0.5, 0.5])
    metric = MMDetMetric(metric={"type": "CocoMetric"})
    figures_of(metric, data, [twice, answer([], [])])
    assert len(metric._metrics[0].results) == 0  # handed over and cleared
    evaluator = Evaluator([metric])
    evaluator.dataset_meta = data.metainfo
    sample = data[0]["data_samples"]
    sample.pred_instances = InstanceData(**twice)
    evaluator.process([sample])
    assert len(metric._metrics[0].results[0][1]["labels"]) == 1


def test_voc(tmp_path):
    data = open_data("VOCDataset", make_voc(tmp_path))
    dog, cat = (data.metainfo["classes"].index(name) for name in ("dog", "cat"))
    # The difficult cat counts neither way; half of what is said of dogs is right, and found first.
    one = answer([dog, dog, cat], [[4, 6, 24, 30], [40, 2, 50, 12], [30, 2, 40, 12]])
    found = figures_of(MMDetMetric(metric={"type": "VOCMetric", "metric": "mAP"}), data, [one])
    assert found == {"pascal_voc/mAP": 1.0, "pascal_voc/AP50": 1.0}
    wrong_first = answer([dog, dog], [[40, 2, 50, 12], [4, 6, 24, 30]])
    found = figures_of(MMDetMetric(metric={"type": "VOCMetric"}), data, [wrong_first])
    assert found["pascal_voc/mAP"] == 0.5


def test_openimages(tmp_path):
    data = open_data("OpenImagesDataset", make_openimages(tmp_path))
    names = list(data.metainfo["classes"])
    # The dog; three cats in the group, which count as one; a car, which is verified absent.
    boxes = [[6, 6, 24, 30], [30, 2, 38, 12], [37, 2, 45, 12], [31, 3, 44, 11], [1, 1, 9, 9]]
    labels = [names.index(name) for name in ("Dog", "Cat", "Cat", "Cat", "Car")]
    found = figures_of(MMDetMetric(metric={"type": "OpenImagesMetric"}), data, [answer(labels, boxes)])
    assert found["openimages/AP50"] == pytest.approx(1.0)
    found = figures_of(MMDetMetric(metric={"type": "OpenImagesMetric"}), data, [answer(labels[4:], boxes[4:])])
    assert found["openimages/AP50"] == 0.0


@pytest.mark.filterwarnings("ignore:divide by zero:RuntimeWarning", "ignore::ResourceWarning")
def test_crowdhuman(tmp_path, capsys):
    files = make_crowdhuman(tmp_path)
    data = open_data("CrowdHumanDataset", files)
    settings = {"type": "CrowdHumanMetric", "ann_file": str(tmp_path / files["ann_file"]), "metric": ["AP", "MR"]}
    # The second one lies in the ignored region. (mmdet's AP of a single person is 0.)
    found = figures_of(MMDetMetric(metric=settings), data, [answer([0, 0], [[4, 6, 24, 30], [30, 2, 40, 12]])])
    assert found["crowd_human/mMR"] == 0.0
    found = figures_of(MMDetMetric(metric=settings), data, [answer([0], [[1, 1, 3, 3]])])
    assert found["crowd_human/mMR"] == 1.0


def test_lvis_is_refused_with_what_to_use():
    pytest.importorskip("lvis")
    with pytest.raises(ConfigError, match="federated=True"):
        MMDetMetric(metric={"type": "LVISMetric", "ann_file": "x.json"})


def test_several_metrics_and_the_registered_name(tmp_path):
    data = open_data("VOCDataset", make_voc(tmp_path))
    both = [{"type": "VOCMetric"}, {"type": "VOCMetric", "iou_thrs": 0.75, "prefix": "strict"}]
    with DefaultScope.overwrite_default_scope("lumen"):
        metric = METRICS.build({"type": "MMDetMetric", "metric": both})
        assert DefaultScope.get_current_instance().scope_name == "lumen"
    dog = data.metainfo["classes"].index("dog")
    found = figures_of(metric, data, [answer([dog], [[4, 6, 24, 27]])])
    assert found["pascal_voc/mAP"] == 1.0 and set(found) == {
        *("pascal_voc/mAP", "pascal_voc/AP50", "strict/mAP", "strict/AP75")
    }
    with pytest.raises(DataError, match=r"two metrics give .*: set prefix"):
        figures_of(MMDetMetric(metric=[both[0]] * 2), data, [answer([dog], [[4, 6, 24, 27]])])


# ---- what is refused


def test_an_unknown_metric_is_named_with_the_nearest():
    with pytest.raises(ConfigError, match=r"no metric 'VocMetric'; the nearest are .*'VOCMetric'"):
        MMDetMetric(metric={"type": "VocMetric"})


def test_samples_without_annotations_are_refused(tmp_path):
    data = open_data("VOCDataset", make_voc(tmp_path))
    metric = MMDetMetric(metric={"type": "VOCMetric"})
    metric.dataset_meta = data.metainfo
    sample = data[0]["data_samples"]
    sample.pred_instances = InstanceData(**answer([], []))
    without = {key: value for key, value in sample.to_dict().items() if key != "annotation"}
    with pytest.raises(DataError, match=r"KeyError.*test_mode=True"):
        metric.process({}, [without])


def test_names_are_needed():
    with pytest.raises(DataError, match="need 'classes'"):
        MMDetMetric(metric={"type": "VOCMetric"}).dataset_meta = {}


def test_a_file_without_the_names_of_the_data_set_is_refused(tmp_path):
    make_coco(tmp_path)
    metric = MMDetMetric(metric={"type": "CocoMetric", "ann_file": str(tmp_path / "annotations.json")})
    with pytest.raises(DataError, match=r"lacks \['horse'\]"):
        metric.dataset_meta = {"classes": ("dog", "horse")}


def test_figures_per_class_under_wrong_names_are_refused(tmp_path):
    make_coco(tmp_path)
    settings = {"type": "CocoMetric", "ann_file": str(tmp_path / "annotations.json"), "classwise": True}
    MMDetMetric(metric=settings).dataset_meta = {"classes": ("dog", "cat")}
    with pytest.raises(ConfigError, match=r"in that order, \['dog', 'cat'\]"):
        MMDetMetric(metric=settings).dataset_meta = {"classes": ("cat", "dog")}


def test_free_phrases_have_no_figure(tmp_path):
    data = open_data("VOCDataset", make_voc(tmp_path))
    with pytest.raises(DataError, match="free phrases"):
        figures_of(MMDetMetric(metric={"type": "VOCMetric"}), data, [answer([-1], [[1, 2, 3, 4]])])

import numpy as np
import pytest
import torch
from mmengine.structures import InstanceData
from PIL import Image

from lumen.errors import DataError
from lumen.metrics.semantic import SemanticMetric
from lumen.ops.masks import encode_masks

TRUTH = np.array([[0, 0, 1, 1], [0, 0, 1, 255]], dtype=np.uint8)
CLASSES = ("sky", "tree", "car")


def metric(reduce_zero_label=False, **kwargs):
    built = SemanticMetric(**kwargs)
    built.dataset_meta = {"classes": CLASSES, "ignore_label": 255, "reduce_zero_label": reduce_zero_label}
    return built


def sample(folder, masks, labels, truth=TRUTH, img_id=0):
    Image.fromarray(truth).save(folder / f"{img_id}.png")
    codes = encode_masks(torch.from_numpy(np.array(masks, dtype=bool)).reshape(-1, *truth.shape))
    answer = InstanceData(labels=torch.tensor(labels, dtype=torch.long))
    if len(labels):
        answer.masks = codes
    else:
        answer.set_field([], "masks")
    return {"img_id": img_id, "label_map_path": str(folder / f"{img_id}.png"), "pred_instances": answer}


def test_figures_worked_out_by_hand(tmp_path):
    sky = [[1, 1, 1, 0], [1, 0, 0, 0]]
    tree = [[0, 0, 0, 1], [0, 0, 1, 1]]
    counted = metric(classwise=True)
    counted.process(None, [sample(tmp_path, [tree, sky], [1, 0])])
    figures = counted.evaluate(1)
    # sky: 3 of 4 found, one too many; tree: 2 of 3, the pixel without a class does not count. Car is nowhere.
    assert figures["semantic/IoU_sky"] == pytest.approx(3 / 5)
    assert figures["semantic/IoU_tree"] == pytest.approx(2 / 3)
    assert figures["semantic/IoU_car"] == -1
    assert figures["semantic/mIoU"] == pytest.approx((3 / 5 + 2 / 3) / 2)
    assert figures["semantic/pixel_accuracy"] == pytest.approx(5 / 7)
    assert figures["semantic/mean_class_accuracy"] == pytest.approx((3 / 4 + 2 / 3) / 2)
    assert counted.headline == "semantic/mIoU"


def test_areas_are_added_over_images_before_dividing(tmp_path):
    other = np.array([[1]], dtype=np.uint8)
    counted = metric()
    counted.process(None, [sample(tmp_path, [TRUTH == 0, TRUTH == 1], [0, 1])])
    counted.process(None, [sample(tmp_path, [[[1]]], [0], other, img_id=1)])
    figures = counted.evaluate(2)
    # sky: 4 right, 1 too many; tree: 3 right, 1 missed.
    assert figures["semantic/mIoU"] == pytest.approx((4 / 5 + 3 / 4) / 2)
    assert figures["semantic/pixel_accuracy"] == pytest.approx(7 / 8)


def test_no_answer_is_a_wrong_answer(tmp_path):
    counted = metric()
    counted.process(None, [sample(tmp_path, [], [])])
    assert counted.evaluate(1)["semantic/mIoU"] == 0


def test_a_wrongly_predicted_class_counts_although_it_is_not_annotated(tmp_path):
    counted = metric()
    counted.process(None, [sample(tmp_path, [TRUTH == 0, TRUTH == 1], [0, 2])])
    assert counted.evaluate(1)["semantic/mIoU"] == pytest.approx(1 / 3)


def test_zero_can_stand_for_no_class(tmp_path):
    counted = metric(reduce_zero_label=True)
    counted.process(None, [sample(tmp_path, [TRUTH == 1], [0])])
    assert counted.evaluate(1)["semantic/mIoU"] == 1


@pytest.mark.parametrize(
    ("masks", "labels", "match"),
    [
        ([TRUTH == 0], [3], "do not all name one of 3 classes"),
        ([TRUTH == 0], [-1], "do not all name one of 3 classes"),
        ([TRUTH == 0, TRUTH == 0], [0, 1], "overlap in 4 pixels"),
    ],
)
def test_answers_that_do_not_fit_are_errors(tmp_path, masks, labels, match):
    with pytest.raises(DataError, match=match):
        metric().process(None, [sample(tmp_path, np.array(masks), labels)])


def test_missing_things_are_named(tmp_path):
    answer = sample(tmp_path, [TRUTH == 0], [0])
    with pytest.raises(DataError, match="no label_map_path"):
        metric().process(None, [{key: value for key, value in answer.items() if key != "label_map_path"}])
    with pytest.raises(DataError, match="must hold"):
        metric().process(None, [answer | {"pred_instances": InstanceData(labels=torch.zeros(1))}])
    with pytest.raises(DataError, match="in dataset_meta"):
        SemanticMetric().process(None, [answer])
    with pytest.raises(DataError, match="size"):
        small = encode_masks(torch.ones(1, 1, 1, dtype=torch.bool))
        metric().process(None, [answer | {"pred_instances": {"labels": torch.zeros(1), "masks": small}}])
    counted = metric()
    counted.process(None, [answer, answer])
    with pytest.raises(DataError, match="2 answers for 1 different images"):
        counted.evaluate(2)

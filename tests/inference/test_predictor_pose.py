import math

import numpy as np
import pytest
import torch
from helpers import check_answers_equal

from lumen.aligners.dense import DenseAligner
from lumen.data.keypoints import Skeleton
from lumen.decoders.detection import DetectionDecoder
from lumen.decoders.pose import PoseDecoder
from lumen.errors import ConfigError, DataError, PromptError
from lumen.inference.predictor import LumenPredictor
from lumen.lmm.adapter import HFAdapter
from lumen.model import Lumen

NAMES = ("top tip", "left tip", "top tip")
BOXES = ((10, 20, 50, 60), (70, 10, 110, 80), (-5, 60, 30, 95))


@pytest.fixture(scope="module")
def make_model(tiny_nano):
    def make(*decoders):
        torch.manual_seed(0)
        adapter = HFAdapter(str(tiny_nano), base={"attention": "eager"})
        aligner = {"type": DenseAligner, "channels": 32, "num_heads": 4, "mlp_channels": 64}
        return Lumen(adapter, aligner, [{"type": kind} for kind in decoders])

    return make


@pytest.fixture(scope="module")
def model(make_model):
    return make_model(DetectionDecoder, PoseDecoder)


@pytest.fixture
def predictor(model):
    predictor = LumenPredictor(model, input_hw=(64, 64))
    predictor.set_image(np.random.default_rng(0).integers(0, 256, (90, 120, 3), dtype=np.uint8))
    return predictor


def test_given_boxes_give_a_row_each(predictor):
    table = predictor.pose("star", NAMES, BOXES)
    assert set(table.keys()) == {
        *("keypoints", "keypoint_scores", "scores", "bboxes", "box_scores", "labels", "phrases")
    }
    assert table.keypoints.shape == (3, 3, 2) and table.keypoint_scores.shape == (3, 3)
    assert table.bboxes.tolist() == [list(map(float, box)) for box in BOXES]
    assert table.box_scores.tolist() == [1.0, 1.0, 1.0]
    assert table.phrases == ["star"] * 3 and table.labels.tolist() == [0, 0, 0]


def test_a_name_given_twice_is_answered_twice_alike(predictor):
    table = predictor.pose("star", NAMES, BOXES)
    assert torch.equal(table.keypoints[:, 0], table.keypoints[:, 2])
    assert torch.equal(table.keypoint_scores[:, 0], table.keypoint_scores[:, 2])
    assert not torch.equal(table.keypoint_scores[:, 0], table.keypoint_scores[:, 1])


@pytest.mark.parametrize("batch_size", [1, 2])
def test_objects_together_equal_objects_alone(predictor, batch_size):
    together = predictor.pose("star", NAMES, BOXES)
    check_answers_equal(predictor.pose("star", NAMES, BOXES, batch_size=batch_size), together)
    for at, box in enumerate(BOXES):
        check_answers_equal(predictor.pose("star", NAMES, [box]), together[at : at + 1])


def test_all_crops_are_encoded_in_one_pass(predictor, monkeypatch):
    calls, encode = [], predictor.model.lmm.encode_images
    monkeypatch.setattr(
        predictor.model.lmm, "encode_images", lambda images, **how: calls.append(len(images)) or encode(images, **how)
    )
    predictor.pose("star", NAMES, BOXES)
    assert calls == [3]


def test_the_image_that_was_set_stays(predictor):
    before = predictor.predict(["star"], score_threshold=0.0)
    predictor.pose("star", NAMES, BOXES)
    check_answers_equal(predictor.predict(["star"], score_threshold=0.0), before, tolerance=0)


def test_boxes_may_be_array_tensor_or_list(predictor):
    expected = predictor.pose("star", NAMES, BOXES)
    for boxes in (np.array(BOXES), torch.tensor(BOXES)):
        check_answers_equal(predictor.pose("star", NAMES, boxes), expected, tolerance=0)


def test_a_skeleton_stands_for_its_names(predictor):
    skeleton = Skeleton(("top tip", "left tip"), ((0, 1),))
    check_answers_equal(
        predictor.pose("star", skeleton, BOXES), predictor.pose("star", skeleton.names, BOXES), tolerance=0
    )


def test_points_are_placed_in_the_original_image(predictor, monkeypatch):
    # The box is 40 x 40; a crop with a quarter more is 50 x 50 on 64 x 64 pixels of stride 16, from (5, 15) on.
    # Cell (row 1, col 2) has its middle at (40, 24) of them, so at (5 + 40 * 50 / 64, 15 + 24 * 50 / 64).
    share = predictor._shared.share

    def planted(encoded, samples, pairs=None):
        shared = share(encoded, samples)
        shared.heat_logits.fill_(-20.0)[:, 0, 1, 2] = math.log(0.8 / 0.2)
        return shared

    monkeypatch.setattr(predictor._shared, "share", planted)
    table = predictor.pose("star", ["top tip"], [(10, 20, 50, 60)])
    torch.testing.assert_close(table.keypoints, torch.tensor([[[36.25, 33.75]]]))
    torch.testing.assert_close(table.scores, torch.tensor([0.8]))


def test_without_boxes_objects_are_found_first(predictor):
    found = predictor.predict(["star"], score_threshold=0.0)
    assert len(found) > 1
    threshold = float(found.scores[1])
    table = predictor.pose("star", NAMES, score_threshold=threshold)
    chosen = found[found.scores >= threshold]
    assert torch.equal(table.bboxes, chosen.bboxes) and torch.equal(table.box_scores, chosen.scores)
    given = predictor.pose("star", NAMES, chosen.bboxes)
    torch.testing.assert_close(table.keypoints, given.keypoints)
    torch.testing.assert_close(table.scores, given.scores * chosen.scores)


@pytest.mark.parametrize("boxes", [[], np.zeros((0, 4)), None])
def test_no_objects_give_no_rows(predictor, boxes):
    table = predictor.pose("star", NAMES, boxes, score_threshold=1.1)
    assert len(table) == 0
    assert table.keypoints.shape == (0, 3, 2) and table.keypoint_scores.shape == (0, 3)
    assert table.bboxes.shape == (0, 4) and table.phrases == []


def test_no_names_give_no_rows(predictor):
    table = predictor.pose("star", [], BOXES)
    assert table.keypoints.shape == (0, 0, 2) and table.bboxes.shape == (0, 4)


@pytest.mark.parametrize(
    ("boxes", "message"),
    [
        ([[200, 10, 210, 20]], r"boxes \[0\] show no part"),
        ([BOXES[0], [10, 10, 10, 20]], r"boxes \[1\] show no part"),
        ([[30, 10, 20, 40]], "show no part"),
        ([[0, 0, math.nan, 3]], "finite"),
        ([1, 2, 3, 4], r"\(n, 4\)"),
        ([[1, 2, 3]], r"\(n, 4\)"),
        ([[1, 2], [3]], r"\(n, 4\)"),
        ("all", r"\(n, 4\)"),
    ],
)
def test_what_is_no_box_in_the_image_is_refused(predictor, boxes, message):
    with pytest.raises(DataError, match=message):
        predictor.pose("star", NAMES, boxes)


def test_wrong_use_is_explained(make_model, predictor):
    with pytest.raises(PromptError, match="use pose"):
        predictor.predict(["star"], task="pose")
    with pytest.raises(PromptError, match="must be a list of texts"):
        predictor.pose("star", "top tip", BOXES)
    with pytest.raises(PromptError, match="special tokens"):
        predictor.pose("star", ["[LOC]"], BOXES)
    for category, names in ((" ", NAMES), ("star", ["top tip", ""])):
        with pytest.raises(PromptError, match="not empty"):
            predictor.pose(category, names, BOXES)
    with pytest.raises(ConfigError, match="batch_size"):
        predictor.pose("star", NAMES, BOXES, batch_size=0)
    alone = LumenPredictor(make_model(PoseDecoder), input_hw=(64, 64))
    with pytest.raises(DataError, match="call set_image"):
        alone.pose("star", NAMES, BOXES)
    alone.set_image(np.zeros((90, 120, 3), dtype=np.uint8))
    assert len(alone.pose("star", NAMES, BOXES)) == 3
    with pytest.raises(PromptError, match="finds 'star'; give boxes"):
        alone.pose("star", NAMES)
    blind = LumenPredictor(make_model(DetectionDecoder), input_hw=(64, 64))
    blind.set_image(np.zeros((90, 120, 3), dtype=np.uint8))
    with pytest.raises(PromptError, match="no decoder for task 'pose'"):
        blind.pose("star", NAMES)

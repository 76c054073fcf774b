import numpy as np
import pytest
import torch
from helpers import make_instances, make_sample

from lumen.errors import DataError
from lumen.metrics.refer_answers import Answers, AnswersMetric
from lumen.ops.geometry import InputTransform
from lumen.ops.masks import encode_masks, full_mask


def asked(img_id, boxes, scores, prompt_index):
    """Return an image of 64 x 96 with four prompts: a target each for 0 and 3, two for 1, none for 2."""
    targets = [[0, 0, 16, 16], [0, 0, 8, 8], [8, 8, 16, 16], [32, 0, 64, 32]]
    sample = make_sample(["a", "b", "c", "d"], targets, [0, 1, 1, 3], frame=InputTransform.stretch((64, 96), (64, 96)))
    sample.set_metainfo({"img_id": img_id, "kinds": ("attribute", "group", "group", "relation")})
    sample.pred_instances = make_instances(boxes, prompt_index, scores=torch.tensor(scores))
    return sample.to_dict()


def evaluate(samples, **options):
    metric = AnswersMetric(cell=16, **options)
    metric.process(None, samples)
    return metric.compute_metrics(metric.results)


def test_figures_of_sentences_with_one_target(tmp_path):
    # Prompt 0: the better box of two covers 3/4 of the target. Prompt 3 is not answered in the first image.
    first = asked(7, [[0, 0, 16, 16], [0, 0, 12, 16], [0, 0, 9, 9]], [0.2, 0.9, 0.5], [0, 0, 1])
    second = asked(3, [[32, 0, 64, 32], [0, 0, 16, 6]], [0.3, 0.4], [3, 0])
    path = tmp_path / "new" / "answers.npz"
    figures = evaluate([first, second], path=str(path))
    # IoUs by image and prompt: 3/8 and 1 of image 3, 3/4 and none of image 7.
    expected = {"accuracy": 0.5, "accuracy_75": 0.5, "mean_iou": (0.375 + 1 + 0.75) / 4, "unanswered": 0.25}
    expected |= {"accuracy_attribute": 0.5, "accuracy_relation": 0.5}
    # Targets have sides of 1 and 2 cells.
    expected |= {"accuracy_side_below_1": -1.0, "accuracy_side_below_1.5": 0.5, "accuracy_side_from_2": 0.5}
    assert figures == pytest.approx(expected | {"accuracy_side_below_2": -1.0})
    kept = Answers.load(path)
    assert kept.images.tolist() == [3, 3, 7, 7]
    assert kept.prompts.tolist() == [0, 3, 0, 3]
    assert kept.sides.tolist() == [1, 2, 1, 2]
    np.testing.assert_allclose(kept.ious, [0.375, 1, 0.75, 0])
    assert np.isnan(kept.boxes[3]).all()
    assert kept.scores[3] == -np.inf
    assert kept.figures() == figures


def test_masks_are_judged_by_their_own_overlap():
    # Each of the best masks is the box that was answered, but for the second one, which is empty.
    sample = asked(7, [[0, 0, 12, 16], [32, 0, 64, 32]], [0.9, 0.5], [0, 3])
    filled = torch.zeros(3, 64, 96, dtype=torch.bool)
    filled[0, :16, :12], filled[2, :16, :16] = True, True
    codes = encode_masks(filled)
    sample["pred_instances"]["masks"] = codes[:2]
    sample["ori_shape"] = (64, 96)
    sample["target_rles"] = (codes[2], codes[2], None, full_mask((64, 96)))
    figures = evaluate([sample], masks=True)
    assert figures["mean_iou"] == pytest.approx((0.75 + 0) / 2)
    assert evaluate([sample])["mean_iou"] == pytest.approx((0.75 + 1) / 2)


def test_no_prompt_and_no_answer():
    empty = make_sample([])
    empty.pred_instances = make_instances(scores=torch.zeros(0))
    assert evaluate([empty.to_dict()])["accuracy"] == -1.0
    figures = evaluate([asked(1, [], [], [])])
    assert (figures["accuracy"], figures["unanswered"]) == (0.0, 1.0)


def test_runs_on_other_sentences_are_refused(tmp_path):
    for name, img_id in (("a", 1), ("b", 1), ("c", 2)):
        evaluate([asked(img_id, [], [], [])], path=str(tmp_path / name))
    first, same, other = (Answers.load(tmp_path / name) for name in "abc")
    first.require_same_sentences(same, "b")
    with pytest.raises(DataError, match="c was asked other sentences"):
        first.require_same_sentences(other, "c")


def test_an_image_twice_and_a_broken_file_are_errors(tmp_path):
    with pytest.raises(DataError, match="2 answers for 1"):
        evaluate([asked(1, [], [], []), asked(1, [], [], [])])
    (tmp_path / "torn.npz").write_bytes(b"PK\x03\x04")
    for name in ("torn.npz", "gone.npz"):
        with pytest.raises(DataError, match="holds no answers"):
            Answers.load(tmp_path / name)

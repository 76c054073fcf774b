import numpy as np
import pytest
import torch

from lumen.visualization import REASONS, Candidates, inspect, judge, match, verdict

BOX = torch.tensor([10.0, 10.0, 30.0, 30.0])


def _candidates(boxes=(), points=(), peaks=(), kept=(), presence=1.0):
    peak_scores = torch.tensor(peaks, dtype=torch.float32)
    return Candidates(
        bboxes=torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
        points=torch.tensor(points, dtype=torch.float32).reshape(-1, 2),
        scores=peak_scores * presence,
        peak_scores=peak_scores,
        is_kept=torch.tensor(kept, dtype=torch.bool),
    )


def _verdict(candidates, *, presence=1.0, is_full=False, taken=None):
    is_taken = torch.zeros(len(candidates.scores), dtype=torch.bool) if taken is None else torch.tensor(taken)
    return verdict(BOX, candidates, presence=presence, is_taken=is_taken, is_full=is_full)


def test_a_low_presence_comes_first():
    # The box would be perfect.
    found = _verdict(_candidates([[10, 10, 30, 30]], [[20, 20]], [0.9], [True], presence=0.12), presence=0.12)
    assert (found.reason, found.text) == ("presence", "presence 0.12 is low")
    assert found.score == pytest.approx(0.108)


def test_the_nearest_peak_is_told_where_none_lies_within():
    # (44, 20) lies 14 px right of the box, (30 + 30, 30 + 40) lies 50 px off; the peak inside is noise.
    far = _candidates(
        [[40, 10, 50, 30], [55, 65, 65, 75], [10, 10, 30, 30]],
        [[44, 20], [60, 70], [20, 20]],
        [0.8, 0.9, 0.04],
        [1, 1, 1],
    )
    assert _verdict(far).text == "no peak within the box: nearest peak 14 px away"
    assert _verdict(far).reason == "no_peak" and _verdict(far).score == 0


def test_no_peak_at_all_is_told_with_the_highest_value():
    assert _verdict(_candidates()).text == "no peak in the whole image: the highest is 0.00"
    noise = _candidates([[0, 0, 9, 9]], [[4, 4]], [0.03], [True])
    assert _verdict(noise).text == "no peak in the whole image: the highest is 0.03"


def test_a_peak_with_a_wrong_box_is_told():
    # 20 x 20 and 20 x 10 within it: IoU 200 / 400 would be 0.5; 20 x 6.2 gives 0.31.
    found = _verdict(_candidates([[10, 10, 30, 16.2]], [[20, 13]], [0.61], [True]))
    assert (found.reason, found.text) == ("box", "peak found 0.61 but box IoU 0.31")


def test_a_weak_peak_is_told_with_and_without_a_box_that_fits():
    fits = _verdict(_candidates([[10, 10, 30, 30]], [[20, 20]], [0.4], [True], presence=0.5), presence=0.5)
    assert fits.reason == "weak"
    assert fits.text == "box fits, but presence 0.50 x peak 0.40 = 0.20 is below 0.30"
    astray = _verdict(_candidates([[10, 10, 30, 12]], [[20, 11]], [0.2], [True]))
    assert astray.text == "peak within the box is weak: 0.20, box IoU 0.10"


def test_a_suppressed_box_names_its_rival():
    # The rival, half of the object moved up, does not fit it: 20 x 20 against one shifted by 8: 12 / 28 = 0.43.
    both = _candidates([[10, 10, 30, 30], [10, 2, 30, 22]], [[20, 20], [20, 12]], [0.6, 0.8], [False, True])
    assert _verdict(both).reason == "suppressed"
    assert _verdict(both).text == "box with score 0.60 and IoU 1.00 suppressed by a better box: 0.80"
    alone = _candidates([[10, 10, 30, 30]], [[20, 20]], [0.6], [False])
    assert _verdict(alone).text.endswith("suppressed by a box of another prompt")


def test_a_box_beyond_the_best_of_the_image_is_told():
    alone = _candidates([[10, 10, 30, 30]], [[20, 20]], [0.6], [False])
    assert _verdict(alone, is_full=True).reason == "limit"


def test_an_answer_that_belongs_to_another_object_is_told():
    one = _candidates([[10, 10, 30, 30]], [[20, 20]], [0.6], [True])
    assert _verdict(one, taken=[True]).reason == "shared"
    assert _verdict(one).reason == "found"
    assert _verdict(one).text == "found: box with score 0.60 and IoU 1.00"


def test_boxes_take_the_object_that_they_overlap_most_best_first():
    truth = torch.tensor([[0.0, 0.0, 10.0, 10.0], [0.0, 2.0, 10.0, 12.0]])
    boxes = torch.tensor([[0.0, 2.0, 10.0, 12.0], [0.0, 1.0, 10.0, 12.0], [50.0, 50.0, 60.0, 60.0]])
    # The second box scores best and overlaps the second object more (10/11 against 9/12): the first gets what is left.
    assert match(truth, boxes, torch.tensor([0.5, 0.9, 0.8])).tolist() == [0, 1, -1]
    assert match(truth[:0], boxes, torch.ones(3)).tolist() == [-1, -1, -1]
    assert match(truth, boxes[:0], torch.ones(0)).tolist() == []


def test_one_box_for_two_objects_leaves_one_missed():
    truth = torch.tensor([[10.0, 10.0, 30.0, 30.0], [10.0, 12.0, 30.0, 32.0]])
    one = _candidates([[10, 10, 30, 30]], [[20, 20]], [0.6], [True])
    assert [entry.reason for entry in judge(truth, one, presence=1.0)] == ["found", "shared"]
    assert judge(truth[:0], one, presence=1.0) == []


@pytest.mark.parametrize("num_candidates", [0, 2])
def test_the_picture_shows_four_panels(num_candidates):
    some = _candidates([[10, 10, 30, 30]] * 2, [[20, 20]] * 2, [0.6, 0.2], [True, False])
    some = Candidates(**{name: getattr(some, name)[:num_candidates] for name in Candidates.__dataclass_fields__})
    heat = torch.zeros(4, 6)  # covers 32 x 48 of 36 x 48 pixels
    picture, verdicts = inspect(
        np.full((36, 48, 3), 90, np.uint8),
        "red star",
        BOX[None],
        some,
        heat=heat,
        target=heat,
        stride=8,
        presence=0.9,
    )
    assert picture.shape[1] == 4 * 488 + 8
    assert verdicts[0].reason in REASONS

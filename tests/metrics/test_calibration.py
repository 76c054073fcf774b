import numpy as np
import pytest
import torch
from helpers import make_instances, make_sample

from lumen.errors import ConfigError, DataError
from lumen.metrics.calibration import CalibrationMetric, detection_calibration_error
from lumen.ops.geometry import InputTransform

BOX, FAR = [10.0, 10, 30, 30], [60.0, 40, 70, 50]


def answered(sample, rows=(), **fields):
    """Give a sample predictions of rows (prompt, score, box), and return it as a metric sees it."""
    sample.pred_instances = make_instances(
        [row[2] for row in rows],
        [row[0] for row in rows],
        scores=torch.tensor([row[1] for row in rows], dtype=torch.float32),
        **{name: torch.tensor(values, dtype=torch.float32) for name, values in fields.items()},
    )
    return sample.to_dict()


def evaluate(samples, **options):
    metric = CalibrationMetric(**options)
    metric.process(None, samples)
    figures = metric.evaluate(len(samples))
    return {name.removeprefix("calibration/"): value for name, value in figures.items()}, metric


def test_calibration_error_is_that_worked_out_by_hand():
    # Bin [.4, .6): scores .5, .5, one right, no gap. Bin [.8, 1]: .8, .9, 1, two right: |2/3 - .9| = 7/30.
    scores = np.array([0.5, 0.5, 0.8, 0.9, 1.0])
    is_right = np.array([True, False, True, False, True])
    assert detection_calibration_error(scores, is_right, num_bins=5) == pytest.approx(3 / 5 * 7 / 30)
    # One bin: |3/5 - .74|.
    assert detection_calibration_error(scores, is_right, num_bins=1) == pytest.approx(0.14)


def test_calibration_error_without_detections_is_minus_one():
    assert detection_calibration_error(np.zeros(0), np.zeros(0, dtype=bool), num_bins=5) == -1


def test_only_the_first_of_two_detections_of_an_object_is_right():
    sample = answered(make_sample(["cat"], [BOX], [0]), [(0, 0.9, BOX), (0, 0.5, BOX)])
    assert evaluate([sample])[0]["d_ece"] == pytest.approx((0.1 + 0.5) / 2, abs=1e-6)


def test_an_overlap_below_the_threshold_is_wrong():
    half = [10.0, 10, 30, 22]  # IoU .6
    sample = answered(make_sample(["cat"], [BOX], [0]), [(0, 0.9, half)])
    assert evaluate([sample])[0]["d_ece"] == pytest.approx(0.1, abs=1e-6)
    assert evaluate([sample], iou_threshold=0.7)[0]["d_ece"] == pytest.approx(0.9, abs=1e-6)


def test_a_box_of_another_prompt_is_wrong():
    sample = answered(make_sample(["cat", "dog"], [BOX], [0]), [(1, 0.9, BOX)])
    assert evaluate([sample])[0]["d_ece"] == pytest.approx(0.9, abs=1e-6)


def test_low_scores_and_ignored_regions_do_not_enter_the_calibration_error():
    sample = make_sample(["cat"], [BOX], [0], ignored=[FAR], ignored_index=[0])
    rows = [(0, 0.9, BOX), (0, 0.8, FAR), (0, 0.01, BOX)]
    figures, metric = evaluate([answered(sample, rows)])
    assert figures["d_ece"] == pytest.approx(0.1, abs=1e-6)
    assert metric.protocol["detections"] == 1


def test_ground_truth_is_compared_in_original_pixels():
    frame = InputTransform.stretch((32, 48), (64, 96))
    sample = answered(make_sample(["cat"], [BOX], [0], frame=frame), [(0, 1.0, [5.0, 5, 15, 15])])
    assert evaluate([sample])[0]["d_ece"] == 0


def test_presence_and_false_alarms_are_counted_per_prompt():
    # cat: there and found; dog: there and missed; hen: absent, alarm; ape: absent, silent; fox: crowd only.
    sample = make_sample(
        ["cat", "dog", "hen", "ape", "fox"], [BOX, BOX], [0, 1], ignored=[FAR, FAR], ignored_index=[4, 0]
    )
    rows = [(0, 0.7, BOX), (1, 0.2, BOX), (2, 0.6, FAR), (3, 0.3, FAR), (3, 0.1, BOX), (4, 0.9, FAR)]
    figures, metric = evaluate([answered(sample, rows)])
    assert figures["presence_accuracy"] == 0.5
    assert figures["presence_recall"] == figures["presence_specificity"] == figures["false_alarms"] == 0.5
    assert evaluate([answered(sample, rows)], alarm_score=0.25)[0]["false_alarms"] == 1
    assert (metric.protocol["prompts"], metric.protocol["absent_prompts"]) == (4, 2)


def test_presence_is_the_score_without_its_peak():
    sample = make_sample(["cat", "dog"], [BOX], [0])
    rows = [(0, 0.3, BOX), (1, 0.3, FAR)]
    figures = evaluate([answered(sample, rows, peak_scores=[0.4, 0.9])])[0]
    assert figures["presence_recall"] == figures["presence_specificity"] == 1


def test_a_prompt_without_any_detection_is_told_absent():
    figures = evaluate([answered(make_sample(["cat", "dog"], [BOX], [0]))])[0]
    assert figures == {
        "presence_accuracy": 0.5,
        "presence_recall": 0,
        "presence_specificity": 1,
        "false_alarms": 0,
        "d_ece": -1,
    }


def test_images_add_up_and_one_without_prompts_adds_nothing():
    one = answered(make_sample(["cat"], [BOX], [0]), [(0, 0.9, BOX)])
    other = answered(make_sample(["dog"]), [(0, 0.8, FAR)])
    figures = evaluate([one, other, answered(make_sample())])[0]
    assert figures["presence_accuracy"] == 0.5
    assert figures["d_ece"] == pytest.approx((0.1 + 0.8) / 2, abs=1e-6)


def test_wrong_settings_scores_and_fields_are_errors():
    with pytest.raises(ConfigError, match="num_bins is at least 1"):
        CalibrationMetric(num_bins=0)
    with pytest.raises(DataError, match=r"scores must lie in \[0, 1\]"):
        evaluate([answered(make_sample(["cat"]), [(0, 1.5, BOX)])])
    sample = answered(make_sample(["cat"]), [(0, 0.5, BOX)])
    del sample["pred_instances"]["prompt_index"]
    with pytest.raises(DataError, match="pred_instances must hold"):
        evaluate([sample])

import numpy as np
import pytest
import torch
from helpers import make_sample
from mmengine.evaluator import Evaluator
from mmengine.structures import InstanceData

from lumen.errors import ConfigError, DataError
from lumen.metrics.refer import GroundingMetric, ReferringMaskMetric
from lumen.ops.geometry import InputTransform
from lumen.ops.masks import encode_masks
from lumen.structures import Prompt

A, B, C = [0, 0, 40, 40], [50, 0, 90, 40], [0, 50, 40, 90]
FRAME = InputTransform.stretch((100, 100), (50, 50))


def boxed(targets, answers, *, img_id=0, kinds=None):
    """Make a processed sample: targets as a list of boxes per prompt, answers as (prompt, score, box).

    All boxes are given in original pixels; targets are kept in input pixels, half the size.
    """
    prompts = [Prompt(str(at), task="grounding") for at in range(len(targets))]
    rows = [(at, [value / 2 for value in box]) for at, boxes in enumerate(targets) for box in boxes]
    sample = make_sample(prompts, [row[1] for row in rows], [row[0] for row in rows], frame=FRAME)
    sample.set_metainfo({"img_id": img_id} | ({} if kinds is None else {"kinds": kinds}))
    sample.pred_instances = InstanceData(
        bboxes=torch.tensor([row[2] for row in answers], dtype=torch.float32).reshape(-1, 4),
        scores=torch.tensor([row[1] for row in answers], dtype=torch.float32),
        prompt_index=torch.tensor([row[0] for row in answers], dtype=torch.long),
    )
    return sample.to_dict()


def square(x1, y1, x2, y2, side=10):
    mask = torch.zeros(1, side, side, dtype=torch.bool)
    mask[0, y1:y2, x1:x2] = True
    return encode_masks(mask)[0]


def masked(targets, answers, *, img_id=0):
    """Make a processed sample: one RLE or None per prompt, answers as (prompt, score, RLE)."""
    sample = make_sample([Prompt(str(at), task="referring_segmentation") for at in range(len(targets))])
    sample.set_metainfo({"img_id": img_id, "target_rles": tuple(targets), "ori_shape": (10, 10)})
    sample.pred_instances = InstanceData(
        masks=[row[2] for row in answers],
        scores=torch.tensor([row[1] for row in answers], dtype=torch.float32),
        prompt_index=torch.tensor([row[0] for row in answers], dtype=torch.long),
    )
    return sample.to_dict()


def evaluate(metric, *samples):
    metric.process(None, samples)
    return {name.partition("/")[2]: value for name, value in metric.evaluate(len(samples)).items()}


def grounding(*samples, **options):
    return evaluate(GroundingMetric(**options), *samples)


def segmentation(*samples, **options):
    return evaluate(ReferringMaskMetric(**options), *samples)


# Boxes.


def test_the_best_box_of_each_prompt_decides_whatever_its_score():
    answers = [(0, 0.2, A), (1, 0.3, A), (1, 0.1, B), (2, 0.01, C)]
    assert grounding(boxed([[A], [B], [C], [A]], answers)) == {"accuracy": 0.5}


def test_a_box_of_another_prompt_does_not_help():
    assert grounding(boxed([[A], [B]], [(0, 0.9, B), (1, 0.9, A)])) == {"accuracy": 0}


def test_overlap_counts_from_its_threshold_on():
    # (0, 0, 40, 40) with (0, 0, 40, 20): 800 of 1600 pixels, exactly one half; with 28 rows 0.7.
    half, more = [0, 0, 40, 20], [0, 0, 40, 28]
    figures = grounding(boxed([[A], [A]], [(0, 1, half), (1, 1, more)]), further_thresholds=(0.6, 0.75))
    assert figures == {"accuracy": 1, "accuracy_60": 0.5, "accuracy_75": 0}


def test_of_equal_scores_the_first_box_counts():
    assert grounding(boxed([[A]], [(0, 0.5, A), (0, 0.5, B)])) == {"accuracy": 1}
    assert grounding(boxed([[A]], [(0, 0.5, B), (0, 0.5, A)])) == {"accuracy": 0}


def test_kinds_are_told_apart():
    sample = boxed([[A], [B], [C]], [(0, 1, A), (1, 1, A), (2, 1, C)], kinds=("relation", "relation", "attribute"))
    figures = grounding(sample, boxed([[A]], [(0, 1, A)], img_id=1, kinds=("",)))
    assert figures == {"accuracy": 0.75, "accuracy_attribute": 1, "accuracy_relation": 0.5}


def test_generalised_figures_of_one_prompt_each():
    targets = [[A], [A, B], [], [], [A, B], [C]]
    answers = [
        (0, 0.9, A),  # exact
        (1, 0.9, B),
        (1, 0.8, A),  # exact
        (2, 0.4, A),  # too weak to be an answer: right
        (3, 0.6, A),  # wrong
        (4, 0.9, A),
        (4, 0.7, A),  # one target twice: not exact
        (5, 0.3, C),  # right for the accuracy, no answer for the generalised figures
    ]
    figures = grounding(boxed(targets, answers))
    assert figures["accuracy"] == 1  # prompts 0 and 5
    assert figures["n_acc"] == 0.5
    assert figures["t_acc"] == 0.75
    assert figures["pr_f1"] == 0.5  # prompts 0, 1, 2 of 6
    # 0.9 of four prompts are four: the threshold is 0.3, and both empty prompts are answered above it.
    assert figures["n_acc_at_t_acc_90"] == 0


def test_a_box_left_over_spoils_an_exact_answer():
    figures = grounding(boxed([[A], []], [(0, 0.9, A), (0, 0.6, C)]))
    assert figures["pr_f1"] == 0.5
    assert grounding(boxed([[A], []], [(0, 0.9, A), (0, 0.4, C)]))["pr_f1"] == 1


def test_the_swept_threshold_gives_up_one_in_ten():
    scores = [0.1, *np.linspace(0.5, 0.9, 9)]
    targets = [[A]] * 10 + [[]] * 4
    answers = [(at, score, A) for at, score in enumerate(scores)]
    answers += [(10, 0.2, A), (11, 0.49, A), (12, 0.51, A)]  # prompt 13 is not answered
    figures = grounding(boxed(targets, answers), score_threshold=0.05)
    assert figures["n_acc"] == 0.25 and figures["t_acc"] == 1
    assert figures["n_acc_at_t_acc_90"] == 0.75  # at 0.5, which loses the first prompt only
    assert figures["threshold_at_t_acc_90"] == 0.5


def test_a_threshold_of_another_split_is_taken_as_it_is():
    """At 0.5 of a validation split, one of three answered prompts is lost and one of two empty ones is answered."""
    sample = boxed([[A], [B], [C], [], []], [(0, 0.5, A), (1, 0.9, A), (2, 0.49, C), (3, 0.6, A), (4, 0.4, A)])
    figures = grounding(sample, threshold=0.5)
    assert figures["n_acc_at_threshold"] == 0.5
    assert figures["t_acc_at_threshold"] == pytest.approx(2 / 3)
    assert "n_acc_at_t_acc_90" not in figures


def test_the_sweep_fails_when_too_many_prompts_have_no_answer():
    assert grounding(boxed([[A], [A], []], [(0, 0.9, A)]))["n_acc_at_t_acc_90"] == 0


def test_no_predictions_at_all_are_misses_not_errors():
    figures = grounding(boxed([[A], []], []), boxed([], [], img_id=1))
    best = {"n_acc_at_t_acc_90": 0, "threshold_at_t_acc_90": -1}
    assert figures == {"accuracy": 0, "n_acc": 1, "t_acc": 0, "pr_f1": 0.5, **best}


def test_without_prompts_of_a_kind_the_figure_is_minus_one():
    figures = grounding(boxed([[]], [(0, 0.9, A)]))
    best = {"n_acc_at_t_acc_90": -1, "threshold_at_t_acc_90": -1}
    assert figures == {"accuracy": -1, "n_acc": 0, "t_acc": -1, "pr_f1": 0, **best}


def test_batch_equals_single():
    rng = np.random.default_rng(0)
    samples = []
    for img_id in range(5):
        targets = [[A, B][: rng.integers(0, 3)] for _ in range(4)]
        answers = [(int(rng.integers(4)), float(rng.random()), [A, B, C][rng.integers(3)]) for _ in range(9)]
        samples.append(boxed(targets, answers, img_id=img_id))
    single = GroundingMetric()
    for sample in samples:
        single.process(None, [sample])
    assert list(single.evaluate(5).values()) == list(grounding(*samples).values())


def test_the_evaluator_hands_over_what_the_metric_reads():
    sample = make_sample([Prompt("a", task="grounding")], [[0, 0, 20, 20]], [0], frame=FRAME)
    sample.pred_instances = InstanceData(
        bboxes=torch.tensor([A]).float(), scores=torch.ones(1), prompt_index=torch.zeros(1, dtype=torch.long)
    )
    evaluator = Evaluator(GroundingMetric())
    evaluator.process([sample])
    assert evaluator.evaluate(1) == {"grounding/accuracy": 1}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"scores": torch.tensor([float("nan")])}, "scores are not finite"),
        ({"scores": torch.ones(2)}, "not one per prediction"),
        ({"bboxes": torch.full((1, 4), float("inf"))}, "boxes are not finite"),
        ({"prompt_index": torch.tensor([1])}, "prompt_index 1..1 of 1 prompts"),
        ({"prompt_index": torch.tensor([-1])}, "prompt_index -1..-1"),
    ],
)
def test_broken_predictions_are_errors(change, message):
    sample = boxed([[A]], [(0, 1, A)])
    sample["pred_instances"] = dict(sample["pred_instances"]) | change
    with pytest.raises(DataError, match=message):
        grounding(sample)


def test_a_missing_field_and_a_second_answer_are_errors():
    sample = boxed([[A]], [(0, 1, A)])
    with pytest.raises(DataError, match="2 answers for 1 different images"):
        grounding(sample, sample)
    with pytest.raises(DataError, match="pred_instances must hold"):
        grounding(sample | {"pred_instances": {"bboxes": torch.zeros(0, 4)}})
    with pytest.raises(DataError, match="pred_instances must hold"):
        grounding({key: value for key, value in sample.items() if key != "pred_instances"})


@pytest.mark.parametrize("threshold", [0, 1.5, -1])
def test_impossible_thresholds_are_refused(threshold):
    with pytest.raises(ConfigError):
        GroundingMetric(further_thresholds=[threshold])
    with pytest.raises(ConfigError):
        ReferringMaskMetric(iou_thresholds=[threshold])


# Masks.


def test_sums_and_means_of_masks():
    # Prompt 0: 4 x 10 of 8 x 10 pixels, IoU 0.5. Prompt 1: equal, 4 pixels.
    targets = [square(0, 0, 8, 10), square(0, 0, 2, 2)]
    answers = [(0, 0.9, square(0, 0, 4, 10)), (1, 0.2, square(0, 0, 2, 2)), (1, 0.1, square(5, 5, 9, 9))]
    figures = segmentation(masked(targets, answers), iou_thresholds=(0.5, 0.7))
    assert figures == {
        "ciou": pytest.approx(44 / 84),
        "giou": pytest.approx(0.75),
        "precision_50": 1,
        "precision_70": 0.5,
    }


def test_masks_above_the_threshold_are_joined():
    target = square(0, 0, 10, 5)
    answers = [(0, 0.9, square(0, 0, 5, 5)), (0, 0.6, square(4, 0, 10, 5)), (0, 0.1, square(0, 5, 10, 10))]
    assert segmentation(masked([target], answers), score_threshold=0.5)["ciou"] == 1
    assert segmentation(masked([target], answers))["ciou"] == 0.5


def test_sentences_without_target_want_no_answer():
    targets = [None, None, square(0, 0, 5, 10)]
    answers = [(0, 0.9, square(0, 0, 1, 10)), (1, 0.2, square(0, 0, 9, 9)), (2, 0.9, square(0, 0, 5, 10))]
    figures = segmentation(masked(targets, answers), score_threshold=0.5, iou_thresholds=(0.5,))
    assert figures["ciou"] == pytest.approx(50 / 60)  # the wrong answer adds its 10 pixels to the union
    assert figures["giou"] == pytest.approx(2 / 3)
    assert (figures["precision_50"], figures["n_acc"], figures["t_acc"]) == (1, 0.5, 1)


def test_an_answer_without_pixels_is_none():
    empty = square(0, 0, 0, 0)
    figures = segmentation(masked([None, square(0, 0, 5, 5)], [(0, 0.9, empty), (1, 0.9, empty)]))
    assert (figures["n_acc"], figures["t_acc"], figures["ciou"], figures["giou"]) == (1, 0, 0, 0.5)


def test_a_target_without_pixels_cannot_be_hit():
    assert segmentation(masked([square(0, 0, 0, 0)], []))["giou"] == 0


def test_missing_masks_are_misses():
    figures = segmentation(masked([square(0, 0, 5, 5)], []), masked([None], [], img_id=1), masked([], [], img_id=2))
    assert (figures["ciou"], figures["giou"], figures["n_acc"]) == (0, 0.5, 1)


def test_targets_and_sizes_are_checked():
    sample = masked([square(0, 0, 5, 5)], [(0, 0.9, square(0, 0, 5, 5, side=9))])
    with pytest.raises(DataError, match="size"):
        segmentation(sample)
    with pytest.raises(DataError, match="with_masks=True"):
        segmentation({key: value for key, value in sample.items() if key != "target_rles"})
    with pytest.raises(DataError, match="expected one of target_rles per prompt"):
        segmentation(sample | {"target_rles": ()})


def test_headlines_are_among_the_figures():
    assert GroundingMetric().headline == "grounding/accuracy"
    assert ReferringMaskMetric().headline == "referring_segmentation/ciou"


@pytest.mark.parametrize(("make", "metric"), [(boxed, GroundingMetric), (masked, ReferringMaskMetric)])
def test_an_image_that_was_asked_nothing_counts_nothing_whatever_its_table(make, metric):
    answer = (0, 0.5, A if make is boxed else square(0, 0, 4, 4))
    asked = make([[A]] if make is boxed else [square(0, 0, 4, 4)], [answer], img_id=1)
    nothing = make([], [], img_id=2) | {"pred_instances": InstanceData(texts=[], prompt_index=torch.zeros(0).long())}
    assert evaluate(metric(), asked, nothing) == evaluate(metric(), asked)

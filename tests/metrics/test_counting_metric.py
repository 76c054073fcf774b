import math

import pytest
import torch

from lumen.errors import ConfigError, DataError
from lumen.metrics.counting import CountingMetric
from lumen.structures import Prompt


def answer(counts, truth, *, labels=None, ignored=(), order=None):
    """Make a processed sample of one prompt per count."""
    labels = range(len(counts)) if labels is None else labels
    order = list(range(len(counts))) if order is None else order
    rows = [prompt for prompt, number in enumerate(truth) for _ in range(number)]
    return {
        "img_id": 1,
        "prompts": tuple(Prompt(str(label), task="counting", label=label) for label in labels),
        "gt_instances": {"prompt_index": torch.tensor(rows, dtype=torch.long)},
        "ignored_instances": {"prompt_index": torch.tensor(ignored, dtype=torch.long)},
        "pred_instances": {"counts": torch.tensor(counts)[order], "prompt_index": torch.tensor(order)},
    }


def evaluate(samples, classes=("cat", "dog"), **options):
    metric = CountingMetric(**options)
    metric.dataset_meta = {"classes": classes}
    metric.process(None, samples)
    return metric.evaluate(max(len(samples), 1)), metric


def test_errors_are_those_worked_out_by_hand():
    # cat: off by 1 and 0; dog: off by 3 (none there) and -1
    figures, metric = evaluate([answer([3.0, 3.0], [2, 0]), answer([1.0, 1.0], [1, 2])])
    assert figures["counting/MAE"] == pytest.approx(5 / 4)
    assert figures["counting/RMSE"] == pytest.approx(math.sqrt(11 / 4))
    assert figures["counting/MAE_present"] == pytest.approx(2 / 3)
    assert figures["counting/MAE_absent"] == pytest.approx(3)
    assert figures["counting/MAE_cat"] == pytest.approx(0.5)
    assert figures["counting/RMSE_dog"] == pytest.approx(math.sqrt(5))
    assert metric.protocol == {"prompts": 4, "present": 3, "absent": 1, "left_out_ignored": 0, "true_objects": 5}


def test_rows_are_matched_by_prompt_not_by_order():
    figures, _ = evaluate([answer([2.0, 0.0], [2, 0], order=[1, 0])])
    assert figures["counting/MAE"] == 0


def test_prompts_with_ignored_regions_are_left_out():
    figures, metric = evaluate([answer([9.0, 1.0], [2, 1], ignored=[0])])
    assert figures["counting/MAE"] == 0
    assert figures["counting/MAE_cat"] == -1
    assert metric.protocol["left_out_ignored"] == 1


def test_a_constant_is_the_baseline():
    samples = [answer([2.0, 0.0], [2, 0])]
    assert evaluate(samples, baseline=0.5)[0]["counting/MAE_baseline"] == pytest.approx(1)
    figures, _ = evaluate(samples, baseline={"cat": 1.0, "dog": 0.5})
    assert figures["counting/RMSE_baseline"] == pytest.approx(math.sqrt((1 + 0.25) / 2))
    with pytest.raises(ConfigError, match=r"no constant for \['dog'\]"):
        evaluate(samples, baseline={"cat": 1.0})


def test_free_phrases_count_in_the_whole():
    figures, _ = evaluate([answer([2.0], [1], labels=[-1])], baseline=1)
    assert figures["counting/MAE"] == 1
    assert figures["counting/MAE_cat"] == -1
    with pytest.raises(ConfigError, match="no constant for"):
        evaluate([answer([2.0], [1], labels=[-1])], baseline={"cat": 1.0})


def test_no_prompts_give_no_figures():
    figures, metric = evaluate([answer([], [])])
    assert figures["counting/MAE"] == -1
    assert metric.protocol["prompts"] == 0


def test_unanswered_prompts_and_broken_counts_are_errors():
    sample = answer([1.0, 1.0], [1, 1])
    sample["pred_instances"] = {"counts": torch.ones(1), "prompt_index": torch.tensor([0])}
    with pytest.raises(DataError, match="2 prompts need one finite count each"):
        evaluate([sample])
    with pytest.raises(DataError, match="one finite count"):
        evaluate([answer([math.nan], [1])])
    with pytest.raises(DataError, match="must hold"):
        evaluate([answer([1.0], [1]) | {"pred_instances": {}}])

"""The sentence of the only cup is false with another colour; that of one of two cups may fit the other."""

import numpy as np
import pytest
import torch

from lumen.data.false_sentences import AskFalseSentences
from lumen.data.refer import AskSentences
from lumen.errors import ConfigError
from lumen.ops.geometry import InputTransform

COLOURS = {"red": ["blue", "green"], "Left of": ["right of"]}


def asked(sentences, labels=(0, 1), *, mirrored=False, ignored=(), **options):
    """Return what is asked beyond the sentences, which are given as (text, targets); objects are 1, 2, ..."""
    count = len(labels)
    frame = InputTransform.stretch((8, 8), (8, 8))
    results = {
        "instances": {
            "bboxes": torch.tensor([[0.0, 0, 4, 4]]).repeat(count, 1),
            "labels": np.array(labels),
            "is_ignored": np.isin(np.arange(1, count + 1), ignored),
            "ann_ids": np.arange(1, count + 1),
        },
        "refs": [
            {"sentence": text, "ann_ids": np.array(targets, dtype=np.int64), "kind": "k", "ref_id": number}
            for number, (text, targets) in enumerate(sentences)
        ],
        "frame": frame.flip_horizontal() if mirrored else frame,
        "img_path": "a.png",
        "ori_hw": (8, 8),
    }
    results = AskSentences(shuffle=False, exchange_sides=True)(results)
    count, rows = len(results["prompts"]), results["gt_instances"]["prompt_index"].tolist()
    results = AskFalseSentences(**({"exchanges": COLOURS, "num_prompts": 9} | options))(results)
    added = results["prompts"][count:]
    assert results["gt_instances"]["prompt_index"].tolist() == rows, "what is false has no target"
    assert results["ref_ids"][count:] == (-1,) * len(added) and results["kinds"][count:] == ("exchanged",) * len(added)
    return {prompt.text for prompt in added}


def test_one_word_is_exchanged():
    assert asked([("the Red cup", [1])]) == {"the blue cup", "the green cup"}
    assert asked([("a cup left of it", [1])]) == {"a cup right of it"}
    assert asked([("the reddish cup", [1])]) == set()


@pytest.mark.parametrize(
    ("sentences", "options"),
    [
        ([("the red cup", [1])], {"labels": (0, 0)}),
        ([("the red cup", [1])], {"labels": (0, 0), "ignored": [2]}),
        ([("red things", [1, 2])], {}),
        ([("a red dog", [])], {}),
        ([("the red cup left of the plate", [1])], {}),
        ([("red on red", [1])], {}),
    ],
)
def test_what_may_be_true_is_not_asked(sentences, options):
    """Another object of the class, an ignored one too; several targets, or none; two words, of which one is enough."""
    assert asked(sentences, **options) == set()


def test_what_another_sentence_says_is_not_asked():
    assert asked([("the red cup", [1]), ("The blue cup", [1])]) == {"the green cup"}


def test_in_a_mirror_the_other_side_is_false():
    assert asked([("the cup left of it", [1])], mirrored=True) == set(), "right of is not in the exchanges"
    both = {"left of": ["right of"], "right of": ["left of"]}
    assert asked([("the cup left of it", [1])], mirrored=True, exchanges=both) == {"the cup left of it"}


def test_no_more_than_asked_for():
    assert len(asked([("the red cup", [1])], num_prompts=1)) == 1


@pytest.mark.parametrize(
    "options", [{"exchanges": {}}, {"exchanges": {"red": "blue"}}, {"exchanges": {"red": ["Red"]}}, {"num_prompts": 0}]
)
def test_wrong_options_are_refused(options):
    with pytest.raises(ConfigError):
        AskFalseSentences(**({"exchanges": COLOURS} | options))

import dataclasses
import math

import pytest
import torch
from decoder_cases import fixed_distances, heat
from helpers import make_sample, make_shared

from lumen.decoders.grounding import GroundingDecoder
from lumen.structures import Prompt


def ask(*texts):
    return make_sample([Prompt(text, task="grounding") for text in texts])


def grounding(**limits):
    return fixed_distances(GroundingDecoder(32, limits=limits), 0.5, 0.25, 1.0, 2.0)


def test_each_sentence_gets_its_best_box():
    shared = heat(make_shared([0, 0], [0, 1]), [(0, 1, 2, 0.8), (0, 3, 5, 0.7), (1, 0, 0, 0.9)])
    (answer,) = grounding().predict(shared, [ask("the left cat", "the dog")])
    # the cells' middles are (40, 24) and (8, 8)
    torch.testing.assert_close(answer.bboxes, torch.tensor([[32.0, 20.0, 56.0, 56.0], [0, 4, 24, 40]]))
    assert answer.prompt_index.tolist() == [0, 1]
    assert answer.labels.tolist() == [-1, -1]
    assert answer.scores.tolist() == pytest.approx([0.8, 0.9], abs=1e-5)


def test_without_a_threshold_every_sentence_has_an_answer():
    shared = dataclasses.replace(make_shared([0], [0]), presence_logits=torch.full((1,), -20.0))
    (answer,) = grounding().predict(shared, [ask("the unicorn")])
    assert answer.prompt_index.tolist() == [0]


def test_presence_decides_that_there_is_no_target():
    shared = heat(make_shared([0, 0], [0, 1]), [(0, 1, 2, 0.8), (1, 1, 2, 0.8)])
    shared = dataclasses.replace(shared, presence_logits=torch.tensor([3.0, math.log(0.25 / 0.75)]))
    (answer,) = grounding(min_score=0.5).predict(shared, [ask("the cat", "the unicorn")])
    assert answer.prompt_index.tolist() == [0]
    (blind,) = grounding(min_score=0.5, with_presence=False).predict(shared, [ask("the cat", "the unicorn")])
    assert blind.prompt_index.tolist() == [0, 1]
    assert blind.scores.tolist() == pytest.approx([0.8, 0.8], abs=1e-5)


def test_several_targets_come_by_sentence_and_the_best_first():
    peaks = [(0, 1, 0, 0.6), (0, 1, 4, 0.7), (0, 3, 2, 0.2), (1, 1, 2, 0.9), (1, 3, 5, 0.4)]
    shared = heat(make_shared([0, 0], [0, 1]), peaks)
    (answer,) = grounding(num_boxes=2, min_score=0.3).predict(shared, [ask("the cats", "the dogs")])
    assert answer.prompt_index.tolist() == [0, 0, 1, 1]
    assert answer.scores.tolist() == pytest.approx([0.7, 0.6, 0.9, 0.4], abs=1e-5)


def test_the_same_target_is_not_named_twice():
    # two cells apart, boxes of 288 pixels overlap by 256 / 320
    shared = heat(make_shared([0], [0]), [(0, 1, 1, 0.6), (0, 1, 3, 0.7)])
    wide = fixed_distances(GroundingDecoder(32, limits={"num_boxes": 2, "min_score": 0.3}), 9.0, 1.0, 9.0, 1.0)
    (answer,) = wide.predict(shared, [ask("the cat")])
    assert answer.scores.tolist() == pytest.approx([0.7], abs=1e-5)


def test_images_do_not_mix():
    shared = heat(make_shared([1, 0], [0, 0], num_images=3), [(0, 1, 2, 0.7), (1, 0, 0, 0.9)])
    first, second, third = grounding().predict(shared, [ask("a"), ask("b"), ask()])
    assert first.scores.tolist() == pytest.approx([0.9], abs=1e-5)
    assert second.scores.tolist() == pytest.approx([0.7], abs=1e-5)
    assert len(third) == 0


def test_right_boxes_cost_nothing():
    decoder = fixed_distances(GroundingDecoder(32), 0.5, 0.25, 0.5, 0.25)
    sample = make_sample([Prompt("it", task="grounding")], [[32.0, 20.0, 48.0, 28.0]], [0])
    assert decoder.loss(make_shared([0], [0]), [sample])["loss_box"].item() == pytest.approx(0, abs=1e-6)

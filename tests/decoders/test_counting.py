import dataclasses
import math

import pytest
import torch
from helpers import make_instances, make_sample, make_shared

from lumen.decoders.counting import CountingDecoder
from lumen.errors import ConfigError
from lumen.structures import Prompt


def crowd(number=2, **fields):
    return make_sample([Prompt(f"thing {at}", task="counting", label=at + 5) for at in range(number)], **fields)


def heat(shared, peaks):
    """Set the probability of cells, given as (pair, row, col, probability)."""
    logits = shared.heat_logits.detach().clone()
    for pair, row, col, probability in peaks:
        logits[pair, 0, row, col] = math.log(probability / (1 - probability))
    return dataclasses.replace(shared, heat_logits=logits)


def fixed_gain(decoder, gain):
    """Make the head say the same gain in every cell."""
    with torch.no_grad():
        decoder.gain[-1].weight.zero_()
        decoder.gain[-1].bias.fill_(math.log(math.expm1(gain)))
    return decoder.eval()


PEAKS = [(0, 0, 0, 0.9), (0, 2, 2, 0.5), (0, 0, 4, 0.2), (1, 3, 5, 0.6)]


def test_peaks_above_the_threshold_are_counted():
    (answer,) = CountingDecoder(32, min_score=0.3).predict(heat(make_shared([0, 0], [0, 1]), PEAKS), [crowd()])
    assert answer.counts.tolist() == [2, 1]
    assert answer.labels.tolist() == [5, 6]
    assert answer.prompt_index.tolist() == [0, 1]
    assert answer.scores.tolist() == pytest.approx([1, 1])


def test_peaks_near_a_higher_one_are_of_the_same_object():
    shared = heat(make_shared([0, 0], [0, 1]), PEAKS)  # (2, 2) lies two cells from (0, 0)
    (answer,) = CountingDecoder(32, min_score=0.3, min_distance=2).predict(shared, [crowd()])
    assert answer.counts.tolist() == [1, 1]
    with pytest.raises(ConfigError, match="min_distance must be a whole number of at least 1"):
        CountingDecoder(32, min_distance=0)


def test_presence_scales_the_peaks():
    shared = heat(make_shared([0], [0]), PEAKS[:3])
    shared = dataclasses.replace(shared, presence_logits=torch.tensor([0.0]))  # a half
    (answer,) = CountingDecoder(32, min_score=0.3).predict(shared, [crowd(1)])
    assert answer.counts.tolist() == [1]
    assert answer.scores.tolist() == [0.5]


def test_nothing_is_zero_and_every_prompt_has_its_row():
    first, second, third = CountingDecoder(32).predict(
        make_shared([0, 2, 2], [0, 0, 1], num_images=3), [crowd(1), make_sample(), crowd(2)]
    )
    assert first.counts.tolist() == [0]
    assert len(second) == 0
    assert third.counts.tolist() == [0, 0]


def test_a_density_is_summed():
    decoder = fixed_gain(CountingDecoder(32, mode="density"), 0.5)
    (answer,) = decoder.predict(heat(make_shared([0, 0], [0, 1]), PEAKS), [crowd()])
    assert answer.counts.tolist() == pytest.approx([0.5 * 1.6, 0.5 * 0.6], abs=1e-5)


def test_the_loss_of_a_density_is_smooth_l1_and_skips_unknown_counts():
    decoder = fixed_gain(CountingDecoder(32, mode="density"), 0.5)
    shared = heat(make_shared([0, 0], [0, 1]), PEAKS)
    sample = crowd(boxes=[[0, 0, 9, 9]] * 3, prompt_index=[0, 0, 0])
    # 0.8 for 3 is off by 2.2, beyond 1: 2.2 - 0.5; 0.3 for 0: 0.3 ** 2 / 2
    assert decoder.loss(shared, [sample])["loss_count"].item() == pytest.approx(1.7 + 0.045, abs=1e-4)
    sample.ignored_instances = make_instances([[0, 0, 9, 9]], [0])
    assert decoder.loss(shared, [sample])["loss_count"].item() == pytest.approx(0.045, abs=1e-4)


def test_peaks_have_nothing_to_learn():
    shared = heat(make_shared([0, 0], [0, 1]), PEAKS)
    shared.heat_logits.requires_grad_()
    loss = CountingDecoder(32).loss(shared, [crowd(boxes=[[0, 0, 9, 9]], prompt_index=[0])])["loss_count"]
    loss.backward()
    assert loss.item() == 0
    assert not any(True for p in CountingDecoder(32).parameters() if p.numel())


@pytest.mark.parametrize("image_index", [[], [0, 0]])
def test_a_density_reaches_all_its_weights_without_objects_too(image_index):
    decoder = CountingDecoder(32, mode="density")
    shared = make_shared(image_index, list(range(len(image_index))))
    loss = decoder.loss(shared, [crowd(len(image_index))])["loss_count"]
    loss.backward()
    assert bool(loss.isfinite())
    assert all(p.grad is not None for p in decoder.gain.parameters())


def test_an_unknown_mode_is_an_error():
    with pytest.raises(ConfigError, match="mode must be one of"):
        CountingDecoder(32, mode="sum")

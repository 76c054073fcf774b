import math

import pytest
import torch
from helpers import make_images, make_sample
from torch import nn

from lumen.errors import ConfigError
from lumen.lmm.text_losses import NOTHING_WEIGHT, name_scores, naming_loss, token_grid
from lumen.structures import LocFeatures, NameScores, Prompt

SIZE_HW = (64, 96)  # 4 x 6 image tokens
PROMPTS = [[Prompt("cat"), Prompt("the small cat left of the dog")], [], [Prompt("dog")]]


def test_scores_are_mean_log_probabilities_by_hand():
    tokens = torch.zeros(1, 1, 2, 3)
    tokens[0, 0, 0, 1] = 5.0  # predicts word 1: after rms_norm sqrt(3); the other token has no preference
    names = name_scores(nn.Identity(), tokens, [(1,), (0, 1), ()], torch.zeros(3, dtype=torch.long), nothing=2)
    total = math.log(math.exp(math.sqrt(3)) + 2)
    wanted = [[math.sqrt(3) - total, -math.log(3)], [math.sqrt(3) / 2 - total, -math.log(3)], [0.0, 0.0]]
    torch.testing.assert_close(names.phrases, torch.tensor(wanted)[:, None], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(names.nothing, torch.tensor([[[-total, -math.log(3)]]]), rtol=1e-4, atol=1e-4)


def test_no_pairs_have_connected_scores():
    tokens = torch.ones(2, 1, 2, 3, requires_grad=True)
    names = name_scores(nn.Identity(), tokens, [], torch.zeros(0, dtype=torch.long), nothing=0)
    assert names.phrases.shape == (0, 1, 2) and names.nothing.shape == (2, 1, 2)
    names.phrases.sum().backward()
    assert bool((tokens.grad == 0).all())


def test_image_tokens_learn_short_phrases_only(make_adapter):
    adapter = make_adapter(name_tokens=3)
    features = adapter(make_images(3, SIZE_HW), PROMPTS)
    phrases = features.names.phrases
    assert phrases.shape == (3, 4, 6) and features.names.nothing.shape == (3, 4, 6)
    assert bool((phrases[1] == 0).all())
    assert bool((phrases[[0, 2]] < 0).all())
    phrases.sum().backward()
    trained = [name for name, value in adapter.named_parameters() if value.grad is not None and value.grad.abs().sum()]
    assert any("multi_modal_projector" in name for name in trained)


def test_nothing_is_scored_when_predicting_or_when_it_is_off(make_adapter):
    images = make_images(3, SIZE_HW)
    assert make_adapter()(images, PROMPTS).names is None
    assert make_adapter(name_tokens=3)(images, PROMPTS, predicting=True).names is None
    with torch.no_grad():
        assert make_adapter(name_tokens=3)(images, PROMPTS).names is None


def test_image_tokens_that_are_no_grid_are_refused():
    assert token_grid([torch.zeros(24, 8)], (4, 6)).shape == (1, 4, 6, 8)
    with pytest.raises(ConfigError, match=r"image tokens on a grid of \(4, 6\), this LMM has 25"):
        token_grid([torch.zeros(25, 8)], (4, 6))


def named(samples, image_index, prompt_index):
    """Return features of 2 x 2 image tokens of 32 pixels, twice the cells of the grid."""
    pairs, images = len(image_index), len(samples)
    names = NameScores(torch.arange(-4.0 * pairs, 0.0).view(pairs, 2, 2), torch.full((images, 2, 2), -10.0))
    return LocFeatures(
        query=torch.zeros(pairs, 8),
        grid=torch.zeros(images, 8, 4, 4),
        laterals=(),
        stride=16,
        image_index=torch.tensor(image_index),
        prompt_index=torch.tensor(prompt_index),
        names=names,
    )


def test_names_are_read_in_the_cells_of_objects_and_nothing_elsewhere():
    # a small box in cell (0, 0), and one that covers the centres of both lower cells; nothing on the second
    samples = [make_sample(["cat", "dog"], [[0, 0, 10, 10], [4, 40, 60, 60]], [1, 1]), make_sample(["cat"])]
    features = named(samples, [0, 0, 1], [0, 1, 0])
    phrases = features.names.phrases
    wanted = -(phrases[1, 0, 0] + phrases[1, 1].mean()) + NOTHING_WEIGHT * 10  # only cell (0, 1) is empty
    torch.testing.assert_close(naming_loss(features, samples), wanted)
    assert naming_loss(features, [make_sample(["cat", "dog"]), make_sample(["cat"])]) == 0


def test_what_is_ignored_and_what_surrounds_points_is_not_nothing():
    ignored = [make_sample(["cat"], [[0, 0, 10, 10]], [0], ignored=[[32, 0, 64, 64]], ignored_index=[0])]
    features = named(ignored, [0], [0])
    torch.testing.assert_close(naming_loss(features, ignored), -features.names.phrases[0, 0, 0] + NOTHING_WEIGHT * 10)
    point = [make_sample(["nose"], [[40, 8, 40, 8]], [0])]
    torch.testing.assert_close(naming_loss(features, point), -features.names.phrases[0, 0, 1])

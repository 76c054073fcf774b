import math

import pytest
import torch
from helpers import make_images
from torch import nn

from lumen.errors import ConfigError
from lumen.lmm.text_losses import name_scores, token_grid
from lumen.structures import Prompt

SIZE_HW = (64, 96)  # 4 x 6 image tokens
PROMPTS = [[Prompt("cat"), Prompt("the small cat left of the dog")], [], [Prompt("dog")]]


def test_scores_are_mean_log_probabilities_by_hand():
    tokens = torch.zeros(1, 1, 2, 3)
    tokens[0, 0, 0, 1] = 5.0  # says word 1: after rms_norm sqrt(3); the other token says nothing in particular
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

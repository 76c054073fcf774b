from types import SimpleNamespace

import pytest
import torch
from helpers import make_images, make_sample
from mmengine.structures import InstanceData
from torch import nn
from transformers import LlavaForConditionalGeneration

from lumen.engine.hooks import FewTokensHook
from lumen.errors import CheckpointError, ConfigError
from lumen.lmm.adapter import HFAdapter
from lumen.lmm.nano.export import export_nano
from lumen.pretraining import LOSSES, LmmPretrainer
from lumen.structures import Prompt

WORDS = {"labels": [["star", "stars"], ["ring", "rings"]], "colour": [["red"], ["blue"]]}


def pretrainer(base, **options):
    torch.manual_seed(0)
    lmm = {"type": HFAdapter, "name_or_path": str(base), "readout": {"box_bins": 40}}
    heads = {"values": {"labels": 2, "colour": 2}, "cells": ["labels"]}
    weights = dict.fromkeys(LOSSES, 1.0)
    return LmmPretrainer(
        lmm, **{"heads": heads, "words": WORDS, "loss_weights": weights, "input_hw": (32, 48)} | options
    )


def batch():
    samples = []
    for answer in ("red", "blue"):
        sample = make_sample([Prompt("what colour is the star?", task="vqa", answer=answer)])
        rows = {"labels": torch.tensor([0]), "colour": torch.tensor([int(answer == "blue")])}
        sample.objects = InstanceData(bboxes=torch.tensor([[4.0, 4.0, 12.0, 12.0]]), **rows)
        sample.cells = InstanceData(numbers=torch.full((1, 4, 6), -1))
        sample.cells.numbers[0, 0, 0] = 0
        samples.append(sample)
    return make_images(2, (32, 48)), samples


def test_every_loss_of_a_stage_is_weighted_and_reaches_what_it_trains(tiny_seeing):
    model = pretrainer(tiny_seeing)
    losses = model(*batch())
    assert set(losses) == set(LOSSES) and all(value.isfinite() for value in losses.values())
    half = pretrainer(tiny_seeing, loss_weights={"loss_text": 0.5})(*batch())
    assert half["loss_text"].item() == pytest.approx(0.5 * losses["loss_text"].item(), rel=1e-5)
    assert set(half) == {"loss_text"}
    sum(losses.values()).backward()
    for part in ("heads", "word_reader", "lmm.base_model.model"):
        assert all(each.grad is not None for each in model.get_submodule(part).parameters())


def test_few_tokens_change_the_text_alone(tiny_seeing):
    model = pretrainer(tiny_seeing).eval()
    with torch.no_grad():  # at the start the sublayers of the LLM add nothing
        for parameter in model.lmm.base_model.get_decoder().parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    whole = model(*batch())
    model.num_tokens = 2
    few = model(*batch())
    assert few["loss_text"].item() != whole["loss_text"].item()
    assert all(few[name].item() == whole[name].item() for name in LOSSES if name != "loss_text")


def test_heads_answer_every_object(tiny_seeing):
    model = pretrainer(tiny_seeing).eval()
    with torch.no_grad():
        found = model(*batch(), mode="predict")[1].pred_instances
    assert found.bboxes.shape == (1, 4) and found.labels.shape == (1,) and found.colour.shape == (1,)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"loss_weights": {"loss_luck": 1.0}}, "loss_weights name some of"),
        ({"loss_weights": {}}, "loss_weights name some of"),
        ({"input_hw": (30, 48)}, "multiples of 16"),
        ({"words": {"labels": [["antidisestablishment"], ["ring"]]}}, "splits"),
        ({"words": {"labels": [["star"], ["star"]]}}, "twice"),
    ],
)
def test_wrong_options_are_refused(tiny_seeing, options, message):
    with pytest.raises(ConfigError, match=message):
        pretrainer(tiny_seeing, **options)


def test_the_number_of_tokens_follows_the_run():
    hook = FewTokensHook([(0.0, 8), (0.5, 32), (0.75, None)])
    seen, model = [], nn.Identity()
    for done in range(8):
        runner = SimpleNamespace(model=model, iter=done, max_iters=8)
        hook.before_train_iter(runner, done)
        seen.append(model.num_tokens)
    assert seen == [8, 8, 8, 8, 32, 32, None, None]
    with pytest.raises(ConfigError, match="in order and from 0"):
        FewTokensHook([(0.5, 8), (0.0, None)])


def test_an_exported_model_is_the_trained_one_in_bfloat16(tiny_seeing, tmp_path):
    model = pretrainer(tiny_seeing)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.25)
    folder = export_nano(tiny_seeing, model.state_dict(), tmp_path / "model")
    exported = LlavaForConditionalGeneration.from_pretrained(folder)
    known = LlavaForConditionalGeneration.from_pretrained(tiny_seeing).state_dict()
    trained = model.lmm.base_model.state_dict()
    assert exported.config.untrained_parts == []
    for name, value in exported.state_dict().items():
        assert value.shape == known[name].shape
        kept = trained[name][: len(value)] if value.ndim else trained[name]
        torch.testing.assert_close(value.float(), kept.float(), rtol=1e-2, atol=1e-2)
    assert HFAdapter(str(folder), generation={"dialect": "corner_words"}).text.dialect is not None


def test_a_checkpoint_of_something_else_is_not_exported(tiny_seeing, tmp_path):
    with pytest.raises(CheckpointError, match="are missing"):
        export_nano(tiny_seeing, {"lmm.base_model.lm_head.weight": torch.zeros(2000, 32)}, tmp_path / "model")
    assert not (tmp_path / "model").exists()

"""A model in lmms-eval, with that package's own classes; skipped where it is not installed."""

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from lumen.aligners.none import NoAligner
from lumen.decoders.text import ChatDecoder, VqaDecoder
from lumen.errors import ConfigError
from lumen.inference.predictor import LumenPredictor
from lumen.model import Lumen

pytest.importorskip("lmms_eval", reason="lmms-eval is not installed: pip install lmms-eval")
sys.path.append(str(Path(__file__).resolve().parents[2] / "projects" / "infmllm"))

from infmllm_lmms import LumenForLmmsEval
from lmms_eval.api.instance import Instance


def make(make_adapter, *decoders):
    model = Lumen(make_adapter(), {"type": NoAligner}, [{"type": kind} for kind in decoders])
    return LumenForLmmsEval(predictor=LumenPredictor(model, input_hw=(32, 32)))


def request(index, doc_id, text="what is it?", **options):
    arguments = (text, options, lambda doc: doc["images"], doc_id, "toy", "test")
    return Instance("generate_until", arguments, index, {"task": "toy", "doc_id": doc_id, "repeats": 1})


def picture(seed):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (20, 30, 3), dtype=np.uint8))


@pytest.fixture
def model(make_adapter):
    model = make(make_adapter, ChatDecoder)
    docs = [{"images": [picture(0)]}, {"images": []}, {"images": [picture(1), picture(2)]}]
    model.task_dict = {"toy": {"test": docs}}
    return model


def test_answers_are_those_of_the_predictor(model):
    generation = model.predictor.model.lmm.generation
    requests = [request(0, 0, max_new_tokens=5), request(1, 0, "<image>\nis it red?", max_new_tokens=5), request(2, 1)]
    with torch.no_grad():
        answers = model.generate_until(requests)
        model.predictor.set_image(np.asarray(picture(0)))
        model.predictor.model.lmm.generation = replace(generation, max_new_tokens=5)
        assert answers[:2] == [model.predictor.chat((), "what is it?"), model.predictor.chat((), "is it red?")]
    assert len(answers) == 3 and answers[0]


def test_a_limit_holds_for_its_own_request(model):
    generation = model.predictor.model.lmm.generation
    with torch.no_grad():
        free, _, after = model.generate_until([request(0, 0), request(1, 0, max_new_tokens=1), request(2, 0)])
    assert after == free
    assert model.predictor.model.lmm.generation == generation


def test_an_answer_ends_before_until(model):
    (whole,) = model.generate_until([request(0, 0, max_new_tokens=8)])
    middle = whole[len(whole) // 2]
    assert model.generate_until([request(0, 0, max_new_tokens=8, until=[middle])]) == [whole.split(middle)[0].strip()]


def test_what_is_not_supported_is_refused(model, make_adapter):
    with pytest.raises(ConfigError, match="takes one image"):
        model.generate_until([request(0, 2)])
    with pytest.raises(ConfigError, match="likelihoods"):
        model.loglikelihood([])
    with pytest.raises(ConfigError, match="several rounds"):
        model.generate_until_multi_round([])
    with pytest.raises(ConfigError, match="no decoder for chat"):
        make(make_adapter, VqaDecoder)
    with pytest.raises(ConfigError, match="config and checkpoint, or a predictor"):
        LumenForLmmsEval(config="a.py")

"""Texts that do not fit the LMM: cut, left out or skipped before they reach it, and counted."""

import json
from dataclasses import replace

import pytest
from helpers import make_images

from lumen.aligners.dense import DenseAligner
from lumen.data.pipelines import fill_pipelines
from lumen.data.text import AskQuestions, LoadImageOrBlank, QuestionsDataset
from lumen.data.transforms import PackSample, ResizeToInput
from lumen.decoders.text import ChatDecoder
from lumen.errors import DataError, PromptError
from lumen.lmm.tokens.limits import text_limits
from lumen.model import Lumen
from lumen.structures import Prompt

SIZE_HW = (64, 96)
LONG = "a red star and a blue ring " * 40


@pytest.fixture
def adapter(make_adapter):
    adapter = make_adapter(template="paper")
    adapter.config.text_config.max_position_embeddings = len(adapter.prefix(SIZE_HW)) + 60
    return adapter


def test_a_text_that_fits_stays_as_it_is(adapter):
    prompt = Prompt("what is it?", "chat", answer="a star")
    assert text_limits(adapter, SIZE_HW)(prompt) is prompt


def test_a_long_answer_is_cut_to_the_context_and_does_not_end(adapter):
    limits = text_limits(adapter, SIZE_HW)
    cut = limits(Prompt("what is it?", "chat", answer=LONG))
    assert cut.is_cut and LONG.startswith(cut.answer)
    suffix = adapter.text.suffix(cut)
    assert limits.num_free - 1 <= len(suffix.ids) <= limits.num_free
    assert suffix.ids[-1] != adapter.text.suffix(Prompt("what is it?", "chat", answer="a")).ids[-1]
    # What is cut is what the LMM takes, and one token more would not be.
    adapter(make_images(size_hw=SIZE_HW), [[cut]])
    with pytest.raises(PromptError, match="does not fit the context"):
        adapter(make_images(size_hw=SIZE_HW), [[Prompt("what is it?", "chat", answer=LONG)]])


def test_an_answer_behind_a_history_that_fills_the_context_is_left_out(adapter):
    assert text_limits(adapter, SIZE_HW)(Prompt("and?", "chat", answer="yes", history=(("what?", LONG),))) is None


def test_special_tokens_are_refused(adapter):
    token = adapter.encoder.tokenizer.eos_token
    with pytest.raises(PromptError, match="special tokens"):
        text_limits(adapter, SIZE_HW)(Prompt("what is it?", "chat", answer=f"a {token} star"))


def conversation(ident, *texts):
    roles = ("human", "gpt")
    return {"id": ident, "conversations": [{"from": roles[at % 2], "value": text} for at, text in enumerate(texts)]}


@pytest.fixture
def make_data(adapter, tmp_path):
    """Return a function that makes a model around the adapter and a training set of conversations for it."""
    aligner = {"type": DenseAligner, "channels": 32, "num_heads": 4, "mlp_channels": 64}
    model = Lumen(adapter, aligner, [{"type": ChatDecoder}], input_hw=SIZE_HW).eval()
    inputs = replace(model.inputs, fit_text=text_limits(adapter, SIZE_HW))

    def make(*conversations, **options):
        (tmp_path / "ann.json").write_text(json.dumps(conversations))
        steps = [{"type": LoadImageOrBlank}, {"type": ResizeToInput}, {"type": AskQuestions}, {"type": PackSample}]
        settings = {"ann_file": "ann.json", "data_root": str(tmp_path), "layout": "conversations", "pipeline": steps}
        return model, QuestionsDataset(**fill_pipelines({**settings, **options}, inputs))

    return make


def test_planted_long_conversations_do_not_stop_a_training_step(make_data, adapter):
    eos = adapter.encoder.tokenizer.eos_token
    conversations = [
        conversation("right", "what is it?", "a star", "which color?", "red"),
        conversation("long answer", "what is it?", LONG),
        conversation("long history", "what is it?", "a star", LONG, "red", "and now?", "blue"),
        conversation("special", "what is it?", f"a {eos} star"),
    ]
    model, data = make_data(*conversations, skip_budget=0.25)
    samples = [data[index]["data_samples"] for index in range(4)]
    assert [sample.img_id for sample in samples] == ["right", "long answer", "long history", "right"]
    assert [len(sample.prompts) for sample in samples] == [2, 1, 1, 2]
    assert [sample.prompts[0].is_cut for sample in samples] == [False, True, False, False]
    assert data.report == {"image cannot be used": ["special"]}
    assert data.pipeline.transforms[2].num_cut == 3  # one answer cut, two of the long history left out
    losses = model(make_images(4, SIZE_HW), samples, mode="loss")
    assert all(bool(loss.isfinite()) for loss in losses.values())


def test_more_texts_than_the_budget_allows_are_an_error(make_data, adapter):
    eos = adapter.encoder.tokenizer.eos_token
    _, data = make_data(conversation("right", "what?", "a star"), conversation("special", "what?", f"a {eos}"))
    with pytest.raises(DataError, match=r"the budget is 0\.100%; the last: image special: a text cannot be learned"):
        data[1]


def test_without_a_text_that_fits_a_sample_cannot_be_used(make_data):
    _, data = make_data(conversation("right", "what?", "a star"), conversation("long", LONG, "yes"), skip_budget=0.5)
    assert data[1]["data_samples"].img_id == "right"
    assert data.report == {"image cannot be used": ["long"]}

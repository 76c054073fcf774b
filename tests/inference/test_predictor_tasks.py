"""Every task through one predictor, whose decoders have random weights."""

import numpy as np
import pytest
import torch
from helpers import check_answers_equal

from lumen.aligners.dense import DenseAligner
from lumen.decoders.counting import CountingDecoder
from lumen.decoders.detection import DetectionDecoder
from lumen.decoders.grounding import GroundingDecoder
from lumen.decoders.referring_segmentation import ReferringSegmentationDecoder
from lumen.decoders.segmentation import SegmentationDecoder
from lumen.decoders.semantic_segmentation import SemanticSegmentationDecoder
from lumen.decoders.text import CaptionDecoder, ChatDecoder, VqaDecoder
from lumen.errors import DataError, PromptError
from lumen.inference.predictor import LumenPredictor
from lumen.lmm.adapter import HFAdapter
from lumen.model import Lumen
from lumen.ops.masks import decode_masks

LOCATED = (
    DetectionDecoder,
    SegmentationDecoder,
    GroundingDecoder,
    ReferringSegmentationDecoder,
    SemanticSegmentationDecoder,
    CountingDecoder,
)
WRITTEN = (VqaDecoder, CaptionDecoder, ChatDecoder)
SPECS = [decoder.spec for decoder in (*LOCATED, *WRITTEN)]
PHRASES = ("star", "the red ring", "cat", "star")
ONE_ROW_EACH = ("grounding", "referring_segmentation", "semantic_segmentation", "counting", "vqa", "caption", "chat")


@pytest.fixture(scope="module")
def model(tiny_nano):
    torch.manual_seed(0)
    adapter = HFAdapter(str(tiny_nano), base={"attention": "eager"}, generation={"max_new_tokens": 4})
    aligner = {"type": DenseAligner, "channels": 32, "num_heads": 4, "mlp_channels": 64}
    return Lumen(adapter, aligner, [{"type": kind} for kind in (*LOCATED, *WRITTEN)])


@pytest.fixture
def predictor(model):
    return LumenPredictor(model, input_hw=(64, 64))


def image_of(height=90, width=120, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.name)
def test_a_table_has_the_fields_of_its_task_in_original_pixels(predictor, spec):
    predictor.set_image(image_of())
    table = predictor.predict(PHRASES, task=spec.name, score_threshold=0.0)
    assert set(table.keys()) == (spec.predictions - {"prompt_index"}) | {"labels", "phrases"}
    assert len(table) > 0
    assert table.phrases == [PHRASES[label] for label in table.labels.tolist()]
    if "bboxes" in table:
        assert table.bboxes[:, 2].max() <= 120 and table.bboxes[:, 3].max() <= 90
    if "masks" in table:
        assert all(mask["size"] == [90, 120] for mask in table.masks)


@pytest.mark.parametrize("task", ONE_ROW_EACH)
def test_rows_are_in_the_order_of_the_phrases(predictor, task):
    predictor.set_image(image_of())
    table = predictor.predict(PHRASES, task=task, score_threshold=0.0)
    assert table.labels.tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.name)
def test_a_phrase_named_twice_gets_equal_answers(predictor, spec):
    predictor.set_image(image_of())
    table = predictor.predict(PHRASES, task=spec.name, score_threshold=0.0)
    first, last = table[table.labels == 0], table[table.labels == 3]
    assert len(first) > 0
    for name in set(first.keys()) - {"labels"}:
        equal = torch.equal(first[name], last[name]) if name not in ("masks", "texts", "phrases") else None
        assert equal or first[name] == last[name]


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.name)
def test_no_phrases_give_an_empty_table_of_the_task(predictor, spec):
    predictor.set_image(image_of())
    table = predictor.predict([], task=spec.name)
    assert set(table.keys()) == (spec.predictions - {"prompt_index"}) | {"labels", "phrases"}
    assert len(table) == 0 and table.phrases == []
    batch = predictor.predict_batch([image_of(), image_of(40, 30)], [], task=spec.name)
    assert [len(own) for own in batch] == [0, 0]


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.name)
def test_a_batch_equals_single_images(predictor, spec):
    images = [image_of(90, 120, 0), image_of(50, 64, 1), image_of(120, 40, 2)]
    batch = predictor.predict_batch(images, PHRASES[:2], task=spec.name, score_threshold=0.0, batch_size=2)
    for image, table in zip(images, batch, strict=True):
        predictor.set_image(image)
        alone = predictor.predict(PHRASES[:2], task=spec.name, score_threshold=0.0)
        if "masks" in table:  # a probability of one half may fall on either side
            masks, expected = (decode_masks(own.pop("masks"), image.shape[:2]) for own in (table, alone))
            assert (masks != expected).float().mean() < 1e-3
        check_answers_equal(table, alone)


def test_sentences_are_answered_whatever_their_score_unless_told(predictor):
    predictor.set_image(image_of())
    scores = predictor.predict(PHRASES, task="grounding").scores
    assert len(scores) == 4
    table = predictor.predict(PHRASES, task="grounding", score_threshold=float(scores[1]))
    assert table.labels.tolist() == (scores >= scores[1]).nonzero()[:, 0].tolist()


def test_counts_and_texts_know_no_threshold(predictor):
    predictor.set_image(image_of())
    for task in ("counting", "vqa"):
        assert len(predictor.predict(PHRASES, task=task, score_threshold=1.1)) == 4


def test_questions_are_answered_in_words(predictor):
    predictor.set_image(image_of())
    assert predictor.answer("is it red?") == predictor.predict(["is it red?"], task="vqa").texts[0]
    assert predictor.caption() == predictor.predict(task="caption").texts[0]
    assert predictor.caption("What is it?") == predictor.predict(["What is it?"], task="caption").texts[0]
    assert predictor.chat([], "is it red?") == predictor.predict(["is it red?"], task="chat").texts[0]


def test_a_conversation_is_passed_on_turn_by_turn(predictor, monkeypatch):
    predictor.set_image(image_of())
    asked, ask = [], predictor.model.lmm.ask
    monkeypatch.setattr(
        predictor.model.lmm, "ask", lambda *given, **options: asked.append(given[1]) or ask(*given, **options)
    )
    history = [["how many stars?", "two"], ("are they red?", "yes")]
    assert isinstance(predictor.chat(history, "and the ring?"), str)
    ((prompt,),) = asked[0]
    assert (prompt.text, prompt.task) == ("and the ring?", "chat")
    assert prompt.history == (("how many stars?", "two"), ("are they red?", "yes"))
    assert history == [["how many stars?", "two"], ("are they red?", "yes")]


def test_wrong_questions_are_explained(predictor):
    for ask in (predictor.answer, predictor.caption, lambda text: predictor.chat([], text)):
        with pytest.raises(DataError, match="call set_image"):
            ask("is it red?")
    predictor.set_image(image_of())
    with pytest.raises(PromptError, match="not empty"):
        predictor.answer(" ")
    with pytest.raises(PromptError, match="pairs of texts"):
        predictor.chat([("how many?",)], "is it red?")
    with pytest.raises(PromptError, match="pairs of texts"):
        predictor.chat(["ab"], "is it red?")
    with pytest.raises(PromptError, match="has no heatmap: it is answered in words"):
        predictor.heatmaps(["star"], task="vqa")
    with pytest.raises(PromptError, match="no decoder for task 'depth'"):
        predictor.predict([], task="depth")


def test_a_model_without_text_tasks_says_so(tiny_lumen):
    predictor = LumenPredictor(tiny_lumen, input_hw=(64, 64))
    predictor.set_image(image_of())
    with pytest.raises(PromptError, match="no decoder for task 'vqa'"):
        predictor.answer("is it red?")


def test_images_of_several_tasks_asked_together_equal_each_alone(predictor):
    images = [image_of(90, 120, 0), image_of(64, 64, 1), image_of(200, 50, 2), image_of(90, 120, 3)]
    tasks = ("detection", "counting", "vqa", "segmentation")
    asked = [(PHRASES[: number + 1], task, 0.05) for number, task in enumerate(tasks)]
    together = predictor.ask_together(images, asked)
    for image, (phrases, task, threshold), (kept, table) in zip(images, asked, together, strict=True):
        alone = predictor.image(image)
        check_answers_equal(table, alone.predict(phrases, task=task, score_threshold=threshold))
        check_answers_equal(kept.predict(phrases, task=task, score_threshold=threshold), table)
        assert kept.num_bytes == alone.num_bytes and kept.size_hw == image.shape[:2]


def test_what_cannot_be_asked_together_is_named(predictor):
    with pytest.raises(DataError, match="a question for each image, and at least one, got 0 for 1"):
        predictor.ask_together([image_of()], [])
    with pytest.raises(PromptError, match="at least one phrase"):
        predictor.ask_together([image_of()], [((), "detection", None)])

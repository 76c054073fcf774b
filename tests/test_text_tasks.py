"""Phrases and questions in one model and one batch."""

import copy

import pytest
import torch
from helpers import make_images, make_sample
from mmengine.optim import OptimWrapper

from lumen.aligners.dense import DenseAligner
from lumen.decoders.detection import DetectionDecoder
from lumen.decoders.text import CaptionDecoder, VqaDecoder
from lumen.errors import DataError
from lumen.model import Lumen
from lumen.structures import Prompt

PHRASES = make_sample(["cat", "a red star"], [[0, 0, 40, 30], [50, 30, 90, 60]], [0, 1])
QUESTIONS = make_sample(
    [Prompt("how many stars are there?", "vqa", answer="two"), Prompt("is it red?", "vqa", answer="no")]
)
CAPTION = make_sample([Prompt("", "caption", answer="A picture of a star.")])
NOTHING = make_sample()


@pytest.fixture
def make(make_adapter):
    def make(decoders=(DetectionDecoder, VqaDecoder, CaptionDecoder), **options):
        adapter = make_adapter(**{"template": "paper", "phrase_reconstruction": True, "max_new_tokens": 4, **options})
        aligner = {"type": DenseAligner, "channels": 32, "num_heads": 4, "mlp_channels": 64}
        return Lumen(adapter, aligner, [{"type": kind} for kind in decoders]).eval()

    return make


def samples_of(*samples):
    return [copy.deepcopy(sample) for sample in samples]


def test_questions_are_no_pairs_and_their_tokens_are_counted_apart(make):
    model = make()
    counts = {name: int(value) for name, value in model.count(samples_of(PHRASES, QUESTIONS, CAPTION)).items()}
    assert counts["pairs"] == counts["objects"] == 2
    free = [model.lmm.text.suffix(p).num_answer_tokens for p in (*QUESTIONS.prompts, *CAPTION.prompts)]
    assert counts["text_tokens"] == sum(free)
    assert model.loss_counts["lmm/loss_text"] == "text_tokens"
    assert "lmm/loss_text" not in make((DetectionDecoder,)).loss_counts


@pytest.mark.parametrize(
    "batch", [(PHRASES,), (QUESTIONS,), (CAPTION, NOTHING), (PHRASES, QUESTIONS, NOTHING)], ids=len
)
@pytest.mark.parametrize("template", ["paper", "compact"])
def test_all_losses_and_gradients_are_there_whatever_a_batch_asks(make, batch, template):
    model = make(template=template)
    losses = model(make_images(len(batch)), samples_of(*batch), mode="loss")
    assert all(bool(loss.isfinite()) for loss in losses.values())
    assert "lmm/loss_text" in losses
    sum(losses.values()).backward()
    unused = [name for name, value in model.named_parameters() if value.numel() and value.grad is None]
    assert unused == []
    assert all(bool(value.grad.isfinite().all()) for value in model.parameters() if value.grad is not None)


def test_losses_of_a_mixed_batch_are_the_sum_of_its_samples_with_one_count(make):
    model, images, samples = make(), make_images(3), samples_of(PHRASES, QUESTIONS, CAPTION)
    counts = model.count(samples)
    whole = model(images, samples, mode="loss")
    alone = [model(images[at : at + 1], samples[at : at + 1], mode="loss", counts=counts) for at in range(3)]
    for name, loss in whole.items():
        torch.testing.assert_close(loss, sum(losses[name] for losses in alone), rtol=1e-4, atol=1e-5)


def test_objects_of_text_prompts_do_not_weaken_the_heatmap(make):
    """A question about a sample with objects must not change the losses of the boxes beside it."""
    model, images = make(), make_images(2)
    question = make_sample([Prompt("is it red?", "vqa", answer="no")], [[8, 8, 60, 40], [0, 0, 20, 20]], [0, 0])
    samples = samples_of(PHRASES, question)
    assert model.count(samples)["objects"] == 2
    mixed = model(images, samples, mode="loss")
    boxes = model(images[:1], samples_of(PHRASES), mode="loss")
    texts = model(images[1:], samples[1:], mode="loss")
    for name, loss in mixed.items():
        torch.testing.assert_close(loss, boxes[name] + texts[name], rtol=1e-4, atol=1e-5)
    assert boxes["aligner/loss_heat"] > 0 and texts["lmm/loss_text"] > 0


def test_a_batch_is_predicted_as_its_samples_alone(make):
    model, images = make(), make_images(4)
    with torch.no_grad():
        whole = model(images, samples_of(PHRASES, QUESTIONS, CAPTION, NOTHING), mode="predict")
        for at, sample in enumerate((PHRASES, QUESTIONS, CAPTION)):
            (alone,) = model(images[at : at + 1], samples_of(sample), mode="predict")
            assert set(alone.pred_instances.keys()) == set(whole[at].pred_instances.keys())
            if at:
                assert alone.pred_instances.texts == whole[at].pred_instances.texts
                assert alone.pred_instances.prompt_index.tolist() == list(range(len(sample.prompts)))
    assert len(whole[3].pred_instances) == 0


def test_nothing_is_generated_for_phrases(make, monkeypatch):
    model = make()
    monkeypatch.setattr(model.lmm.base_model, "generate", None)
    with torch.no_grad():
        model(make_images(2), samples_of(PHRASES, NOTHING), mode="predict")
        model(make_images(1), samples_of(QUESTIONS), mode="loss")


def test_an_answer_without_loc_gives_no_boxes(make):
    model = make((DetectionDecoder,), answer_mode="generated")
    with torch.no_grad():  # random weights write no [LOC]
        (sample,) = model(make_images(1), samples_of(PHRASES), mode="predict")
    assert len(sample.pred_instances) == 0
    assert model.lmm.answer_report.lacked_loc == 2


def test_a_sample_that_mixes_phrases_and_questions_trains_but_is_not_predicted(make):
    model = make()
    sample = make_sample([Prompt("cat"), Prompt("is it red?", "vqa", answer="no")], [[0, 0, 40, 30]], [0])
    assert len(model(make_images(1), [sample]).image_index) == 1
    with pytest.raises(DataError, match="one task at a time"):
        model(make_images(1), [sample], mode="predict")


def test_steps_on_texts_alone_lower_their_loss(make):
    model = make((VqaDecoder, CaptionDecoder)).train()
    data = {"inputs": list(make_images(2)), "data_samples": samples_of(QUESTIONS, CAPTION)}
    optimizer = OptimWrapper(torch.optim.Adam(model.parameters(), lr=1e-3))
    losses = [model.train_step(data, optimizer)["lmm/loss_text"].item() for _ in range(8)]
    assert losses[-1] < 0.9 * losses[0]

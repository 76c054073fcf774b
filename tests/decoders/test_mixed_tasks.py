import pytest
import torch
from decoder_cases import with_masks
from helpers import make_images, make_sample

from lumen.aligners.dense import DenseAligner
from lumen.decoders.detection import DetectionDecoder
from lumen.decoders.grounding import GroundingDecoder
from lumen.decoders.referring_segmentation import ReferringSegmentationDecoder
from lumen.decoders.segmentation import SegmentationDecoder
from lumen.decoders.semantic_segmentation import SemanticSegmentationDecoder
from lumen.lmm.adapter import HFAdapter
from lumen.model import Lumen
from lumen.ops.geometry import InputTransform
from lumen.structures import Prompt

DECODERS = (
    DetectionDecoder,
    GroundingDecoder,
    ReferringSegmentationDecoder,
    SegmentationDecoder,
    SemanticSegmentationDecoder,
)
ASKED = DECODERS[:-1]  # the last one learns from no pair
TASKS = [decoder.spec.name for decoder in ASKED]


@pytest.fixture
def model(tiny_nano):
    torch.manual_seed(0)
    return Lumen(
        lmm={"type": HFAdapter, "name_or_path": str(tiny_nano), "base": {"attention": "eager"}},
        aligner={"type": DenseAligner, "channels": 32, "num_heads": 4, "mlp_channels": 64, "fine_levels": 1},
        decoders=[{"type": decoder} for decoder in DECODERS],
    ).eval()


def asked(task):
    """Return a sample of an image of twice the size of the input; plain tasks have no masks."""
    frame = InputTransform.stretch((128, 192), (64, 96))
    prompts = [Prompt(text, task=task, label=at) for at, text in enumerate(("red circle", "blue star"))]
    sample = make_sample(prompts, [[8, 8, 60, 50]], [1], frame=frame)
    return with_masks(sample) if task not in ("detection", "grounding") else sample


def test_all_tasks_learn_in_one_batch(model):
    samples = [asked(task) for task in TASKS]
    losses = model.train()(make_images(len(samples)), samples, mode="loss")
    assert {name.partition("/")[0] for name in losses} >= set(TASKS)
    sum(losses.values()).backward()
    idle = [name for name, value in model.decoders.named_parameters() if value.numel() and value.grad is None]
    assert idle == []


@pytest.mark.parametrize("task", TASKS)
def test_a_model_that_is_never_asked_a_task_still_trains_its_decoder(model, task):
    losses = model(make_images(1), [asked(task)], mode="loss")
    assert all(bool(loss.isfinite()) and loss.requires_grad for loss in losses.values())


@pytest.mark.parametrize("decoder", ASKED, ids=TASKS)
def test_answers_are_in_original_pixels(model, decoder):
    with torch.no_grad():
        (sample,) = model(make_images(1), [asked(decoder.spec.name)], mode="predict")
    answer = sample.pred_instances
    assert set(answer.keys()) == decoder.spec.predictions
    assert len(answer) > 0
    if "masks" in answer:
        assert all(mask["size"] == [128, 192] for mask in answer.masks)

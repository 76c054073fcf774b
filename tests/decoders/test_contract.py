import dataclasses
import importlib
import sys
from pathlib import Path

import pytest
import torch
from decoder_cases import with_masks
from helpers import make_images, make_sample, make_shared
from mmengine.structures import InstanceData
from torch import nn

from lumen.decoders.base import Decoder
from lumen.decoders.detection import DetectionDecoder
from lumen.registry import DECODERS
from lumen.structures import COUNTS, Prompt, TaskSpec

DECODERS.import_from_location()
for file in sorted((Path(__file__).parents[2] / "projects").glob("*/*_decoder.py")):
    sys.path.append(str(file.parent))  # as the tools do for the folder of a config
    importlib.import_module(file.stem)
ALL = sorted(DECODERS.module_dict.values(), key=lambda kind: kind.__name__)


class NoMasks(nn.Module):
    """Stands for SAM."""

    def forward(self, images, image_index, points, boxes):
        return torch.zeros(len(points), 4, 6)


# What a decoder cannot be built without.
OPTIONS = {"SamSegmentationDecoder": {"sam": NoMasks()}, "SamReferringDecoder": {"sam": NoMasks()}}


@pytest.fixture(params=ALL, ids=lambda kind: kind.__name__)
def decoder(request):
    torch.manual_seed(0)
    return DECODERS.build({"type": request.param, "channels": 32, **OPTIONS.get(request.param.__name__, {})})


def prompts_of(decoder, number):
    return [Prompt(f"thing {at}", task=decoder.spec.name, label=at) for at in range(number)]


def make_case(decoder, image_index=(), prompt_index=(), boxes=(), box_prompt=()):
    """Return two images, the first of which is asked two prompts where there are pairs at all."""
    shared = make_shared(image_index, prompt_index, num_images=2, num_maps=decoder.spec.map_queries)
    shared = dataclasses.replace(shared, extras={"images": make_images(2)})
    if "texts" in decoder.spec.extras:
        shared = dataclasses.replace(shared, extras={"texts": [["a text"] * len(image_index), []]})
    samples = [make_sample(prompts_of(decoder, len(image_index)), boxes, box_prompt), make_sample()]
    return shared, [with_further(with_masks(sample), decoder) for sample in samples]


def with_further(sample, decoder):
    """Add what a plug-in's own data set gives: one class index per object."""
    for name in sorted(decoder.spec.targets - set(sample.gt_instances.keys())):
        sample.gt_instances[name] = torch.zeros(len(sample.gt_instances), dtype=torch.long)
    return sample


CASES = {
    "no pairs": {},
    "no objects": {"image_index": (0, 0), "prompt_index": (0, 1)},
    "one object": {"image_index": (0, 0), "prompt_index": (0, 1), "boxes": [[8, 8, 40, 30]], "box_prompt": [1]},
    "two in one cell": {
        "image_index": (0,),
        "prompt_index": (0,),
        "boxes": [[8, 8, 40, 40], [9, 9, 39, 39]],
        "box_prompt": [0, 0],
    },
    "on the border": {
        "image_index": (0,),
        "prompt_index": (0,),
        "boxes": [[95, 0, 96, 64], [0, 63, 96, 64], [0, 0, 1, 1]],
        "box_prompt": [0, 0, 0],
    },
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_losses_are_those_of_the_spec_and_always_finite_and_connected(decoder, case):
    shared, samples = make_case(decoder, **case)
    losses = decoder.loss(shared, samples)
    assert set(losses) == set(decoder.spec.losses)
    for loss in losses.values():
        assert loss.shape == ()
        assert loss.requires_grad
        assert bool(loss.isfinite())
    if not losses:
        return  # answered in words: the LMM's own loss is all there is
    total = sum(losses.values())
    total.backward()
    unused = [name for name, value in decoder.named_parameters() if value.grad is None]
    # map queries are used in the aligner, which gives the maps
    assert [name for name in unused if name != "map_queries"] == []
    counts = {"objects": "boxes" in case, "pairs": "image_index" in case}
    assert all(counts[decoder.spec.losses[name]] or loss.item() == 0 for name, loss in losses.items())


@pytest.mark.parametrize("case", list(CASES.values())[:3], ids=list(CASES)[:3])
def test_predictions_are_one_table_per_sample_with_the_fields_of_the_spec(decoder, case):
    shared, samples = make_case(decoder.eval(), **case)
    with torch.no_grad():
        answers = decoder.predict(shared, samples)
    assert len(answers) == len(samples)
    assert all(set(answer.keys()) == decoder.spec.predictions for answer in answers)
    assert len(answers[1]) == 0


def test_projects_are_among_the_decoders():
    assert {"PointingDecoder", "ColourNamingDecoder"} <= {kind.__name__ for kind in ALL}


def test_the_spec_can_be_printed_and_trusted(decoder):
    spec = decoder.spec
    assert spec.name in repr(spec)
    assert set(spec.losses.values()) <= set(COUNTS)
    assert "/" in spec.headline
    assert decoder.map_queries.shape == (spec.map_queries, 32)


def test_decoding_in_bf16_runs(decoder):
    shared, samples = make_case(decoder, **CASES["one object"])
    with torch.autocast("cpu", torch.bfloat16):
        losses = decoder.loss(shared, samples)
        decoder.eval().predict(shared, samples)
    assert all(loss.dtype == torch.float32 and bool(loss.isfinite()) for loss in losses.values())


def test_a_decoder_gives_back_its_weights(decoder):
    other = type(decoder)(channels=32, **OPTIONS.get(type(decoder).__name__, {}))
    other.load_state_dict(decoder.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(decoder.parameters(), other.parameters(), strict=True))


def test_a_decoder_without_a_spec_is_refused():
    with pytest.raises(TypeError, match="Nameless must declare `spec = TaskSpec"):

        class Nameless(Decoder):
            pass


def test_a_decoder_from_another_one_is_refused():
    with pytest.raises(TypeError, match="must subclass Decoder directly"):

        class Heir(DetectionDecoder):
            spec = DetectionDecoder.spec


def test_a_decoder_from_another_one_and_from_decoder_is_refused():
    with pytest.raises(TypeError, match="must subclass Decoder directly"):

        class Heir(DetectionDecoder, Decoder):
            spec = DetectionDecoder.spec


def test_a_decoder_without_loss_and_predict_cannot_be_built():
    class Half(Decoder):
        spec = TaskSpec("half", frozenset(), frozenset(), "half/error", {})

        def predict(self, shared, samples):
            return [InstanceData() for _ in samples]

    with pytest.raises(TypeError, match="abstract"):
        Half(channels=8)

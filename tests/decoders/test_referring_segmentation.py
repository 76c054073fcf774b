import dataclasses
import math

import pytest
import torch
from decoder_cases import fixed_distances, heat, random_shared, with_masks
from helpers import make_sample, make_shared

from lumen.decoders.grounding import GroundingDecoder
from lumen.decoders.referring_segmentation import ReferringSegmentationDecoder
from lumen.decoders.segmentation import SegmentationDecoder
from lumen.structures import Prompt


def ask(*texts):
    return [Prompt(text, task="referring_segmentation") for text in texts]


def referring(**limits):
    torch.manual_seed(0)
    return fixed_distances(ReferringSegmentationDecoder(32, limits=limits), 0.5, 0.25, 1.0, 2.0)


def test_a_sentence_gets_one_mask_that_ends_near_its_box():
    shared = heat(make_shared([0], [0]), [(0, 1, 2, 0.8), (0, 3, 5, 0.7)])
    (answer,) = referring().predict(shared, [make_sample(ask("the left cat"))])
    torch.testing.assert_close(answer.bboxes, torch.tensor([[32.0, 20.0, 56.0, 56.0]]))
    assert answer.masks.shape == (1, 16, 24)
    assert answer.masks[0].any(0).nonzero()[:, 0].tolist() == list(range(6, 16))


def test_a_sentence_without_target_gets_no_mask():
    shared = heat(make_shared([0, 0], [0, 1]), [(0, 1, 2, 0.8), (1, 1, 2, 0.8)])
    shared = dataclasses.replace(shared, presence_logits=torch.tensor([math.log(0.25 / 0.75), 3.0]))
    (answer,) = referring(min_score=0.5).predict(shared, [make_sample(ask("the unicorn", "the cat"))])
    assert answer.prompt_index.tolist() == [1]
    assert answer.masks.shape == (1, 16, 24)


def test_boxes_are_those_of_grounding():
    shared = random_shared(make_shared([0, 1, 1], [0, 0, 1], num_images=2))
    samples = [make_sample(ask("a")), make_sample(ask("b", "c"))]
    plain = fixed_distances(GroundingDecoder(32, limits={"num_boxes": 3}), 0.5, 0.25, 1.0, 2.0).predict(shared, samples)
    masked = referring(num_boxes=3).predict(shared, samples)
    for one, other in zip(plain, masked, strict=True):
        assert len(one) > 0
        for name, value in one.items():
            assert torch.equal(value, other[name])


def test_losses_are_those_of_segmentation():
    shared = random_shared(make_shared([0, 0], [0, 1]))
    sample = with_masks(make_sample(ask("a", "b"), [[8, 8, 60, 50], [30, 10, 90, 60]], [0, 1]))
    decoder, twin = referring(), SegmentationDecoder(32).eval()
    twin.load_state_dict(decoder.state_dict())
    expected = twin.loss(shared, [sample])
    for name, loss in decoder.loss(shared, [sample]).items():
        assert loss.item() == pytest.approx(expected[name].item())

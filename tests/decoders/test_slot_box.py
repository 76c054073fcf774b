import dataclasses

import pytest
import torch
from helpers import make_sample, make_shared

from lumen.decoders.boxes import SlotBoxHead, slot_box_losses
from lumen.decoders.slot_box import SlotBoxDecoder
from lumen.errors import ConfigError
from lumen.structures import Prompt


def fixed(decoder, *values):
    """Make the last layer give these four numbers for every vector."""
    with torch.no_grad():
        decoder.head.layers[-1].weight.zero_()
        decoder.head.layers[-1].bias.copy_(torch.tensor(values))
    return decoder.eval()


def slotted(num_pairs, slot="[LOC]"):
    shared = make_shared([0] * num_pairs, range(num_pairs))
    return dataclasses.replace(shared, heat_logits=None, presence_logits=None, slots={slot: torch.ones(num_pairs, 32)})


def grounding(count, *boxes):
    return make_sample([Prompt(f"thing {place}", "grounding") for place in range(count)], boxes, range(len(boxes)))


def test_the_head_is_as_large_as_in_the_paper():
    assert sum(value.numel() for value in SlotBoxHead(256).parameters()) == 99_204


def test_a_box_is_a_centre_and_a_size_in_shares_of_the_input():
    # sigmoid(0) is .5, sigmoid(-log 3) is .25: the input has 64 x 96 pixels
    decoder = fixed(SlotBoxDecoder(32), 0.0, 0.0, -1.0986123, 0.0)
    (answer,) = decoder.predict(slotted(1), [grounding(1)])
    torch.testing.assert_close(answer.bboxes, torch.tensor([[36.0, 16.0, 60.0, 48.0]]), atol=1e-3, rtol=0)
    assert answer.scores.tolist() == [1.0] and answer.prompt_index.tolist() == [0]


def test_a_bounded_box_is_in_order_and_in_the_image():
    for values in ((9.0, 9.0, 9.0, 9.0), (-9.0, -9.0, 2.0, -9.0)):
        (answer,) = fixed(SlotBoxDecoder(32), *values).predict(slotted(1), [grounding(1)])
        x1, y1, x2, y2 = answer.bboxes[0].tolist()
        assert 0 <= x1 <= x2 <= 96 and 0 <= y1 <= y2 <= 64


def test_raw_corners_are_those_of_the_last_layer():
    decoder = fixed(SlotBoxDecoder(32, raw_xyxy=True), 0.25, 0.5, 0.75, 1.5)
    (answer,) = decoder.predict(slotted(1), [grounding(1)])
    torch.testing.assert_close(answer.bboxes, torch.tensor([[24.0, 32.0, 72.0, 64.0]]))


def test_the_losses_are_sums_over_targets():
    decoder = fixed(SlotBoxDecoder(32, raw_xyxy=True), 0.0, 0.0, 0.5, 0.5)
    # the first target is hit, the second is the right half of it: half a width to the right
    losses = decoder.loss(slotted(2), [grounding(2, [0, 0, 48, 32], [24, 0, 48, 32])])
    torch.testing.assert_close(losses["loss_l1"], torch.tensor(0.25))
    torch.testing.assert_close(losses["loss_giou"], torch.tensor(0.5))
    distance, overlap = slot_box_losses(torch.rand(3, 4), torch.rand(3, 4))
    assert distance.shape == overlap.shape == (3,)


def test_raw_corners_in_the_wrong_order_have_a_gradient():
    boxes = torch.tensor([[0.8, 0.8, 0.2, 0.2]], requires_grad=True)
    distance, _ = slot_box_losses(boxes, torch.tensor([[0.0, 0.0, 1.0, 1.0]]))
    distance.sum().backward()
    assert bool(boxes.grad.abs().all())


def test_a_slot_that_the_aligner_does_not_read_is_named():
    with pytest.raises(ConfigError, match=r"unknown slot '\[SEG\]': the aligner reads \['\[LOC\]'\]"):
        SlotBoxDecoder(32, slot="[SEG]").predict(slotted(1), [grounding(1)])

import dataclasses

import pytest
import torch
from helpers import make_sample, make_shared
from torch import nn
from torch.nn import functional

from lumen.decoders.slot_mask import SlotMaskDecoder
from lumen.structures import Prompt


class OneCell(nn.Module):
    """A SAM on a grid of 8 x 12 that puts all of a mask where the vector says: its first number is the cell."""

    def forward(self, vectors, image_index, *, images, dense):
        cells = functional.one_hot(vectors[:, 0].long(), 96).float()
        return (cells * 40 - 20 + 0 * vectors[:, :1]).view(-1, 8, 12)


def slotted(*cells):
    """Return a representation of one image of 64 x 96 whose pairs name these cells."""
    shared = make_shared([0] * len(cells), range(len(cells)))
    vectors = torch.tensor(cells, dtype=torch.float)[:, None].expand(-1, 32).clone().requires_grad_()
    return dataclasses.replace(shared, heat_logits=None, presence_logits=None, slots={"[LOC]": vectors})


def asked(count, *boxes):
    return make_sample([Prompt(f"thing {place}", "grounding") for place in range(count)], boxes, range(len(boxes)))


def test_a_mask_and_the_box_around_it_for_each_sentence():
    (answer,) = SlotMaskDecoder(32, sam=OneCell()).predict(slotted(0, 13), [asked(2)])
    assert answer.bboxes.tolist() == [[0, 0, 8, 8], [8, 8, 16, 16]]
    assert answer.prompt_index.tolist() == [0, 1] and answer.scores.tolist() == [1.0, 1.0]
    assert (answer.masks > 0.5).sum((1, 2)).tolist() == [1, 1]


def test_the_right_mask_costs_less_and_no_target_costs_nothing():
    sample = asked(2, [0, 0, 8, 8])
    sample.gt_instances.masks = torch.zeros(1, 64, 96, dtype=torch.bool)
    sample.gt_instances.masks[0, :8, :8] = True
    decoder = SlotMaskDecoder(32, sam=OneCell())
    right, wrong = (decoder.loss(slotted(cell, 5), [sample]) for cell in (0, 40))
    assert all(right[name] < wrong[name] for name in decoder.spec.losses)
    assert decoder.loss(slotted(5), [asked(1)]) == {"loss_mask": 0, "loss_dice": 0}
    assert decoder.loss(slotted(), [asked(0)]) == {"loss_mask": 0, "loss_dice": 0}


def test_no_sentence_has_no_answer():
    (answer,) = SlotMaskDecoder(32, sam=OneCell()).predict(slotted(), [asked(0)])
    assert answer.masks.shape == (0, 8, 12) and answer.bboxes.shape == (0, 4)


def test_a_vector_learns_from_its_own_target_alone():
    sample = asked(2, [0, 0, 8, 8])
    sample.gt_instances.masks = torch.ones(1, 64, 96, dtype=torch.bool)
    shared = slotted(3, 4)
    torch.manual_seed(0)
    decoder = SlotMaskDecoder(
        32,
        sam={"type": "SamPrompted", "encoder": "shared", "sizes": {"num_attention_heads": 2, "mlp_dim": 32}},
    )
    sum(decoder.loss(shared, [sample]).values()).backward()
    vectors = shared.slots["[LOC]"].grad
    assert vectors[0].abs().sum() > 0
    assert vectors[1].abs().sum() == pytest.approx(0)

"""Object tokens: boxes found in the image alone, as tokens behind those of a connector, and the choice among them."""

import dataclasses
import math

import pytest
import torch
from helpers import make_images, make_instances, make_sample, make_shared
from mmengine.structures import InstanceData
from torch import nn

from lumen.aligners.slots import SlotAligner
from lumen.decoders.object_choice import ObjectChoiceDecoder
from lumen.decoders.slot_box import SlotBoxDecoder
from lumen.errors import ConfigError, DataError
from lumen.lmm.connectors import LinearConnector, ObjectConnector
from lumen.lmm.connectors.objects import proposal_losses
from lumen.lmm.split import split_images
from lumen.model import Lumen
from lumen.proposals import Proposals
from lumen.structures import FeatureWidths, LocFeatures, Prompt

OBJECTS = {"type": ObjectConnector, "inner": {"type": LinearConnector}, "num_objects": 3}
TEMPLATE = {"name": "short", "before": "where is", "after": "?", "answer": "[LOC]"}
RED, CAT = Prompt("red circle", "grounding"), Prompt("the cat", "grounding")


def proposals_of(boxes, tokens):
    boxes = torch.as_tensor(boxes, dtype=torch.float32)[None]
    return Proposals(boxes, torch.as_tensor(tokens)[None], torch.zeros(1, 2, 2), torch.zeros(1, 2, 2, 4))


def with_objects(sample, *boxes):
    sample.objects = InstanceData(
        bboxes=torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4), labels=torch.zeros(len(boxes)).long()
    )
    return sample


# ---- the connector


def test_the_best_cells_are_the_proposals_and_stand_behind_the_other_tokens():
    connector = ObjectConnector(2, 8, inner={"type": LinearConnector}, num_objects=2)
    # The first number of a cell is its logit, the second one the logit of the width.
    head = nn.Linear(2, 5)
    with torch.no_grad():
        head.weight.copy_(torch.tensor([[1.0, 0], [0, 0], [0, 0], [0, 1], [0, 0]]))
        head.bias.zero_()
    connector.proposal_head = nn.Sequential(head)
    cells = torch.tensor([[[1.0, 0.0], [3.0, -math.log(3)], [0.0, 0.0], [2.0, 9.0], [0.0, 0.0], [0.0, 0.0]]])
    tokens, proposals = connector.read([cells], (2, 3))
    assert connector.token_hw((2, 3)) == (2, 3) and connector.num_tokens((2, 3)) == 6
    assert torch.equal(tokens[:, :6], connector.inner([cells], (2, 3)))
    assert torch.equal(tokens[:, 6:], proposals.tokens) and torch.equal(connector([cells], (2, 3)), tokens)
    # Cell 1 has its centre at (1/2, 1/4) and is a quarter wide, a half high; cell 3 leaves the image on the left.
    first, second = proposals.boxes[0].tolist()
    assert first == pytest.approx([0.375, 0.0, 0.625, 0.5])
    assert second == pytest.approx([0.0, 0.5, 1 / 6 + 0.5, 1.0], abs=1e-3)
    # The token of the first one sees what its box covers: three quarters of the middle cell's width, and no other.
    expected = connector.look(cells[:, 1]) + connector.place(2 * proposals.boxes[:, 0] - 1)
    torch.testing.assert_close(proposals.tokens[:, 0], expected)
    assert proposals.centre_logits.tolist() == [[[1.0, 3.0, 0.0], [2.0, 0.0, 0.0]]]
    with pytest.raises(ConfigError, match="num_objects must be at least 1, got 0"):
        ObjectConnector(2, 8, inner={"type": LinearConnector}, num_objects=0)


def test_an_image_of_fewer_cells_has_as_many_tokens():
    connector = ObjectConnector(2, 8, inner={"type": LinearConnector}, num_objects=5)
    tokens, proposals = connector.read([torch.randn(2, 4, 2)], (2, 2))
    assert tokens.shape == (2, 9, 8) and proposals.boxes.shape == (2, 4, 4)
    assert not tokens[:, 8].any()


def losses_of(logits, cell_boxes, *samples):
    proposals = Proposals(torch.zeros(1, 1, 4), torch.zeros(1, 1, 8), logits, cell_boxes)
    none = torch.zeros(0, dtype=torch.long)
    features = LocFeatures(torch.zeros(0, 8), torch.zeros(1, 2, 2, 2), (), 16, none, none, {}, {"proposals": proposals})
    return proposal_losses(features, samples)["loss_proposals"]


def test_the_loss_is_that_of_all_objects_whether_they_are_asked_for_or_not():
    # 64 x 96 pixels in 2 x 2 cells: an object whose centre, (72, 16), lies in the right cell of the first row.
    sample = with_objects(make_sample(), [48, 0, 96, 32])
    logits, cell_boxes = torch.full((1, 2, 2), -30.0), torch.rand(1, 2, 2, 4)
    logits[0, 0, 1] = 30.0
    cell_boxes[0, 0, 1] = torch.tensor([0.5, 0.0, 1.0, 0.5])
    assert losses_of(logits, cell_boxes, sample) < 1e-6
    # A quarter too narrow: an L1 distance of a quarter, half of the box is covered.
    cell_boxes[0, 0, 1] = torch.tensor([0.75, 0.0, 1.0, 0.5])
    assert float(losses_of(logits, cell_boxes, sample)) == pytest.approx(0.25 + 0.5)
    # A cell that is half sure where nothing is counts log 2, times the root of its error.
    logits[0, 1, 1] = 0.0
    assert float(losses_of(logits, cell_boxes, sample)) == pytest.approx(0.75 + math.log(2) * 0.5**0.5)
    assert float(losses_of(torch.full((1, 2, 2), -30.0), cell_boxes, with_objects(make_sample()))) < 1e-6
    with pytest.raises(DataError, match="KeepObjects"):
        losses_of(logits, cell_boxes, make_sample())


# ---- the decoder


def chosen_among(vectors, boxes, tokens):
    shared = make_shared([0] * len(vectors), range(len(vectors)), channels=2)
    proposals = {"proposals": proposals_of(boxes, tokens)}
    return dataclasses.replace(shared, slots={"[LOC]": torch.tensor(vectors)}, extras=proposals)


def test_a_sentence_gets_the_proposal_with_the_largest_product():
    boxes = [[0.0, 0.0, 0.5, 0.5], [0.5, 0.0, 1.0, 1.0]]
    shared = chosen_among([[2.0, 0.0], [0.0, 2.0]], boxes, [[0.0, 1.0], [1.0, 0.0]])
    sample = make_sample([RED, CAT], [[0, 0, 48, 32], [48, 0, 60, 8]], [1, 0])
    decoder = ObjectChoiceDecoder(2)
    (answer,) = decoder.predict(shared, [sample])
    assert answer.bboxes.tolist() == [[48.0, 0.0, 96.0, 64.0], [0.0, 0.0, 48.0, 32.0]]
    share = 1 / (1 + math.exp(-math.sqrt(2)))
    assert answer.scores.tolist() == pytest.approx([share, share])
    # The second sentence has a right proposal, the first has none: its target is a corner of the other box.
    loss = decoder.loss(shared, [sample])["loss_choice"]
    assert float(loss) == pytest.approx(-math.log(share))
    both = ObjectChoiceDecoder(2, iou_threshold=0.01).loss(shared, [sample])["loss_choice"]
    assert float(both) == pytest.approx(-2 * math.log(share))


def test_what_the_decoder_lacks_is_named():
    shared = chosen_among([[2.0, 0.0]], [[0.0, 0.0, 1.0, 1.0]], [[0.0, 1.0, 2.0]])
    with pytest.raises(ConfigError, match=r"SlotAligner\(objects=True\)"):
        ObjectChoiceDecoder(2)(shared)
    with pytest.raises(ConfigError, match="ObjectConnector"):
        ObjectChoiceDecoder(2)(dataclasses.replace(shared, extras={}))


# ---- the whole model


def model_of(make_adapter, **options):
    adapter = make_adapter(**{"connector": OBJECTS, "template": TEMPLATE, **options})
    torch.manual_seed(0)
    aligner = SlotAligner(widths=FeatureWidths.of(adapter), slots=["[LOC]"], channels=16, objects=True)
    return Lumen(adapter, aligner, [ObjectChoiceDecoder(16)])


def test_all_parts_learn(make_adapter):
    model = model_of(make_adapter).train()
    samples = [
        with_objects(make_sample([RED, CAT], [[0, 0, 96, 64]] * 2, [0, 1]), [0, 0, 96, 64]),
        with_objects(make_sample(), [8, 8, 24, 24], [40, 8, 60, 60]),
    ]
    # Whatever is proposed is right, so that the choice is learned from the first step.
    model.decoders["grounding"].iou_threshold = 0.0
    losses = model(make_images(2), samples, mode="loss")
    assert {"lmm/loss_proposals", "grounding/loss_choice"} <= set(losses)
    sum(losses.values()).backward()
    parts = [model.lmm.base_model.model.multi_modal_projector, model.aligner]
    idle = [name for part in parts for name, value in part.named_parameters() if value.grad is None]
    assert idle == []
    head = model.lmm.base_model.model.multi_modal_projector.proposal_head
    assert all(value.grad.any() for value in head.parameters())


@pytest.mark.parametrize("answer_mode", ["forced", "generated"])
def test_packed_prompts_get_the_answers_of_separate_ones(make_adapter, answer_mode):
    answers = []
    for mode in ("packed", "separate"):
        model = model_of(make_adapter, mode=mode, answer_mode=answer_mode).eval()
        samples = [make_sample([RED, CAT]), make_sample([CAT]), make_sample()]
        with torch.no_grad():
            answers.append([sample.pred_instances for sample in model(make_images(3), samples, mode="predict")])
    for packed, separate in zip(*answers, strict=True):
        torch.testing.assert_close(packed.scores, separate.scores, atol=1e-5, rtol=0)
        torch.testing.assert_close(packed.bboxes, separate.bboxes, atol=1e-3, rtol=0)
    if answer_mode == "forced":
        assert [len(answer.bboxes) for answer in answers[0]] == [2, 1, 0]


def test_images_encoded_together_keep_their_own_proposals(make_adapter):
    model = model_of(make_adapter).eval()
    with torch.no_grad():
        apart = split_images(model.lmm.encode_images(make_images(2)))
        alone = [model.lmm.encode_images(image[None]) for image in make_images(2)]
        for pair in zip(apart, alone, strict=True):
            found, wanted = (model.lmm.ask(each, [[RED]], extras={"proposals"}, predicting=True) for each in pair)
            torch.testing.assert_close(found.extras["proposals"].boxes, wanted.extras["proposals"].boxes)
            torch.testing.assert_close(found.query, wanted.query, atol=1e-5, rtol=1e-5)


def test_a_connector_without_proposals_is_named(make_adapter):
    model = model_of(make_adapter, connector={"type": LinearConnector}).eval()
    with pytest.raises(ConfigError, match="the connector gives none"), torch.no_grad():
        model(make_images(1), [make_sample([RED])], mode="predict")


def test_object_tokens_serve_other_decoders_too(make_adapter):
    adapter = make_adapter(connector=OBJECTS, template=TEMPLATE)
    assert adapter.prefix((64, 96)).count(adapter.config.image_token_id) == 24 + 3
    aligner = SlotAligner(widths=FeatureWidths.of(adapter), slots=["[LOC]"], channels=16)
    model = Lumen(adapter, aligner, [SlotBoxDecoder(16)])
    sample = make_sample([RED], [[8, 8, 24, 24]], [0])
    sample.ignored_instances = make_instances()
    assert "lmm/loss_proposals" not in model(make_images(1), [sample], mode="loss")

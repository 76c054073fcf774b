import pytest
import torch
from helpers import make_images, make_sample
from torch import nn

from lumen.aligners.slots import SlotAligner
from lumen.decoders.detection import DetectionDecoder
from lumen.decoders.slot_box import SlotBoxDecoder
from lumen.decoders.text import VqaDecoder
from lumen.errors import ConfigError
from lumen.lmm.adapter import HFAdapter
from lumen.model import Lumen
from lumen.routing import select_pairs
from lumen.structures import FeatureWidths, LocFeatures, Prompt

WIDTHS = FeatureWidths(24, 20, (6, 8), ("[SEG]", "[LOC]"))
NO_QUERIES = torch.zeros(0, 16)


def features(num_pairs=3):
    generator = torch.Generator().manual_seed(0)

    def noise(*shape):
        return torch.randn(shape, generator=generator)

    slots = {slot: noise(num_pairs, 24) for slot in WIDTHS.slots}
    return LocFeatures(
        query=slots["[SEG]"],
        grid=noise(2, 20, 2, 3),
        laterals=(noise(2, 6, 8, 12), noise(2, 8, 4, 6)),
        stride=16,
        image_index=torch.arange(num_pairs) // 2,
        prompt_index=torch.arange(num_pairs) % 2,
        slots=slots,
    )


def test_a_slot_is_projected_by_two_layers_of_its_own():
    aligner, given = SlotAligner(widths=WIDTHS, slots=["[LOC]", "[SEG]"], channels=16), features()
    shared = aligner(given, NO_QUERIES)
    first, _, last = aligner.projectors[1]
    wanted = (given.slots["[SEG]"] @ first.weight.T + first.bias).relu() @ last.weight.T + last.bias
    torch.testing.assert_close(shared.slots["[SEG]"], wanted)
    assert shared.query is shared.slots["[LOC]"]
    assert not torch.equal(shared.slots["[LOC]"], shared.slots["[SEG]"])
    assert aligner.loss(shared, []) == {}


def test_it_is_as_large_as_in_the_paper():
    with torch.device("meta"):
        aligner = SlotAligner(widths=FeatureWidths(4096, 1024, (), ("[SEG]",)), slots=["[SEG]"], channels=256)
    assert sum(value.numel() for value in aligner.parameters()) == 17_830_144


def test_there_is_no_heatmap_and_no_dense_map_unless_asked_for():
    shared = SlotAligner(widths=WIDTHS, slots=["[LOC]"], channels=16)(features(), NO_QUERIES)
    assert shared.heat_logits is None and shared.presence_logits is None
    assert shared.dense.shape == (2, 16, 0, 0) and shared.maps.shape == (3, 0, 0, 0)


@pytest.mark.parametrize(("fine_levels", "size_hw", "stride"), [(0, (2, 3), 16), (1, (4, 6), 8), (2, (8, 12), 4)])
def test_the_dense_map_is_refined_by_the_tower(fine_levels, size_hw, stride):
    aligner = SlotAligner(widths=WIDTHS, slots=["[LOC]"], channels=16, fine_levels=fine_levels)
    shared = aligner(features(), NO_QUERIES)
    assert shared.dense.shape == (2, 16, *size_hw) and shared.stride == stride
    with pytest.raises(ConfigError, match="the LMM has 2 finer maps"):
        SlotAligner(widths=WIDTHS, slots=["[LOC]"], fine_levels=3)


def test_slots_of_chosen_pairs_go_with_them():
    shared = SlotAligner(widths=WIDTHS, slots=["[LOC]"], channels=16)(features(), NO_QUERIES)
    chosen = select_pairs(shared, torch.tensor([2, 0]), slice(0, 0))
    assert torch.equal(chosen.slots["[LOC]"], shared.slots["[LOC]"][[2, 0]])
    assert chosen.heat_logits is None and chosen.image_index.tolist() == [1, 0]
    assert select_pairs(shared, torch.arange(3), slice(0, 0)).slots is shared.slots


def test_an_unknown_slot_is_named_with_the_known_ones():
    with pytest.raises(ConfigError, match=r"unknown slots \['\[TAG\]'\]: those of the template are .*SEG.*LOC"):
        SlotAligner(widths=WIDTHS, slots=["[TAG]", "[LOC]"])


@pytest.fixture
def slotted(tiny_nano):
    """Return a function that builds a tiny model with a slot aligner."""

    def build(*decoders, slots=("[LOC]",)):
        torch.manual_seed(0)
        lmm = {"type": HFAdapter, "name_or_path": str(tiny_nano), "base": {"attention": "eager"}, "template": "paper"}
        return Lumen(lmm, {"type": SlotAligner, "slots": slots, "channels": 32}, [{"type": kind} for kind in decoders])

    return build


def test_a_decoder_that_needs_a_heatmap_is_refused(slotted):
    with pytest.raises(ConfigError, match=r"decoders of \['detection'\] read a heatmap, SlotAligner has none"):
        slotted(SlotBoxDecoder, DetectionDecoder)
    model = slotted(SlotBoxDecoder)
    with pytest.raises(ConfigError, match="read a heatmap"):
        model.add_decoder(DetectionDecoder(32))
    assert list(model.decoders) == ["grounding"]


def test_a_model_of_words_alone_needs_no_slots(slotted):
    model = slotted(VqaDecoder, slots=())
    assert list(model.aligner.parameters()) == []
    sample = make_sample([Prompt("is there a cat?", "vqa", answer="yes")])
    losses = model(make_images(), [sample], mode="loss")
    assert set(losses) == {"lmm/loss_answer", "lmm/loss_text"} and float(losses["lmm/loss_text"].detach()) > 0
    model.add_decoder(SlotBoxDecoder(32))
    with pytest.raises(ConfigError, match=r"unknown slot '\[LOC\]': the aligner reads \[\]"):
        model.eval()(make_images(), [make_sample([Prompt("the cat", "grounding")])], mode="predict")


def test_a_box_is_learned_from_a_slot_and_answered_in_the_pixels_of_the_image(slotted):
    model, images = slotted(SlotBoxDecoder), make_images(2)
    asked = [Prompt("the cat", "grounding"), Prompt("a red star", "grounding")]
    samples = [make_sample(asked, [[8, 16, 40, 48], [60, 4, 90, 20]], [0, 1]), make_sample([])]
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for _ in range(80):
        optimizer.zero_grad()
        losses = model(images, samples, mode="loss")
        sum(losses.values()).backward()
        optimizer.step()
    assert set(losses) == {"lmm/loss_answer", "grounding/loss_l1", "grounding/loss_giou"}
    with torch.no_grad():
        answered = model.eval()(images, samples, mode="predict")
    torch.testing.assert_close(answered[0].pred_instances.bboxes, samples[0].gt_instances.bboxes, atol=6, rtol=0)
    assert len(answered[1].pred_instances) == 0


def test_every_parameter_has_a_gradient_in_a_batch_without_pairs(slotted):
    model = slotted(SlotBoxDecoder)
    sum(model(make_images(), [make_sample([])], mode="loss").values()).backward()
    assert [name for name, value in model.named_parameters() if value.grad is None] == []
    assert isinstance(model.aligner.projectors[0], nn.Sequential)

import dataclasses
import math

import pytest
import torch
from decoder_cases import iou, random_shared, with_masks
from helpers import make_instances, make_sample, make_shared
from hypothesis import given
from hypothesis import strategies as st
from mmengine.structures import InstanceData

from lumen.decoders.semantic_segmentation import SemanticSegmentationDecoder, make_disjoint
from lumen.ops.masks import maps_to_original
from lumen.structures import Prompt


def ask(*texts):
    return [Prompt(text, task="semantic_segmentation", label=at) for at, text in enumerate(texts)]


def make_unlabelled(rows):
    masks = torch.zeros(1, 64, 96, dtype=torch.bool)
    masks[:, rows] = True
    return InstanceData(masks=masks)


def silent_decoder():
    """Return a decoder that gives every cell even chances."""
    decoder = SemanticSegmentationDecoder(32)
    torch.nn.init.zeros_(decoder.kernel_of_query.weight)
    torch.nn.init.zeros_(decoder.kernel_of_query.bias)
    return decoder


def test_losses_by_hand():
    # fine cells of 4 pixels, 16 x 24 of them; the objects cover 8 x 8 and 8 x 12 of them, and share 8 x 4
    sample = with_masks(make_sample(ask("cat", "dog"), [[0, 0, 32, 32], [16, 0, 64, 32]], [0, 0]))
    losses = silent_decoder().loss(make_shared([0, 0], [0, 1]), [sample])
    assert losses["loss_mask"].item() == pytest.approx(2 * math.log(2), abs=1e-5)
    union = 8 * 16
    assert losses["loss_dice"].item() == pytest.approx(1 - (union + 1) / (16 * 24 / 2 + union + 1), abs=1e-5)


def test_an_absent_phrase_learns_an_empty_mask_without_dice():
    shared = make_shared([0], [0])
    losses = silent_decoder().loss(shared, [with_masks(make_sample(ask("cat")))])
    assert losses["loss_mask"].item() == pytest.approx(math.log(2), abs=1e-5)
    assert losses["loss_dice"].item() == 0


def test_ignored_regions_teach_nothing_but_for_the_objects_in_them():
    sample = with_masks(make_sample(ask("cat"), [[0, 0, 16, 16]], [0]))
    sample.ignored_instances = make_instances([[0, 0, 48, 64]], [0])
    loss = silent_decoder().loss(make_shared([0], [0]), [sample])["loss_mask"]
    valid = 16 * 12 + 4 * 4
    assert loss.item() == pytest.approx(math.log(2) * valid / (16 * 24), abs=1e-5)


def test_pixels_without_a_label_teach_nothing():
    # Of the 16 x 24 fine cells of 4 pixels, the upper 8 x 24 have no label, and a row of cells has one in half of it.
    sample = with_masks(make_sample(ask("cat", "dog"), [[0, 0, 32, 64]], [0]))
    sample.unlabelled = make_unlabelled(slice(0, 34))
    losses = silent_decoder().loss(make_shared([0, 0], [0, 1]), [sample])
    valid = 7 * 24
    assert losses["loss_mask"].item() == pytest.approx(2 * math.log(2) * valid / (16 * 24), abs=1e-5)
    covered = 7 * 8
    assert losses["loss_dice"].item() == pytest.approx(1 - (covered + 1) / (valid / 2 + covered + 1), abs=1e-5)


def test_a_cell_with_a_few_unlabelled_pixels_learns_from_the_others():
    # three of four pixel rows of the first cells have a label, and all of these show the object: a whole cell of it
    sample = with_masks(make_sample(ask("cat"), [[0, 1, 96, 4]], [0]))
    sample.unlabelled = make_unlabelled(slice(0, 1))
    other = with_masks(make_sample(ask("cat"), [[0, 0, 96, 4]], [0]))
    torch.manual_seed(0)
    decoder, shared = SemanticSegmentationDecoder(32).eval(), random_shared(make_shared([0], [0]))
    for name, loss in decoder.loss(shared, [sample]).items():
        assert loss.item() == pytest.approx(decoder.loss(shared, [other])[name].item(), abs=1e-5)


def test_a_label_map_of_one_sample_leaves_the_others_alone():
    whole, partly = (with_masks(make_sample(ask("cat"), [[0, 0, 32, 64]], [0])) for _ in range(2))
    partly.unlabelled = make_unlabelled(slice(0, 64))
    loss = silent_decoder().loss(make_shared([0, 1], [0, 0], num_images=2), [whole, partly])["loss_mask"]
    assert loss.item() == pytest.approx(math.log(2), abs=1e-5)


def test_every_parameter_learns_also_without_objects():
    torch.manual_seed(0)
    decoder = SemanticSegmentationDecoder(32)
    losses = decoder.loss(random_shared(make_shared([0], [0])), [with_masks(make_sample(ask("cat")))])
    sum(losses.values()).backward()
    idle = [name for name, value in decoder.named_parameters() if value.numel() and not value.grad.abs().sum() > 0]
    assert idle == []


def test_rivals_are_lowered_by_what_the_best_one_has_above_half():
    masks = torch.tensor([0.9, 0.7, 0.2])[:, None, None]
    assert make_disjoint(masks).flatten().tolist() == pytest.approx([0.7, 0.3, 0.0])
    alone = torch.tensor([0.9, 0.4, 0.2])[:, None, None]
    assert make_disjoint(alone).flatten().tolist() == pytest.approx([0.9, 0.0, 0.0])


@given(st.integers(0, 10_000), st.integers(2, 5))
def test_masks_stay_disjoint_between_cells(seed, num_masks):
    masks = torch.rand(num_masks, 4, 6, generator=torch.Generator().manual_seed(seed))
    frame = make_sample().frame
    above = maps_to_original(make_disjoint(masks), frame) > 0.5 + 1e-6
    assert int(above.sum(0).max()) <= 1
    best = masks.argmax(0)
    kept = make_disjoint(masks).argmax(0)
    assert torch.equal(best[masks.amax(0) > 0.5], kept[masks.amax(0) > 0.5])


def test_one_row_per_prompt_with_presence_as_score():
    shared = random_shared(make_shared([0, 1, 1], [0, 0, 1], num_images=3))
    samples = [make_sample(ask("cat")), make_sample(ask("cat", "dog")), make_sample()]
    answers = SemanticSegmentationDecoder(32).eval().predict(shared, samples)
    assert [answer.prompt_index.tolist() for answer in answers] == [[0], [0, 1], []]
    assert answers[1].labels.tolist() == [0, 1]
    assert answers[1].masks.shape == (2, 16, 24)
    torch.testing.assert_close(answers[1].scores, shared.presence_logits[1:].sigmoid())


def test_a_batch_equals_single_images():
    torch.manual_seed(0)
    decoder = SemanticSegmentationDecoder(32).eval()
    shared = random_shared(make_shared([0, 1, 1], [0, 0, 1], num_images=2))
    samples = [make_sample(ask("cat")), make_sample(ask("cat", "dog"))]
    together = decoder.predict(shared, samples)
    fields = ("heat_logits", "presence_logits", "query", "prompt_index", "maps")
    own = {name: getattr(shared, name)[1:] for name in fields}
    alone = dataclasses.replace(shared, dense=shared.dense[1:], image_index=shared.image_index[1:] - 1, **own)
    (answer,) = decoder.predict(alone, samples[1:])
    for name, value in answer.items():
        torch.testing.assert_close(together[1][name], value)


def test_two_squares_of_two_phrases_are_learned():
    torch.manual_seed(0)
    decoder = SemanticSegmentationDecoder(32)
    shared = random_shared(make_shared([0, 0], [0, 1], size_hw=(8, 12), stride=8))
    sample = with_masks(make_sample(ask("cat", "dog"), [[8, 8, 40, 36], [50, 30, 90, 62]], [0, 1]))
    optimizer = torch.optim.AdamW(decoder.parameters(), lr=1e-2)
    for _ in range(80):
        optimizer.zero_grad()
        sum(decoder.loss(shared, [sample]).values()).backward()
        optimizer.step()
    with torch.no_grad():
        (answer,) = decoder.eval().predict(shared, [sample])
    for mask, target in zip(answer.masks, sample.gt_instances.masks[:, ::2, ::2], strict=True):
        assert iou(mask > 0.5, target) > 0.8

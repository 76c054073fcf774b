import dataclasses

import pytest
import torch
from decoder_cases import fixed_distances, heat, iou, random_shared, with_masks
from helpers import make_sample, make_shared

from lumen.decoders.peaks import BoxLimits
from lumen.decoders.segmentation import SegmentationDecoder
from lumen.structures import Prompt


def ask(*texts):
    return [Prompt(text, task="segmentation", label=at) for at, text in enumerate(texts)]


@pytest.fixture
def decoder():
    torch.manual_seed(0)
    return fixed_distances(SegmentationDecoder(32), 0.5, 0.25, 1.0, 2.0)


def test_a_peak_makes_a_box_and_a_mask_near_it(decoder):
    noise = random_shared(make_shared([0], [0]))
    cold = dataclasses.replace(make_shared([0], [0]), query=noise.query, dense=noise.dense)
    shared = heat(cold, [(0, 1, 2, 0.8)])
    (answer,) = decoder.predict(shared, [make_sample(ask("cat"))])
    torch.testing.assert_close(answer.bboxes, torch.tensor([[32.0, 20.0, 56.0, 56.0]]))
    # fine cells of 4 pixels; the box with its margin spans x from 24.4 to 63.6 and y from 10.6 to 65.4
    assert answer.masks.shape == (1, 16, 24)
    assert answer.masks[0].any(0).nonzero()[:, 0].tolist() == list(range(6, 16))
    assert answer.masks[0].any(1).nonzero()[:, 0].tolist() == list(range(3, 16))
    assert bool(((answer.masks >= 0) & (answer.masks <= 1)).all())


def test_only_the_best_of_an_image_get_masks(decoder):
    decoder.limits = BoxLimits(max_per_image=3)
    peaks = [(pair, 0, col, 0.1 + 0.1 * pair + 0.01 * col) for pair in range(3) for col in (0, 2, 4)]
    shared = heat(make_shared([0, 0, 0], [0, 1, 2]), peaks)
    (answer,) = decoder.predict(shared, [make_sample(ask("cat", "dog", "cow"))])
    assert answer.labels.tolist() == [2, 2, 2]
    assert answer.masks.shape == (3, 16, 24)


def test_a_batch_equals_single_images(decoder):
    shared = random_shared(make_shared([0, 1, 1], [0, 0, 1], num_images=2))
    samples = [make_sample(ask("cat")), make_sample(ask("cat", "dog"))]
    together = decoder.predict(shared, samples)
    for image, pairs in enumerate([slice(0, 1), slice(1, 3)]):
        fields = ("heat_logits", "presence_logits", "query", "prompt_index", "maps")
        own = {name: getattr(shared, name)[pairs] for name in fields}
        alone = dataclasses.replace(
            shared, dense=shared.dense[image : image + 1], image_index=shared.image_index[pairs] - image, **own
        )
        (answer,) = decoder.predict(alone, [samples[image]])
        for name, value in answer.items():
            torch.testing.assert_close(together[image][name], value)


def test_every_parameter_learns_from_an_object():
    torch.manual_seed(0)
    decoder = SegmentationDecoder(32)
    sample = with_masks(make_sample(ask("cat"), [[8, 8, 60, 50]], [0]))
    sum(decoder.loss(random_shared(make_shared([0], [0])), [sample]).values()).backward()
    idle = [name for name, value in decoder.named_parameters() if value.numel() and not value.grad.abs().sum() > 0]
    assert idle == []


def test_a_square_and_a_triangle_are_learned():
    torch.manual_seed(0)
    decoder = SegmentationDecoder(32)
    shared = random_shared(make_shared([0, 0], [0, 1], size_hw=(8, 12), stride=8))
    sample = with_masks(make_sample(ask("cat", "dog"), [[9, 8, 40, 37], [50, 30, 90, 62]], [0, 1]))
    rows, cols = torch.arange(64)[:, None], torch.arange(96)
    sample.gt_instances.masks[1] &= (cols - 50) * 32 < (rows - 30) * 40  # below the diagonal of its box
    optimizer = torch.optim.AdamW(decoder.parameters(), lr=5e-3)
    for _ in range(60):
        optimizer.zero_grad()
        sum(decoder.loss(shared, [sample]).values()).backward()
        optimizer.step()
    sure = dataclasses.replace(make_shared([0, 0], [0, 1], size_hw=(8, 12)), query=shared.query, dense=shared.dense)
    sure = heat(dataclasses.replace(sure, stride=8), [(0, 2, 3, 0.9), (1, 5, 8, 0.8)])
    with torch.no_grad():
        (answer,) = decoder.eval().predict(sure, [sample])
    assert answer.prompt_index.tolist() == [0, 1]
    for mask, target in zip(answer.masks, sample.gt_instances.masks[:, ::2, ::2], strict=True):
        assert iou(mask > 0.5, target) > 0.8

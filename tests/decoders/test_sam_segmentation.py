import dataclasses
import math

import pytest
import torch
from helpers import make_images, make_sample, make_shared
from torch import nn

from lumen.aligners.dense import DenseAligner
from lumen.decoders.detection import DetectionDecoder
from lumen.decoders.sam_segmentation import SamReferringDecoder, SamSegmentationDecoder
from lumen.errors import ConfigError
from lumen.inference.predictor import LumenPredictor
from lumen.lmm.adapter import HFAdapter
from lumen.model import Lumen
from lumen.structures import FeatureWidths, Prompt


class BoxFiller(nn.Module):
    """Stands for SamMasks: a mask is its box, on a grid of a quarter of the input."""

    def __init__(self):
        super().__init__()
        self.calls = []

    def forward(self, images, image_index, points, boxes):
        self.calls.append((images, image_index, points, boxes))
        rows, cols = images.shape[-2] // 4, images.shape[-1] // 4
        y, x = torch.meshgrid(torch.arange(rows) * 4 + 2, torch.arange(cols) * 4 + 2, indexing="ij")
        edges = boxes[:, :, None, None]
        inside = (x > edges[:, 0]) & (x < edges[:, 2]) & (y > edges[:, 1]) & (y < edges[:, 3])
        return inside.float()


def fixed(decoder, *distances):
    """Make the head say the same four distances in every cell, in units of the stride."""
    with torch.no_grad():
        decoder.head.layers[-1].weight.zero_()
        decoder.head.layers[-1].bias.copy_(torch.tensor(distances).log())
    return decoder.eval()


def heat(shared, peaks):
    logits = shared.heat_logits.detach().clone()
    for pair, row, col, probability in peaks:
        logits[pair, 0, row, col] = math.log(probability / (1 - probability))
    return dataclasses.replace(shared, heat_logits=logits, extras={"images": make_images(shared.dense.shape[0])})


def prompts(task, *texts):
    return [Prompt(text, task=task, label=at) for at, text in enumerate(texts)]


def test_a_mask_is_asked_by_the_peak_and_its_box():
    decoder = fixed(SamSegmentationDecoder(32, sam=BoxFiller()), 0.5, 0.25, 1.0, 2.0)
    shared = heat(make_shared([1], [0], num_images=2), [(0, 1, 2, 0.8)])
    empty, answer = decoder.predict(shared, [make_sample(), make_sample(prompts("segmentation", "cat"))])
    (images, image_index, points, boxes) = decoder.sam.calls[0]
    assert images is shared.extras["images"]
    assert image_index.tolist() == [1]
    # the cell's centre is (2.5, 1.5) * 16 = (40, 24)
    assert points.tolist() == [[40, 24]]
    torch.testing.assert_close(boxes, torch.tensor([[32.0, 20.0, 56.0, 56.0]]))
    assert len(empty) == 0 and empty.masks.shape[0] == 0
    assert answer.masks.shape == (1, 16, 24)
    assert int(answer.masks.sum()) == (56 - 32) * (56 - 20) // 16
    assert set(answer.keys()) == decoder.spec.predictions


def test_only_the_best_of_an_image_get_masks():
    decoder = fixed(SamSegmentationDecoder(32, sam=BoxFiller(), limits={"max_per_image": 2}), 0.4, 0.4, 0.4, 0.4)
    shared = heat(make_shared([0, 0], [0, 1]), [(0, 0, 0, 0.7), (0, 3, 5, 0.9), (1, 0, 3, 0.8), (1, 3, 0, 0.6)])
    (answer,) = decoder.predict(shared, [make_sample(prompts("segmentation", "cat", "dog"))])
    assert answer.scores.tolist() == pytest.approx([0.9, 0.8], abs=1e-4)
    assert len(decoder.sam.calls) == 1
    assert len(decoder.sam.calls[0][3]) == 2, "suppression comes before masks"


def test_each_sentence_gets_one_mask_at_its_highest_peak():
    decoder = fixed(SamReferringDecoder(32, sam=BoxFiller()), 0.4, 0.4, 0.4, 0.4)
    shared = heat(make_shared([0, 0], [0, 1]), [(0, 0, 0, 0.7), (0, 3, 5, 0.9), (1, 3, 5, 0.0001), (1, 0, 0, 0.00005)])
    (answer,) = decoder.predict(shared, [make_sample(prompts("referring_segmentation", "left one", "right one"))])
    assert answer.prompt_index.tolist() == [0, 1]
    assert decoder.sam.calls[0][2].tolist() == [[88, 56], [88, 56]], "sentences do not suppress each other"
    assert set(answer.keys()) == decoder.spec.predictions


def make_model(tiny_nano, decoders):
    torch.manual_seed(0)
    return Lumen(
        HFAdapter(str(tiny_nano), base={"attention": "eager"}),
        DenseAligner(widths=FeatureWidths(32, 32), channels=32, num_heads=4, mlp_channels=64),
        decoders,
    ).eval()


def test_images_are_given_to_the_decoders_that_name_them_only(tiny_nano):
    sam = BoxFiller()
    model = make_model(tiny_nano, [DetectionDecoder(32), SamSegmentationDecoder(32, sam=sam)])
    images = make_images(2)
    detect, segment = make_sample(["cat"]), make_sample(prompts("segmentation", "cat"))
    with torch.no_grad():
        assert model(images, [detect, detect]).extras == {}
        assert torch.equal(model(images, [detect, segment]).extras["images"], images)
        answer = model(images, [detect, segment], mode="predict")[1].pred_instances
    assert len(answer) > 0
    assert set(sam.calls[0][1].tolist()) == {1}
    assert answer.masks[0]["size"] == [64, 96]


def test_images_that_are_lacking_are_asked_for(tiny_nano):
    model = make_model(tiny_nano, [SamSegmentationDecoder(32, sam=BoxFiller())])
    samples = [make_sample(prompts("segmentation", "cat"))]
    features = model.lmm(make_images(1), [samples[0].prompts])
    with pytest.raises(ConfigError, match=r"decoders of \['segmentation'\] need images: write the cache with"):
        model.add_images(features, [], samples)
    given = dataclasses.replace(features, extras={"images": make_images(1), "texts": ["a"]})
    assert model.add_images(given, [], samples) is given
    assert set(model.add_images(features, make_images(1), samples).extras) == {"images"}


def test_the_predictor_keeps_the_image_for_its_masks(tiny_nano):
    sam = BoxFiller()
    predictor = LumenPredictor(make_model(tiny_nano, [SamSegmentationDecoder(32, sam=sam)]), input_hw=(64, 64))
    image = make_images(1, (80, 100))[0].permute(1, 2, 0).contiguous().numpy()
    predictor.set_image(image)
    answers = [predictor.predict(["star"], task="segmentation", score_threshold=0.0) for _ in range(2)]
    assert sam.calls[0][0] is sam.calls[1][0], "one image tensor, so that SAM knows that it has seen it"
    assert len(answers[0].masks) == len(answers[0]) > 0
    assert answers[0].masks[0]["size"] == [80, 100]

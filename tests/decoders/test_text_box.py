import dataclasses

import pytest
import torch
from helpers import make_sample, make_shared
from mmengine.structures import InstanceData

from lumen.aligners.none import NoAligner
from lumen.decoders.checks import check_heat
from lumen.decoders.detection import DetectionDecoder
from lumen.decoders.text_box import TextBoxDecoder
from lumen.errors import ConfigError
from lumen.structures import FeatureWidths, LocFeatures, Prompt

TASK = "written_boxes"
PLACES = InstanceData(
    bboxes=torch.tensor([[0.0, 0, 8, 8], [1, 1, 9, 9], [2, 2, 7, 7]]),
    scores=torch.tensor([0.2, 0.9, 0.5]),
    prompt_index=torch.tensor([0, 1, 1]),
)


def test_written_boxes_come_best_first_with_the_labels_of_their_prompts():
    samples = [make_sample([Prompt("cat", TASK, label=5), Prompt("dog", TASK, label=3)]), make_sample()]
    shared = dataclasses.replace(make_shared(num_images=2), extras={"places": [PLACES, PLACES[:0]]})
    first, second = TextBoxDecoder(channels=32, max_per_image=2).predict(shared, samples)
    assert first.scores.tolist() == pytest.approx([0.9, 0.5])
    assert first.labels.tolist() == [3, 3]
    assert first.bboxes.tolist() == [[1, 1, 9, 9], [2, 2, 7, 7]]
    assert len(second) == 0
    assert set(second.keys()) == set(first.keys()) == TextBoxDecoder.spec.predictions


def test_prompts_that_were_not_answered_are_an_error_and_no_prompts_are_none():
    with pytest.raises(ConfigError, match="'written_boxes' needs written places"):
        TextBoxDecoder(channels=32).predict(make_shared(), [make_sample([Prompt("cat", TASK)])])
    (answer,) = TextBoxDecoder(channels=32).predict(make_shared((0,), (0,)), [make_sample(["cat"])])
    assert len(answer) == 0
    with pytest.raises(ConfigError, match="max_per_image must be at least 1"):
        TextBoxDecoder(channels=32, max_per_image=0)


def test_a_decoder_that_reads_heatmaps_needs_an_aligner():
    with pytest.raises(ConfigError, match="read a heatmap, NoAligner has none"):
        check_heat(NoAligner(widths=FeatureWidths(32, 16)), [TextBoxDecoder(32), DetectionDecoder(32)])


def test_without_an_aligner_nothing_is_located():
    aligner = NoAligner(widths=FeatureWidths(32, 16))
    none = torch.zeros(0, dtype=torch.long)
    features = LocFeatures(torch.zeros(0, 32), torch.zeros(2, 16, 4, 6), (), 16, none, none, extras={"texts": []})
    shared = aligner(features, torch.zeros(0, 1))
    assert shared.num_pairs == 0
    assert shared.dense.shape == (2, 1, 4, 6)
    assert shared.extras == {"texts": []}
    one = torch.zeros(1, dtype=torch.long)
    with pytest.raises(ConfigError, match="was asked to locate"):
        aligner(
            dataclasses.replace(features, query=torch.zeros(1, 32), image_index=one, prompt_index=one),
            torch.zeros(0, 1),
        )

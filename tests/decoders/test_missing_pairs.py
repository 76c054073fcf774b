"""A prompt whose pair is missing, as after a written answer without ``[LOC]``, has a defined answer: nothing found."""

import pytest
import torch
from decoder_cases import heat, random_shared
from helpers import make_sample, make_shared

from lumen.decoders.counting import CountingDecoder
from lumen.decoders.grounding import GroundingDecoder
from lumen.decoders.pose import PoseDecoder
from lumen.decoders.referring_segmentation import ReferringSegmentationDecoder
from lumen.decoders.semantic_segmentation import SemanticSegmentationDecoder
from lumen.structures import Prompt


def asked(task, num_prompts=3):
    return make_sample([Prompt(f"phrase {at}", task=task, label=at + 5) for at in range(num_prompts)])


def without(places, num_prompts=3):
    """Return pairs of all prompts but some, with a peak each."""
    kept = [at for at in range(num_prompts) if at not in places]
    shared = make_shared([0] * len(kept), kept)
    return heat(shared, [(row, 1, 2, 0.9) for row in range(len(kept))])


@pytest.mark.parametrize("mode", ["peaks", "density"])
def test_a_missing_prompt_counts_zero(mode):
    decoder = CountingDecoder(32, mode=mode).eval()
    with torch.no_grad():
        (answer,) = decoder.predict(without([1]), [asked("counting")])
    assert answer.prompt_index.tolist() == [0, 1, 2] and answer.labels.tolist() == [5, 6, 7]
    assert answer.counts[1] == answer.scores[1] == 0
    assert (answer.counts[[0, 2]] > 0).all()


@pytest.mark.parametrize("kind", [GroundingDecoder, ReferringSegmentationDecoder])
def test_a_missing_sentence_has_no_row(kind):
    with torch.no_grad():
        (answer,) = kind(32).eval().predict(without([0]), [asked(kind.spec.name)])
    assert answer.prompt_index.tolist() == [1, 2]


def test_a_missing_region_is_empty_and_leaves_the_others_as_they_are():
    decoder = SemanticSegmentationDecoder(32).eval()
    with torch.no_grad():
        (answer,) = decoder.predict(random_shared(without([1])), [asked("semantic_segmentation")])
        (pair,) = decoder.predict(random_shared(make_shared([0, 0], [0, 1])), [asked("semantic_segmentation", 2)])
    assert answer.prompt_index.tolist() == [0, 1, 2] and answer.labels.tolist() == [5, 6, 7]
    assert answer.scores[1] == 0 and not answer.masks[1].any()
    assert torch.equal(answer.masks[[0, 2]], pair.masks)


def test_a_missing_keypoint_keeps_its_column_with_score_zero():
    with torch.no_grad():
        (answer,) = PoseDecoder(32).eval().predict(without([1]), [asked("pose")])
    assert answer.keypoint_scores[0].tolist() == pytest.approx([0.9, 0.0, 0.9], abs=1e-5)
    # cells of 16 pixels: column 2, row 1; the missing one lies in the middle of 96 x 64
    assert answer.keypoints[0].tolist() == [[40, 24], [48, 32], [40, 24]]
    assert answer.scores.tolist() == pytest.approx([0.9], abs=1e-5)


@pytest.mark.parametrize("kind", [CountingDecoder, SemanticSegmentationDecoder, PoseDecoder])
def test_a_sample_without_any_pair_is_answered_too(kind):
    first, second = make_shared([0], [0], num_images=2), [asked(kind.spec.name, 1), asked(kind.spec.name, 2)]
    with torch.no_grad():
        _, answer = kind(32).eval().predict(first, second)
    assert set(answer.keys()) == kind.spec.predictions
    if kind is PoseDecoder:
        assert answer.keypoint_scores.tolist() == [[0, 0]] and answer.scores.tolist() == [0]
    else:
        assert answer.prompt_index.tolist() == [0, 1] and answer.scores.tolist() == [0, 0]

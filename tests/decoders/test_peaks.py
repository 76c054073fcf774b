import dataclasses

import pytest
import torch
from helpers import make_shared

from lumen.decoders import peaks
from lumen.errors import ConfigError
from lumen.routing import select_pairs


def _noisy(num_pairs):
    shared = make_shared([0] * num_pairs, range(num_pairs), size_hw=(5, 6))
    heat = torch.randn(num_pairs, 1, 5, 6, generator=torch.Generator().manual_seed(0))
    return dataclasses.replace(shared, heat_logits=heat)


def test_peaks_in_small_pieces_are_those_of_all_maps_at_once(monkeypatch):
    whole = peaks.pick_peaks(_noisy(7), num_peaks=4, min_score=0.01)
    assert len(whole[0]) > 7
    for size in (1, 2 * 30 * 4 * 10):
        monkeypatch.setattr(peaks, "MAX_CHUNK_BYTES", size)
        pieces = peaks.pick_peaks(_noisy(7), num_peaks=4, min_score=0.01)
        assert torch.equal(pieces[0], whole[0]) and torch.equal(pieces[1], whole[1])
        assert torch.allclose(pieces[2], whole[2]) and torch.allclose(pieces[3], whole[3])


def test_no_pairs_have_no_peaks():
    assert [len(one) for one in peaks.pick_peaks(_noisy(0), num_peaks=4, min_score=0.01)] == [0, 0, 0, 0]


def test_choosing_all_pairs_in_order_copies_nothing():
    shared = _noisy(3)
    assert select_pairs(shared, torch.arange(3), slice(0, 0)).heat_logits is shared.heat_logits
    turned = select_pairs(shared, torch.tensor([2, 1, 0]), slice(0, 0))
    assert torch.equal(turned.heat_logits, shared.heat_logits.flip(0))


def test_limits_of_a_config_are_checked():
    assert peaks.read_limits(peaks.BoxLimits, {"max_per_image": 3}) == peaks.BoxLimits(max_per_image=3)
    assert peaks.read_limits(peaks.BoxLimits, None) == peaks.BoxLimits()
    with pytest.raises(ConfigError, match=r"limits takes no \['num_boxes'\]; known are \['num_peaks'"):
        peaks.read_limits(peaks.BoxLimits, {"num_boxes": 3})


@pytest.mark.parametrize(
    "limits",
    [{"num_peaks": 0}, {"max_per_image": -1}, {"min_score": float("nan")}, {"iou_threshold": -0.5}, {"best": 1}],
)
def test_limits_that_would_find_nothing_are_refused(limits):
    with pytest.raises(ConfigError, match=r"must be a|limits takes no"):
        peaks.read_limits(peaks.BoxLimits, limits)
    assert peaks.read_limits(peaks.BoxLimits, {"min_score": 0.0, "num_peaks": 1}).num_peaks == 1

import pytest
import torch

from lumen.lmm.check_packing import TOLERANCE, check_packing
from lumen.lmm.packing import passes
from lumen.lmm.packing.rows import block_mask
from lumen.structures import Prompt

PROMPTS = [[Prompt("star"), Prompt("red ring"), Prompt("the cross")], [Prompt("heart")]]


def random_images():
    return torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def test_a_model_that_packs_is_within_the_tolerance(make_adapter):
    adapter = make_adapter().eval()
    assert check_packing(adapter, random_images(), PROMPTS) <= TOLERANCE
    assert adapter.packing.mode == "packed"


def test_a_leaking_mask_is_seen(make_adapter, monkeypatch):
    adapter = make_adapter().eval()
    monkeypatch.setattr(passes, "block_mask", lambda segments: block_mask(segments.clamp(max=0)))
    assert check_packing(adapter, random_images(), PROMPTS) > 1e-3


def test_without_prompts_there_is_nothing_to_compare(make_adapter):
    with pytest.raises(ValueError, match="none"):
        check_packing(make_adapter(), random_images(), [[], []])

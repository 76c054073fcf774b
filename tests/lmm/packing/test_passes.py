import pytest
import torch
from helpers import make_images, relative_difference
from pretend_gpu import DEVICE, PretendGPU

from lumen.structures import Prompt

OPTIONS = {"attention": "sdpa", "template": "paper", "add_phrase_state": True}


def prompts_of(*counts):
    return [[Prompt("a red star" + " and a cat" * (number % 3)) for number in range(count)] for count in counts]


def queries_and_losses(adapter, images, prompts, learning):
    with torch.set_grad_enabled(learning):
        features = adapter.ask(adapter.encode_images(images), prompts, predicting=not learning)
    return [features.query, *features.text_losses.values()]


@pytest.mark.parametrize("learning", [False, True])
@pytest.mark.parametrize("options", [{}, {"max_suffix_tokens": 20}, {"mode": "expanded"}, {"features": "both"}])
def test_a_pass_never_waits_for_the_gpu(make_adapter, options, learning):
    options = {**OPTIONS, "phrase_reconstruction": True, **options}
    images, prompts = make_images(3), prompts_of(5, 1, 2)
    prompts[1].append(Prompt("is it a cat?", "vqa", answer="yes"))
    wanted = queries_and_losses(make_adapter(**options), images, prompts, learning)
    adapter = make_adapter(**options)
    with PretendGPU() as gpu:
        gpu.take(adapter)
        found = queries_and_losses(adapter, images.to(DEVICE, non_blocking=True), prompts, learning)
    assert len(found) == len(wanted) == (4 if learning else 1)
    assert max(relative_difference(each.held, other) for each, other in zip(found, wanted, strict=True)) <= 1e-5
    # transformers itself waits: whether as many image tokens as features came, and whether a mask masks anything
    known = {"transformers/utils/import_utils.py", *["transformers/masking_utils.py"] * ("mode" in options)}
    assert {wait.partition(":")[0] for wait in gpu.waits} <= known


@pytest.mark.parametrize(
    "wait",
    [
        lambda states: states.sum().item(),
        lambda states: states[states > 0],
        lambda states: states[torch.tensor([0])],
        lambda states: torch.tensor([1.0], device=DEVICE),
        lambda states: states.to("cpu", non_blocking=True),
        lambda states: (states > 0).nonzero(),
        lambda states: torch.ones(1).to(DEVICE),
    ],
)
def test_a_wait_is_noted(wait):
    with PretendGPU() as gpu:
        states = torch.ones(2, 3).to(DEVICE, non_blocking=True)
        assert gpu.waits == []
        wait(states)
    assert len(gpu.waits) == 1
    assert gpu.waits[0].startswith("tests/lmm/packing/test_passes.py")


@torch.no_grad()
def test_several_images_with_several_rows_each_take_two_calls(make_adapter):
    adapter, images, prompts = make_adapter(attention="sdpa", max_suffix_tokens=20), make_images(3), prompts_of(9, 1, 7)
    wanted = make_adapter()(images, prompts).query
    calls = []
    adapter.base_model.get_decoder().register_forward_hook(lambda *_: calls.append(1))
    assert relative_difference(adapter(images, prompts).query, wanted) <= 1e-5
    assert len(calls) == 2  # all prefixes, and all suffixes

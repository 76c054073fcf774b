import pytest
import torch
from torch import nn

from lumen.engine.optim import LumenOptimWrapper
from lumen.errors import ConfigError, LumenError


@pytest.fixture
def model():
    model = nn.Linear(1, 1, bias=False)
    nn.init.constant_(model.weight, 2.0)
    return model


def _wrapper(model, **settings):
    return LumenOptimWrapper(torch.optim.SGD(model.parameters(), lr=1.0), **settings)


def test_a_step_moves_the_weight_by_the_gradient(model):
    _wrapper(model).update_params(model(torch.tensor([[3.0]])).sum())
    assert model.weight.item() == -1.0  # 2 - 1.0 * 3


def test_clipping_bounds_the_step(model):
    _wrapper(model, clip_grad={"max_norm": 0.5}).update_params(model(torch.tensor([[3.0]])).sum())
    assert model.weight.item() == pytest.approx(1.5, abs=1e-5)


@pytest.mark.parametrize("factor", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_leaves_the_weights_untouched(model, factor):
    wrapper = _wrapper(model)
    wrapper.update_params(model(torch.tensor([[3.0]])).sum() * factor)
    assert model.weight.item() == 2.0
    assert model.weight.grad is None
    wrapper.update_params(model(torch.tensor([[3.0]])).sum())
    assert model.weight.item() == -1.0


def test_a_finite_gradient_under_an_infinite_loss_is_skipped_too(model):
    _wrapper(model).update_params(model(torch.tensor([[3.0]])).sum() + float("inf"))
    assert model.weight.item() == 2.0


def test_one_bad_loss_spoils_its_own_step_only(model):
    wrapper = _wrapper(model)
    for factor in (float("inf"), 1.0):
        wrapper.update_params(model(torch.tensor([[3.0]])).sum() * factor)
    assert model.weight.item() == -1.0


def test_a_model_that_steps_by_itself_is_checked_too(model):
    wrapper = _wrapper(model)
    for factor in (1.0, float("nan")):
        wrapper.backward(model(torch.tensor([[3.0]])).sum() * factor)
    wrapper.step()
    assert model.weight.item() == 2.0


def test_too_many_skips_stop_the_run(model):
    wrapper = _wrapper(model, max_skips=1)
    wrapper.update_params(model(torch.tensor([[float("nan")]])).sum())
    with pytest.raises(LumenError, match="so were 2 of the last 2 steps"):
        wrapper.update_params(model(torch.tensor([[float("nan")]])).sum())


def test_bfloat16_opens_on_the_cpu_and_keeps_float32_weights(model):
    wrapper = _wrapper(model, dtype="bfloat16")
    with wrapper.optim_context(model):
        output = model(torch.ones(1, 1))
    assert output.dtype == torch.bfloat16
    assert model.weight.dtype == torch.float32


def test_a_wrong_setting_is_told(model):
    with pytest.raises(ConfigError, match="dtype must be one of"):
        _wrapper(model, dtype="float16")
    with pytest.raises(ConfigError, match="clip_grad takes max_norm"):
        _wrapper(model, clip_grad={"max_nrom": 1.0})

import pytest
import torch
from torch import nn

from lumen.engine.finite import is_finite
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


def test_a_skipped_step_leaves_statistics_as_they_were():
    model = nn.Sequential(nn.BatchNorm1d(1), nn.Linear(1, 1))
    model.register_buffer("mask", torch.tensor([0.0, -float("inf")]))  # not finite on purpose
    wrapper = _wrapper(model)

    def step(*points):
        with wrapper.optim_context(model):
            loss = model[1](model[0](torch.tensor(points)[:, None])).sum()
        wrapper.update_params(loss)
        return {name: value.clone() for name, value in model.state_dict().items()}

    first = step(1.0, 3.0)
    assert first["0.running_mean"].item() == pytest.approx(0.2)  # 0.9 * 0 + 0.1 * 2
    second = step(1.0, float("nan"))
    assert all(torch.equal(first[name], second[name]) for name in first)
    # The variance overflows while the output, normalised by it, stays finite.
    third = step(-3e19, 3e19)
    assert all(torch.equal(first[name], third[name]) for name in first)
    assert step(1.0, 3.0)["0.num_batches_tracked"] == 2
    wrapper.require_finite()


def test_weights_and_optimizer_state_that_are_not_finite_stop_the_run(model):
    wrapper = LumenOptimWrapper(torch.optim.SGD(model.parameters(), lr=1e38))
    wrapper.update_params(model(torch.tensor([[30.0]])).sum())
    with pytest.raises(LumenError, match="nothing is saved"):
        wrapper.require_finite()
    with pytest.raises(LumenError, match="nothing is saved"):
        wrapper.update_params(model(torch.tensor([[0.0]])).sum())

    wrapper = LumenOptimWrapper(torch.optim.Adam([weight := nn.Parameter(torch.ones(1))]))
    wrapper.update_params((weight * 1e25).sum())  # its square overflows; the step is 0
    assert bool(weight.isfinite())
    with pytest.raises(LumenError, match="optimizer's state"):
        wrapper.update_params(weight.sum())


def test_large_finite_numbers_are_finite():
    assert is_finite([torch.full((4,), 3e38), torch.tensor([1], dtype=torch.int64), torch.zeros(0)])
    assert not is_finite([torch.ones(2), torch.tensor([1.0, float("inf")])])


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

"""Muon for matrices, AdamW for the rest, and the groups they get."""

import pytest
import torch
from torch import nn
from torch.optim import AdamW

from lumen.engine.muon import MuonAdamW, orthogonalise
from lumen.engine.optim import GroupedConstructor, LumenOptimWrapper
from lumen.errors import ConfigError
from lumen.lmm.untrained import note_untrained


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(5, 4)
        self.conv = nn.Conv2d(3, 8, 3)
        self.norm = nn.BatchNorm2d(8)
        self.none = nn.Parameter(torch.zeros(0, 4))


def build(model, optimizer, **settings):
    cfg = {"type": LumenOptimWrapper, "optimizer": optimizer}
    return GroupedConstructor(cfg, settings or None)(model)


def names_of(model, params):
    return {name for name, value in model.named_parameters() if any(value is param for param in params)}


@pytest.mark.parametrize("shape", [(2, 8, 20), (1, 20, 8), (3, 6, 6)])
def test_orthogonalised_matrices_have_singular_values_near_one(shape):
    torch.manual_seed(0)
    values = torch.linalg.svdvals(orthogonalise(torch.randn(shape)).float())
    assert values.min() > 0.4 and values.max() < 1.4


def test_matrices_and_kernels_go_to_muon_and_vectors_are_not_decayed():
    model = Net()
    wrapper = build(model, {"type": MuonAdamW, "lr": 1e-3, "muon_lr": 0.1}, muon=True, adamw=["embed*"])
    groups = {
        (g["muon"], g["weight_decay"], g["lr"]): names_of(model, g["params"]) for g in wrapper.optimizer.param_groups
    }
    assert groups == {
        (False, 0.05, 1e-3): {"embed.weight", "none"},
        (True, 0.01, 0.1): {"conv.weight"},
        (False, 0.0, 1e-3): {"conv.bias", "norm.weight", "norm.bias"},
    }


def test_a_factor_on_the_learning_rate_holds_for_muon_too():
    model = Net()
    cfg = {"type": MuonAdamW, "lr": 1e-3, "muon_lr": 0.1}
    wrapper = build(model, cfg, muon=True, lr_mult={"conv*": 0.5})
    rates = {name: g["lr"] for g in wrapper.optimizer.param_groups for name in names_of(model, g["params"])}
    assert rates["conv.weight"] == pytest.approx(0.05)
    assert rates["conv.bias"] == pytest.approx(5e-4)
    assert rates["norm.weight"] == pytest.approx(1e-3)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"lr_mult": {"nothing*": 1.0}}, r"paramwise_cfg\.lr_mult: \['nothing\*'\] match no parameter"),
        ({"norm_decay": 0}, "takes lr_mult"),
    ],
)
def test_patterns_that_match_nothing_and_unknown_settings_are_errors(settings, message):
    with pytest.raises(ConfigError, match=message):
        build(Net(), {"type": AdamW, "lr": 1e-3}, **settings)


def test_vectors_step_as_adamw_does():
    torch.manual_seed(0)
    ours, theirs = nn.Parameter(torch.randn(7)), None
    theirs = nn.Parameter(ours.detach().clone())
    settings = {"lr": 1e-2, "betas": (0.9, 0.98), "weight_decay": 0.1}
    optimizers = [MuonAdamW([{"params": [ours]}], **settings), AdamW([theirs], **settings)]
    for _ in range(3):
        gradient = torch.randn(7)
        for param, optimizer in zip((ours, theirs), optimizers, strict=True):
            param.grad = gradient.clone()
            optimizer.step()
    torch.testing.assert_close(ours, theirs)


def test_a_muon_step_has_the_size_of_its_learning_rate_whatever_the_gradient():
    for scale in (1e-3, 1e3):
        torch.manual_seed(0)
        kernel = nn.Parameter(torch.zeros(8, 4, 3, 3))
        kernel.grad = torch.randn_like(kernel) * scale
        MuonAdamW([{"params": [kernel], "muon": True}], muon_lr=0.1).step()
        assert 0.05 < torch.linalg.svdvals(kernel.detach().flatten(1)).mean() < 0.12


def test_a_restored_optimizer_goes_on_bit_for_bit():
    def run(num_steps, params, optimizer):
        for number in range(num_steps[0], num_steps[1]):
            generator = torch.Generator().manual_seed(number)
            for param in params:
                param.grad = torch.randn(param.shape, generator=generator)
            optimizer.step()

    def make():
        torch.manual_seed(0)
        params = [nn.Parameter(torch.randn(6, 4)), nn.Parameter(torch.randn(6))]
        groups = [{"params": params[:1], "muon": True}, {"params": params[1:], "weight_decay": 0.0}]
        return params, MuonAdamW(groups)

    whole, optimizer = make()
    run((0, 4), whole, optimizer)
    first, optimizer = make()
    run((0, 2), first, optimizer)
    second, restored = make()
    for old, new in zip(first, second, strict=True):
        new.data.copy_(old.data)
    restored.load_state_dict(optimizer.state_dict())
    run((2, 4), second, restored)
    assert all(torch.equal(a, b) for a, b in zip(whole, second, strict=True))


def test_patterns_of_frozen_parameters_are_no_mistake():
    model = Net()
    model.conv.requires_grad_(False)
    wrapper = build(model, {"type": AdamW, "lr": 1e-3}, lr_mult={"conv*": 0.5}, adamw=["conv*"])
    held = {name for group in wrapper.optimizer.param_groups for name in names_of(model, group["params"])}
    assert held and not any(name.startswith("conv") for name in held)


def test_a_pretrained_lmm_is_not_trained_by_muon_at_its_full_rate(tiny_lumen):
    cfg = {"type": MuonAdamW, "lr": 1e-3}
    build(tiny_lumen, cfg, muon=True)
    note_untrained(tiny_lumen.lmm.config, ["model.language_model", "model.multi_modal_projector"])
    with pytest.raises(ConfigError, match=r"pretrained LMM .* such as lmm\.base_model\.model\.vision_tower\."):
        build(tiny_lumen, cfg, muon=True)
    tower = "lmm.base_model.model.vision_tower.*"
    build(tiny_lumen, cfg, muon=True, lr_mult={tower: 0.01})
    build(tiny_lumen, cfg, muon=True, adamw=[tower])
    build(tiny_lumen, cfg)
    tiny_lumen.lmm.base_model.model.vision_tower.requires_grad_(False)
    build(tiny_lumen, cfg, muon=True)
    note_untrained(tiny_lumen.lmm.config, ())
    with pytest.raises(ConfigError, match="16 matrices"):
        build(tiny_lumen, cfg, muon=True)


def test_rates_are_checked_and_may_be_zero():
    build(Net(), {"type": MuonAdamW, "lr": 0.0}, muon=True)
    with pytest.raises(ConfigError, match=r"optimizer\.muon_lr must be a finite number"):
        build(Net(), {"type": MuonAdamW, "lr": 1e-3, "muon_lr": float("nan")}, muon=True)

import os
import subprocess
import sys
import time

import pytest
import torch
from torch import nn
from toy import make_runner

from lumen.engine.hooks import (
    CpuClockHook,
    EmaHook,
    FreezeHook,
    SafeCheckpointHook,
    eval_frozen_modules,
    freeze_parameters,
    parameter_table,
)
from lumen.engine.hooks.cpu_clock import process_tree_seconds
from lumen.engine.hooks.freeze import norms_with_fixed_statistics
from lumen.errors import ConfigError


@pytest.fixture
def model():
    return nn.ModuleDict(
        {"base": nn.Sequential(nn.Linear(2, 3), nn.Dropout(), nn.Linear(3, 1)), "head": nn.Linear(2, 1)}
    )


def _trained(model):
    return {name for name, parameter in model.named_parameters() if parameter.requires_grad}


def test_patterns_freeze_and_exceptions_stay(model):
    freeze_parameters(model, ["base.*"], trainable=["*.2.bias"])
    assert _trained(model) == {"base.2.bias", "head.weight", "head.bias"}


def test_a_pattern_without_a_match_is_told_with_the_parts_of_the_model(model):
    with pytest.raises(
        ConfigError, match=r"\['bsae\.\*'\] match no parameter of the model, whose parts are .*'head\.\*'\]"
    ):
        freeze_parameters(model, ["bsae.*"])
    assert len(_trained(model)) == 6


def test_frozen_modules_rest_with_their_dropout(model):
    freeze_parameters(model, ["base.*"])
    eval_frozen_modules(model.train())
    assert not model["base"][1].training
    assert model["head"].training
    freeze_parameters(model, ["*"])
    eval_frozen_modules(model.train())
    assert not model["head"].training


def test_a_dropout_beside_trained_modules_keeps_training(model):
    freeze_parameters(model, ["base.0.*"])
    eval_frozen_modules(model.train())
    assert not model["base"][0].training
    assert model["base"][1].training


def test_statistics_stay_while_weights_are_trained(tmp_path):
    hook = FreezeHook(freeze=["base.*"], statistics=["norm"])
    runner = make_runner(tmp_path, max_iters=2, custom_hooks=[hook])
    before = {name: value.clone() for name, value in runner.model.norm.state_dict().items()}
    runner.train()
    after = runner.model.norm.state_dict()
    assert {name for name in before if not torch.equal(before[name], after[name])} == {"weight", "bias"}
    assert not runner.model.norm.training and runner.model.dropout.training
    moving = make_runner(tmp_path / "moving", max_iters=2, custom_hooks=[FreezeHook(freeze=["base.*"])])
    moving.train()
    assert not torch.equal(moving.model.norm.running_mean, before["running_mean"])


def test_statistics_are_named_by_the_modules_around_them():
    model = nn.ModuleDict({"a": nn.Sequential(nn.BatchNorm1d(2), nn.ReLU()), "b": nn.BatchNorm2d(2)})
    assert norms_with_fixed_statistics(model, ["a"]) == norms_with_fixed_statistics(model, ["a.*"]) == [model["a"][0]]
    assert norms_with_fixed_statistics(model, ["*"]) == [model["a"][0], model["b"]]
    assert norms_with_fixed_statistics(model, []) == []
    with pytest.raises(ConfigError, match=r"\['a.1'\] match no batch normalisation; it is in \['a.0', 'b'\]"):
        norms_with_fixed_statistics(model, ["a.1"])


def test_the_table_counts_every_part(model):
    freeze_parameters(model, ["base.0.*"])
    rows = [line.split() for line in parameter_table(model).splitlines()[2:]]
    assert rows == [["base", "4", "9"], ["head", "3", "0"], ["total", "7", "9"]]


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: SafeCheckpointHook(interval=0), "must be at least 1"),
        (lambda: SafeCheckpointHook(rule="grater"), "rule must be one of"),
        (lambda: EmaHook(decay=1.0), "decay must lie between 0 and 1"),
    ],
)
def test_wrong_settings_are_told(build, message):
    with pytest.raises(ConfigError, match=message):
        build()


def test_the_clock_sees_a_living_child_and_its_child():
    burn = "import time\nt = time.process_time()\nwhile time.process_time() - t < 0.3: pass\n"
    nested = f"import subprocess, sys; subprocess.run([sys.executable, '-S', '-c', {burn!r}]); input()"
    before = process_tree_seconds()
    child = subprocess.Popen([sys.executable, "-S", "-c", nested], stdin=subprocess.PIPE)
    deadline = time.monotonic() + 20
    while process_tree_seconds() - before < 0.3 and time.monotonic() < deadline:
        time.sleep(0.05)
    living = process_tree_seconds() - before
    child.communicate(b"\n")
    dead = process_tree_seconds() - before
    assert living >= 0.3
    assert living <= dead < living + 0.5


def test_the_clock_counts_cpu_seconds():
    hook = CpuClockHook()
    used = os.times().user + os.times().system
    while os.times().user + os.times().system - used < 0.2:
        pass
    hook._read("train")
    assert hook._seconds["train"] == pytest.approx(0.2, abs=0.1)

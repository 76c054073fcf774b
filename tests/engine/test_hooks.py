import os
import subprocess
import sys
import time

import pytest
from torch import nn

from lumen.engine.hooks import (
    CpuClockHook,
    EmaHook,
    SafeCheckpointHook,
    eval_frozen_modules,
    freeze_parameters,
    parameter_table,
)
from lumen.engine.hooks.cpu_clock import process_tree_seconds
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

"""A decoder from a folder that the package has never heard of: train, evaluate, reload."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from helpers import TINY, make_sample
from mmengine.structures import InstanceData

from lumen.data.shapes import make_shapes
from lumen.engine.check_config import load_config
from lumen.lmm.nano.model import make_nano

ROOT = Path(__file__).resolve().parents[2]

SHARED = """
from mmengine.config import read_base
{imports}
with read_base():
    from ._base_.detection_coco import *
    from ._base_.nano import _lmm, _model
    from ._base_.runtime import *
    from ._base_.schedule_nano import *

{decoder}
_lmm["tasks"] = [dict(name="pointing", answer_format="points", routing_token="[PTG]")]
model = dict(_model, input_hw=(160, 160), decoders=[dict(type=_decoder)])
train_dataloader["batch_size"] = 2
val_evaluator = dict(type=_metric)
test_evaluator = val_evaluator
train_cfg = dict(max_iters=3)
default_hooks["checkpoint"]["interval"] = 3
"""
BY_CLASS = SHARED.format(
    imports="from elsewhere import ElsewhereAccuracy, ElsewhereDecoder",
    decoder="_decoder, _metric = ElsewhereDecoder, ElsewhereAccuracy",
)
BY_NAME = SHARED.format(
    imports="",
    decoder='custom_imports = dict(imports=["elsewhere"])\n_decoder, _metric = "ElsewhereDecoder", "ElsewhereAccuracy"',
)


def run(name, *arguments, cwd):
    environment = {key: value for key, value in os.environ.items() if key != "LUMEN_DATA"} | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, ROOT / "tools" / name, *map(str, arguments)]
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=300, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def plugin(tmp_path_factory):
    """Return a folder with a plug-in, two configs, a nano model and twelve images."""
    folder = tmp_path_factory.mktemp("plugin")
    source = (ROOT / "projects" / "example_decoder" / "example_decoder.py").read_text()
    (folder / "elsewhere.py").write_text(source.replace("class Pointing", "class Elsewhere"))
    (folder / "by_class.py").write_text(BY_CLASS)
    (folder / "by_name.py").write_text(BY_NAME)
    shutil.copytree(ROOT / "configs" / "_base_", folder / "_base_", ignore=shutil.ignore_patterns("__pycache__"))
    make_nano(folder / "data" / "nano", sizes=TINY)
    make_shapes(folder / "data" / "shapes", num_train=8, num_val=4, num_test=4, workers=1)
    return folder


def test_a_decoder_from_another_folder_trains_evaluates_and_reloads(plugin):
    """Trained by its registered name and judged as a class, it is the same decoder."""
    assert "pointing/accuracy" in run("train.py", "by_name.py", cwd=plugin)
    checkpoint = plugin / "work_dirs" / "by_name" / "iter_3.pth"
    run("test.py", "by_class.py", checkpoint, "--out", "figures.json", "--work-dir", "again", cwd=plugin)
    assert set(json.loads((plugin / "figures.json").read_text())) == {"pointing/accuracy"}
    content = torch.load(checkpoint, weights_only=True)
    assert "decoders.pointing.head.weight" in content["state_dict"]


def test_the_pointing_game_counts_every_phrase_of_every_image(plugin):
    """Two phrases in one image: MMEngine keeps one entry per image, so both must be in it."""
    sys.path.append(str(plugin))
    from elsewhere import ElsewhereAccuracy

    sample = make_sample(["star", "ring"], [[0, 0, 10, 10], [20, 0, 30, 10]], [0, 1])
    points, prompt_index = torch.tensor([[5.0, 5], [5, 5]]), torch.tensor([0, 1])
    sample.pred_instances = InstanceData(points=points, scores=torch.ones(2), prompt_index=prompt_index)
    metric = ElsewhereAccuracy()
    metric.process(None, [sample.to_dict()])
    assert metric.evaluate(1) == {"pointing/accuracy": 0.5}


def test_the_example_config_names_only_what_exists():
    config = load_config(ROOT / "projects" / "example_decoder" / "example_nano_shapes.py", tool_root=ROOT)
    assert [decoder["type"].spec.name for decoder in config.model.decoders] == ["pointing"]
    assert config.val_evaluator["type"].needs <= config.model.decoders[0]["type"].spec.predictions

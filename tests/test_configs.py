"""Every leaf config loads, survives a dump, builds on a tiny nano and takes a training step."""

import copy
import shutil
from pathlib import Path

import pytest
import torch
from helpers import make_images, make_sample
from mmengine.registry import DefaultScope

from lumen.engine.config import load_config
from lumen.registry import MODELS, OPTIM_WRAPPER_CONSTRUCTORS
from lumen.structures import Prompt

ROOT = Path(__file__).resolve().parents[1]
LEAVES = sorted(
    [
        *ROOT.glob("configs/[!_]*/*.py"),
        *(path for path in ROOT.glob("projects/*/*.py") if "read_base" in path.read_text()),
    ]
)


def load(path, **overrides):
    return load_config(path, overrides, tool_root=ROOT)


@pytest.mark.parametrize("path", LEAVES, ids=lambda path: path.stem)
def test_a_leaf_survives_copying_and_dumping(path, tmp_path):
    config = load(path)
    assert copy.deepcopy(config).pretty_text == config.pretty_text
    config.dump(tmp_path / "dumped.py")
    assert load(tmp_path / "dumped.py").pretty_text == config.pretty_text


@pytest.mark.parametrize("path", LEAVES, ids=lambda path: path.stem)
def test_a_leaf_builds_and_takes_a_step(path, tiny_nano):
    config = load(path, **{"model.lmm.name_or_path": str(tiny_nano)})
    torch.manual_seed(0)
    with DefaultScope.overwrite_default_scope("lumen"):
        model = MODELS.build(config.model)
        if config.optim_wrapper is None:  # a config that evaluates only
            assert config.test_dataloader and config.test_evaluator and config.test_cfg
            return
        wrapper = dict(config.optim_wrapper)
        constructor = OPTIM_WRAPPER_CONSTRUCTORS.build(
            {
                "type": wrapper.pop("constructor"),
                "paramwise_cfg": wrapper.pop("paramwise_cfg", None),
                "optim_wrapper_cfg": wrapper,
            }
        )
        optimizer = constructor(model)
    task = next(iter(model.decoders))
    prompts = [Prompt("cat", task=task, label=0), Prompt("dog", task=task, label=1)]
    sample = make_sample(prompts, [[4, 4, 40, 30]], [0], labels=[0])
    batch = {"inputs": list(make_images(2)), "data_samples": [sample, copy.deepcopy(sample)]}
    logged = model.train_step(batch, optimizer)
    assert all(value.isfinite() for value in logged.values())
    assert logged["loss"] > 0


def test_three_lines_are_enough_for_a_data_set_of_ones_own(tmp_path):
    shutil.copytree(ROOT / "configs", tmp_path / "configs")
    own = tmp_path / "configs" / "detection" / "mine.py"
    own.write_text(
        "from mmengine.config import read_base\n"
        "with read_base():\n"
        "    from .detection_nano_coco import *\n"
        'train_dataloader["dataset"].update(data_root="d", ann_file="train.json", data_prefix=dict(img="images"))\n'
        'val_dataloader["dataset"].update(data_root="d", ann_file="val.json", data_prefix=dict(img="images"))\n'
        "test_dataloader = val_dataloader\n"
    )
    config = load(own)
    assert config.train_dataloader.dataset.ann_file == "train.json"
    assert config.val_dataloader.dataset.ann_file == config.test_dataloader.dataset.ann_file == "val.json"
    assert config.test_dataloader.dataset.data_prefix.img == "images"

"""The config that a training is: what stands in it, and that nothing of a run stands outside of it."""

import pytest
from tuning_cases import NAMES

from lumen.engine.check_config import load_config
from lumen.errors import ConfigError
from lumen.tuning.base import Base
from lumen.tuning.recipe import Wishes, config_text, load, nano_input_hw, num_steps, override_lines, write_config
from lumen.tuning.splits import find_splits
from lumen.tuning.survey import Survey

NANO, LARGE = Base("nano", is_nano=True), Base("some/lmm", is_nano=False)


@pytest.fixture
def write(photos, tmp_path):
    """Return a function that writes the config of a training on ten pictures and gives its path."""
    splits = find_splits(photos, tmp_path / "work", task="detection", images=None, val_share=0.2, seed=0)
    survey = Survey(NAMES, 8, (48, 48), "")

    def write(base=NANO, **wishes):
        wishes = Wishes(**({"task": "detection"} | wishes))
        return write_config(config_text(base, splits, survey, wishes, tmp_path / "work"), base, tmp_path / "work")

    return write


@pytest.mark.parametrize(
    ("size_hw", "input_hw"),
    [((160, 160), (160, 160)), ((480, 640), (240, 320)), ((3000, 4000), (240, 320)), ((10, 2000), (16, 320))],
)
def test_the_input_of_nano_has_the_shape_of_the_images(size_hw, input_hw):
    assert nano_input_hw(size_hw) == input_hw


@pytest.mark.parametrize(("base", "steps"), [(NANO, (300, 400, 1500)), (LARGE, (500, 1000, 5000))])
def test_steps_follow_the_number_of_images(base, steps):
    found = [num_steps(base, Survey(NAMES, count, (48, 48), ""), None) for count in (2, 100, 10**6)]
    assert tuple(found) == steps
    assert num_steps(base, Survey(NAMES, 2, (48, 48), ""), 7) == 7


def test_a_config_holds_data_names_model_and_steps(write, photos):
    path = write(iters=9, seed=3)
    settings = [line for line in path.read_text().splitlines() if line and not line.startswith(('"""', "    ", "from"))]
    assert len(settings) <= 15
    config = load(path)
    dataset = config.train_dataloader.dataset
    assert list(dataset.classes) == list(NAMES) and dataset.data_prefix.img == str(photos / "images")
    assert config.val_dataloader.dataset.ann_file.endswith("work/annotations/val.json")
    assert config.test_dataloader.dataset.ann_file == config.val_dataloader.dataset.ann_file
    assert (config.model.lmm.name_or_path, tuple(config.model.input_hw)) == ("nano", (48, 48))
    assert (config.train_cfg.max_iters, config.randomness.seed) == (9, 3)
    assert config.train_dataloader.batch_size == 8


def test_overrides_are_lines_of_the_config(write, tmp_path):
    overrides = ("optim_wrapper.optimizer.lr=1e-4", "custom_hooks.0.decay=0.5", "_ask.num_prompts=2", "log_level=ERROR")
    found = load(write(overrides=overrides))
    plain = {"optim_wrapper.optimizer.lr": 1e-4, "custom_hooks.0.decay": 0.5, "_ask.num_prompts": 2}
    same = load_config(write(), {**plain, "log_level": "ERROR"}, tool_root=tmp_path)
    assert found.pretty_text == same.pretty_text
    assert override_lines(["model.lmm={'a':1}"]) == ["model['lmm'].update({'a': 1})"]


@pytest.mark.parametrize("override", ["model.lmn.template=paper", "modle=1", "custom_hooks.7.decay=0.5"])
def test_an_override_of_nothing_is_refused(write, override):
    with pytest.raises(ConfigError):
        write(overrides=(override,))


def test_what_learns_in_the_lmm(write):
    frozen, lora = load(write(tune="frozen")), load(write(tune="lora"))
    assert frozen.custom_hooks[0]["freeze"] == lora.custom_hooks[0]["freeze"] == ["lmm.base_model.*"]
    assert frozen.custom_hooks[0]["trainable"] == [] and "lora" not in frozen.model.lmm.base
    assert lora.custom_hooks[0]["trainable"] == ["*.lora_*"] and lora.model.lmm.base.lora["r"] == 16
    assert len(load(write()).custom_hooks) == 1
    large = load(write(LARGE, tune="frozen"))
    assert large.model.lmm.base.lora is None and large.custom_hooks[0]["trainable"] == []
    assert load(write(LARGE)).custom_hooks[0]["trainable"] == ["*.lora_*"]
    for base, tune in ((LARGE, "whole"), (NANO, "half")):
        with pytest.raises(ConfigError, match="--tune is one of frozen, lora, whole"):
            write(base, tune=tune)

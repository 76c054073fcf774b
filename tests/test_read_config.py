import sys

import pytest

from lumen.config import read_config
from lumen.errors import ConfigError


def test_a_config_finds_modules_beside_it_and_in_the_roots(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", [*sys.path])
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "far_plugin_of_test.py").write_text("class Far: pass\n")
    (tmp_path / "near_plugin_of_test.py").write_text("class Near: pass\n")
    text = (
        "from far_plugin_of_test import Far\nfrom near_plugin_of_test import Near\nmodel = dict(type=Far, other=Near)\n"
    )
    (tmp_path / "config.py").write_text(text)
    config = read_config(tmp_path / "config.py", import_roots=[tmp_path / "root"])
    assert (config.model["type"].__name__, config.model["other"].__name__) == ("Far", "Near")


@pytest.mark.parametrize(
    ("name", "text", "complaint"),
    [
        ("a.yaml", "model: 1", "a config is a Python file"),
        ("a.py", "model = (", "never closed"),
        ("a.py", "_base_ = ['x.py']", "read_base"),
        ("a.py", "model = undefined", "not defined"),
        ("a.py", "with read_base():\n    from configs._base_.nano import *", "copy configs/_base_ beside it"),
    ],
)
def test_what_is_no_pure_python_config_is_refused(tmp_path, name, text, complaint):
    (tmp_path / name).write_text(text)
    with pytest.raises(ConfigError, match=complaint):
        read_config(tmp_path / name)


@pytest.mark.parametrize("line", ["register_family('mine', None)", "found = FAMILIES['llava']", "found = {**FAMILIES}"])
def test_a_config_that_runs_what_it_imports_is_refused(tmp_path, line):
    imports = "from lumen.lmm.families import FAMILIES, register_family\n"
    (tmp_path / "a.py").write_text(f"{imports}model = dict(size=1)\n{line}\n")
    with pytest.raises(ConfigError, match=r"a\.py, line 3: .* custom_imports"):
        read_config(tmp_path / "a.py")


def test_a_missing_config_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="there is no config"):
        read_config(tmp_path / "gone.py")


BASE = """
from mmengine.dataset import DefaultSampler
_ask = dict(num_prompts=8)
_ask_all = dict(_ask, num_prompts=None)
_wide = dict(size=dict(height=1))
_steps = [dict(kind="load"), _ask]
train_dataloader = dict(sampler=dict(type=DefaultSampler), steps=_steps, size=_wide)
val_dataloader = dict(steps=[_ask_all])
test_dataloader = val_dataloader
"""


def leaf(folder, text):
    (folder / "base.py").write_text(BASE)
    header = "from mmengine.config import read_base\nwith read_base():\n    from .base import *\n"
    (folder / "leaf.py").write_text(header + text)
    return read_config(folder / "leaf.py")


def test_a_leaf_changes_what_the_settings_of_its_base_hold(tmp_path):
    config = leaf(tmp_path, '_ask["task"] = "pointing"\n_wide["size"]["height"] = 3\nval_dataloader["batch"] = 2\n')
    assert config.train_dataloader.steps[1] == {"num_prompts": 8, "task": "pointing"}
    assert config.train_dataloader.size.size.height == 3
    assert config.test_dataloader.batch == 2
    assert set(config) == {"train_dataloader", "val_dataloader", "test_dataloader"}


def test_a_leaf_may_change_what_it_hands_on_and_what_setdefault_returned(tmp_path):
    text = (
        "_size = dict(height=1)\n"
        'train_dataloader["size"] = _size\n'
        '_size["height"] = 2\n'
        'train_dataloader.setdefault("rates", {})["head"] = 0.1\n'
        'train_dataloader["sampler"].update(shuffle=True)\n'
    )
    loader = leaf(tmp_path, text).train_dataloader
    assert loader.size.height == 2
    assert loader.rates == {"head": 0.1}
    assert loader.sampler["type"].__name__ == "DefaultSampler"
    assert loader.sampler.shuffle


def test_two_bases_of_a_leaf_do_not_see_each_other(tmp_path):
    (tmp_path / "other.py").write_text(
        "from mmengine.config import read_base\n"
        "with read_base():\n    from .base import _ask\n"
        '_ask["num_prompts"] = 1\nother = dict(ask=_ask)\n'
    )
    (tmp_path / "leaf.py").write_text("x = 1\n")
    (tmp_path / "base.py").write_text(BASE)
    header = "from mmengine.config import read_base\nwith read_base():\n    from .other import other\n"
    (tmp_path / "both.py").write_text(header + "    from .base import train_dataloader\n")
    config = read_config(tmp_path / "both.py")
    assert (config.other.ask.num_prompts, config.train_dataloader.steps[1].num_prompts) == (1, 8)


@pytest.mark.parametrize(
    "text",
    [
        "_ask = dict(num_prompts=3)\n",  # a new object under the old name
        '_ask_all["task"] = "a"\nval_dataloader["steps"] = []\n',  # no setting holds it any more
        'val_dataloader["steps"] = [dict(_ask)]\ntrain_dataloader["steps"] = []\n_ask["task"] = "a"\n',  # a copy
        "_limit = 3\n",
        "_a, _b = 1, 2\nval_dataloader['x'] = _a\n",
    ],
)
def test_a_change_that_nothing_sees_is_refused(tmp_path, text):
    with pytest.raises(ConfigError, match=r"leaf\.py, line \d: nothing reads _"):
        leaf(tmp_path, text)


def test_a_helper_that_is_read_later_is_no_mistake(tmp_path):
    text = (
        '_ask_all.update(task="a")\n'
        "test_dataloader = dict(steps=[dict(_ask_all, x=1)])\n"
        "val_dataloader = None\n"
        'for _name in ("a", "b"):\n    train_dataloader[_name] = 1\n'
        'for _loader in (train_dataloader, test_dataloader):\n    _loader["batch"] = 2\n'
    )
    config = leaf(tmp_path, text)
    assert config.test_dataloader == {"steps": [{"num_prompts": None, "task": "a", "x": 1}], "batch": 2}

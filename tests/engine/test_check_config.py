import sys
from pathlib import Path

import pytest
import torch
from pages import run

from lumen.engine.check_config import RUNNER_SETTINGS, load_config, parse_overrides
from lumen.engine.hooks import EmaHook
from lumen.errors import ConfigError

ROOT = Path(__file__).resolve().parents[2]
CONFIG = """
from mmengine.config import read_base
from mmengine.dataset import DefaultSampler, InfiniteSampler, pseudo_collate
from mmengine.optim import CosineAnnealingLR
from torch.optim import AdamW

from lumen.engine.hooks import EmaHook
from lumen.engine.optim import LumenOptimWrapper
from toy import ToyData, ToyMetric, ToyModel

with read_base():
    from .base import default_hooks, default_scope, randomness

_loader = dict(
    dataset=dict(type=ToyData), sampler=dict(type=InfiniteSampler), batch_size=2, collate_fn=dict(type=pseudo_collate)
)
model = dict(type=ToyModel, width=8)
train_dataloader = _loader
train_cfg = dict(max_iters=3)
optim_wrapper = dict(
    type=LumenOptimWrapper, optimizer=dict(type=AdamW, lr=1e-3, weight_decay=0.0), paramwise_cfg=dict(norm_decay_mult=0)
)
param_scheduler = [dict(type=CosineAnnealingLR, T_max=3, by_epoch=False)]
custom_hooks = [dict(type=EmaHook, priority=49)]
test_dataloader = dict(dataset=dict(type=ToyData, noisy=False), sampler=dict(type=DefaultSampler), batch_size=4)
test_cfg = dict()
test_evaluator = [dict(type=ToyMetric)]
"""


@pytest.fixture
def folder(tmp_path):
    toy = Path(__file__).with_name("toy.py")
    (tmp_path / "toy.py").write_text(toy.read_text())
    runtime = (ROOT / "lumen/recipes/runtime.py").read_text()
    (tmp_path / "base.py").write_text(runtime)
    (tmp_path / "config.py").write_text(CONFIG)
    before = list(sys.path)
    yield tmp_path
    sys.path[:] = before


def _load(folder, text=None, **overrides):
    if text is not None:
        (folder / "config.py").write_text(text)
    overrides = {key.replace("__", "."): value for key, value in overrides.items()}
    return load_config(folder / "config.py", overrides, tool_root=ROOT)


def test_a_config_loads_with_classes_as_types(folder):
    config = _load(folder)
    assert config.custom_hooks[0]["type"] is EmaHook
    assert config.default_scope == "lumen"


def test_a_dumped_config_loads_again(folder):
    _load(folder).dump(folder / "dumped.py")
    again = load_config(folder / "dumped.py", tool_root=ROOT)
    assert again.optim_wrapper.optimizer.lr == 1e-3


def test_overrides_reach_dicts_lists_and_parameters_that_are_not_written(folder):
    config = _load(
        folder, optim_wrapper__optimizer__lr=0.5, custom_hooks__0__decay=0.9, optim_wrapper__dtype="bfloat16"
    )
    assert config.optim_wrapper.optimizer.lr == 0.5
    assert config.custom_hooks[0].decay == 0.9
    assert config.optim_wrapper.dtype == "bfloat16"
    assert _load(folder, load_from="x.pth").load_from == "x.pth"


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("modle.width", r"the config has no key 'modle'; did you mean 'model'\?"),
        ("model.widht", r"model has no key 'widht'; did you mean 'width'\?"),
        ("optim_wrapper.optimizer.lrr", r"optim_wrapper.optimizer has no key 'lrr'; did you mean 'lr'\?"),
        ("custom_hooks.1.decay", "custom_hooks is a list of 1; '1' is none of its indices"),
        ("custom_hooks.first", "custom_hooks is a list of 1"),
        ("model.width.x", "model.width is 8, which has no key 'x'"),
        ("model_wrapper_cfg.x", "the config has no key 'model_wrapper_cfg'"),
    ],
)
def test_an_override_of_something_unknown_is_refused(folder, path, message):
    with pytest.raises(ConfigError, match=message):
        load_config(folder / "config.py", {path: 1}, tool_root=ROOT)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("width=8", "widht=8", r"model: ToyModel takes no 'widht'; did you mean 'width'\?"),
        ("lr=1e-3", "lrr=1e-3", r"optim_wrapper.optimizer: AdamW takes no 'lrr'; did you mean 'lr'\?"),
        ("paramwise_cfg", "paramwise_cgf", r"optim_wrapper: LumenOptimWrapper takes no 'paramwise_cgf'"),
        ("T_max", "T_mxa", r"param_scheduler.0: CosineAnnealingLR takes no 'T_mxa'; did you mean 'T_max'\?"),
        ("batch_size=2", "bacth_size=2", r"train_dataloader: DataLoader takes no 'bacth_size'"),
        ("max_iters", "max_itres", r"train_cfg: LumenTrainLoop takes no 'max_itres'"),
        ("noisy", "nosiy", r"test_dataloader.dataset: ToyData takes no 'nosiy'"),
        ("custom_hooks", "custom_hoks", r"no setting 'custom_hoks'; did you mean 'custom_hooks'\?"),
        ("model =", "_model =", r"line 17: nothing reads _model after this line"),
        ("width=8", "width=lambda: 8", r"model\.width is a function"),
        ("import AdamW", "import AdmW as AdamW", "Failed to import AdmW"),
        ("from .base", "from .bsae", "bsae.py not found"),
        ("width=8)", "width=8", "was never closed"),
        ("type=ToyModel", "type='ToyModle'", "model.type='ToyModle' is neither a registered name nor"),
    ],
)
def test_a_mistake_in_a_config_is_told(folder, old, new, message):
    assert old in CONFIG
    with pytest.raises(ConfigError, match=message):
        _load(folder, CONFIG.replace(old, new))


def test_a_registered_name_is_checked_like_its_class(folder):
    with pytest.raises(ConfigError, match=r"custom_hooks\.0: EmaHook takes no 'deacy'; did you mean 'decay'"):
        _load(folder, CONFIG.replace("type=EmaHook", "type='EmaHook', deacy=1"))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.yaml", "x: !!python/object/apply:os.system ['touch canary']", "YAML and JSON are not read"),
        ("a.json", "{}", "YAML and JSON are not read"),
        ("a.py", "_base_ = ['b.py']", "instead of a text _base_"),
        ("a.py", "\xff", "a.py"),
    ],
)
def test_other_kinds_of_configs_are_refused(tmp_path, monkeypatch, name, content, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / name).write_bytes(content.encode("latin-1"))
    with pytest.raises(ConfigError, match=message):
        load_config(tmp_path / name, tool_root=ROOT)
    assert not (tmp_path / "canary").exists()


def test_a_missing_config_is_told(tmp_path):
    with pytest.raises(ConfigError, match="there is no config"):
        load_config(tmp_path / "none.py", tool_root=ROOT)


def test_a_plug_in_in_a_package_is_imported_from_above_it(folder):
    package = folder / "plug" / "configs"
    package.mkdir(parents=True)
    for path in (package, package.parent):
        (path / "__init__.py").touch()
    (package / "config.py").write_text("from plug.part import Part\nmodel = dict(type=Part)\n")
    (package.parent / "part.py").write_text("class Part:\n    pass\n")
    assert load_config(package / "config.py", tool_root=ROOT).model["type"].__name__ == "Part"
    assert str(folder) in sys.path


def test_overrides_are_read_as_literals_and_else_as_text():
    expected = {
        "a=1e-3": 1e-3, "a=true": True, "a=None": None, "a=some path/x.pth": "some path/x.pth", "a=x=y": "x=y",
        "a=[1, 2]": [1, 2], "a=[red,stop sign]": ["red", "stop sign"], "a=red,2": ["red", 2], "a=[]": [],
        "a='red,2'": "red,2", "a={'b': [1]}": {"b": [1]}, "a=[{'type': 'B'}]": [{"type": "B"}], "a=f(1,2)": "f(1,2)",
    }  # fmt: skip
    assert {text: parse_overrides([text])["a"] for text in expected} == expected
    with pytest.raises(ConfigError, match="within a list hold Python literals"):
        parse_overrides(["a=[[b,c],d]"])
    with pytest.raises(ConfigError, match=r"looks like key\.path=value, got 'abc'"):
        parse_overrides(["abc"])


def test_an_override_merges_dicts_and_replaces_lists(folder):
    config = load_config(folder / "config.py", {"model": {"width": 5}, "custom_hooks": []}, tool_root=ROOT)
    assert config.model["type"].__name__ == "ToyModel"
    assert (config.model.width, config.custom_hooks) == (5, [])


def test_an_override_of_a_helper_reaches_all_that_hold_it_and_nothing_in_vain(folder):
    text = CONFIG.replace("model = dict(", "_adam = dict(type=AdamW, lr=1e-3)\n_unused = 3\nmodel = dict(").replace(
        "optimizer=dict(type=AdamW, lr=1e-3, weight_decay=0.0)", "optimizer=_adam"
    )
    text = text.replace("max_iters=3", "max_iters=_unused")
    assert _load(folder, text, _adam__lr=0.5).optim_wrapper.optimizer.lr == 0.5
    for path in ("_adam", "_unused"):
        with pytest.raises(ConfigError, match=f"{path} is a helper that no setting holds"):
            load_config(folder / "config.py", {path: 4}, tool_root=ROOT)
    with pytest.raises(ConfigError, match="_adam has no key 'lrr'; did you mean 'lr'"):
        _load(folder, _adam__lrr=1)


def test_settings_that_were_one_object_are_overridden_apart(folder):
    text = CONFIG + "val_dataloader = test_dataloader\nval_cfg = dict()\nval_evaluator = test_evaluator\n"
    config = _load(folder, text, val_dataloader__batch_size=1)
    assert (config.val_dataloader.batch_size, config.test_dataloader.batch_size) == (1, 4)


def test_the_shared_runtime_config_holds_settings_only():
    text = (ROOT / "lumen/recipes/runtime.py").read_text()
    names = {line.split(" = ")[0] for line in text.splitlines() if " = " in line and line[0].isalpha()}
    assert names <= RUNNER_SETTINGS


def test_tools_train_resume_and_test_from_any_folder(folder, run_tool, monkeypatch):
    work_dir = folder / "run"
    trained = run_tool("train.py", folder / "config.py", "--work-dir", work_dir, "--seed", "5", cwd=folder)
    assert trained.returncode == 0, trained.stderr[-2000:]
    more = run_tool(
        "train.py", folder / "config.py", "--work-dir", work_dir, "--seed", "5", "--resume", "--amp",
        "--cfg-options", "train_cfg.max_iters=5", cwd=folder,
    )  # fmt: skip
    assert "resumed from" in more.stdout + more.stderr
    assert torch.load(work_dir / "iter_5.pth", weights_only=True)["meta"]["iter"] == 5
    words = ["tools/test.py", folder / "config.py", work_dir / "iter_5.pth", "--out", folder / "figures.json"]
    monkeypatch.chdir(folder)
    assert run([*map(str, words)], monkeypatch) == 0
    assert "toy/mean" in (folder / "figures.json").read_text()
    assert (folder / "work_dirs" / "config").is_dir()


def test_a_config_is_printed_as_the_runner_gets_it(folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    assert run(["tools/print_config.py", "config.py", "--cfg-options", "train_cfg.max_iters=9"], monkeypatch) == 0
    printed = capsys.readouterr().out
    assert "train_cfg = dict(max_iters=9)" in printed
    assert "_loader" not in printed
    words = ["tools/print_config.py", "configs/detection/detection_nano_shapes.py", "--filled"]
    assert run(words, monkeypatch) == 0
    printed = capsys.readouterr().out
    assert "task='detection'" in printed
    assert "T_max=2100" in printed


def test_a_tool_tells_a_mistake_in_one_line(folder, run_tool):
    result = run_tool("train.py", folder / "config.py", "--cfg-options", "model.widht=3", cwd=folder)
    assert result.returncode == 2
    assert result.stderr.strip().splitlines()[-1].startswith("error: model has no key 'widht'; did you mean 'width'?")
    assert "Traceback" not in result.stderr


NANO = ROOT / "configs" / "detection" / "detection_nano_shapes.py"


def test_groups_of_options_take_overrides_written_or_not():
    overrides = {"model.lmm.readout.position": "before_loc", "model.lmm.generation.max_new_tokens": 8}
    lmm = load_config(NANO, overrides, tool_root=ROOT).model.lmm
    assert lmm.readout.position == "before_loc" and lmm.readout.add_phrase_state
    assert lmm.generation == {"max_new_tokens": 8}


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("model.lmm.readout.postion", r"model\.lmm\.readout has no key 'postion'; did you mean 'position'\?"),
        (
            "model.lmm.generation.max_tokens",
            r"model\.lmm\.generation has no key 'max_tokens'.*Known: answer_mode, .*max_n",
        ),
        ("model.lmm.redout.position", r"model\.lmm has no key 'redout'"),
        ("model.aligner.heat.sigma", r"model\.aligner\.heat has no key 'sigma'"),
    ],
)
def test_an_override_of_an_unknown_option_in_a_group_is_refused(path, message):
    with pytest.raises(ConfigError, match=message):
        load_config(NANO, {path: 1}, tool_root=ROOT)


def test_a_misspelt_option_in_a_group_is_refused(tmp_path):
    (tmp_path / "mine.py").write_text(
        "from lumen.lmm.adapter import HFAdapter\n"
        "model = dict(type='Lumen', lmm=dict(type=HFAdapter, name_or_path='x', packing=dict(max_suffix_token=9)))\n"
    )
    with pytest.raises(ConfigError, match=r"model\.lmm\.packing: PackingOptions takes no 'max_suffix_token'; did you"):
        load_config(tmp_path / "mine.py", tool_root=ROOT)

"""What README and docs show is in the repository, and runs."""

import ast
import importlib
import importlib.util
import re
import shlex
import shutil
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import DefaultScope
from pages import blocks, commands, load_tool, snippet, snippets, written_file
from real_layouts import CLASSES, coco_file, picture, write

from lumen.cli import app
from lumen.data.pipelines import fill_pipelines
from lumen.engine.check_config import load_config
from lumen.engine.model_inputs import inputs_of_config
from lumen.lmm.families import FAMILIES
from lumen.model import Lumen
from lumen.prompts import KNOWN_TASKS
from lumen.registry import DATASETS, DECODERS, MODELS
from lumen.serialization.checkpoint import plain, save_checkpoint, trained_state

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), *sorted((ROOT / "projects").glob("*/README.md"))]
# Folders that are packages hold parts of tools.
TOOLS = sorted(path for path in (ROOT / "tools").glob("**/[!_]*.py") if not path.with_name("__init__.py").exists())
FOLDERS = ("tools/", "configs/", "projects/", "docs/", "tests/", "lumen/")
page = pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))


# ---- what runs


@pytest.fixture
def tiny_run(tmp_path, tiny_nano, monkeypatch):
    """Lay a tiny model with every task where the README's snippet looks for the demo's, and go there."""
    kinds = [kind for name, kind in own_decoders().items() if not name.startswith(("Sam", "Paper", "Slot", "Object"))]
    lmm = {"type": "lumen.lmm.adapter.HFAdapter", "name_or_path": str(tiny_nano), "base": {"attention": "eager"}}
    aligner = {"type": "lumen.aligners.dense.DenseAligner", "channels": 32, "num_heads": 4, "mlp_channels": 64}
    decoders = [{"type": f"{kind.__module__}.{kind.__name__}"} for kind in kinds]
    pipeline = [{"type": "lumen.data.transforms.ResizeToInput", "input_hw": (64, 64)}]
    model = {"type": "lumen.model.Lumen", "lmm": lmm, "aligner": aligner, "decoders": decoders}
    config = Config({"model": model, "test_dataloader": {"dataset": {"pipeline": pipeline}}})
    torch.manual_seed(0)
    with DefaultScope.overwrite_default_scope("lumen"):
        state = trained_state(MODELS.build(config.model))
    for folder in ("configs/detection", "work_dirs/detection_seeing_shapes"):
        (tmp_path / folder).mkdir(parents=True)
    config.dump(tmp_path / "configs/detection/detection_seeing_shapes.py")
    save_checkpoint(
        tmp_path / "work_dirs/detection_seeing_shapes/iter_1050.pth",
        plain({"state_dict": state, "meta": {"iter": 1050}}),
    )
    picture(tmp_path / "data/shapes/val/000000.jpg")
    monkeypatch.chdir(tmp_path)


def test_the_python_snippet_runs(tiny_run, capsys):
    names = {}
    exec(compile(snippet(README, "Use it in Python"), "README.md", "exec"), names)
    assert isinstance(names["predictor"].model, Lumen)
    assert names["found"].bboxes.shape == (len(names["found"]), 4)
    assert len(names["heat"]) == 1
    assert "tensor" in capsys.readouterr().out


@pytest.fixture
def bases(tmp_path):
    """Copy the configs that the README's snippets import."""
    for part in ("_base_", "detection"):
        shutil.copytree(ROOT / "configs" / part, tmp_path / "configs" / part)
    return tmp_path


def test_the_config_of_own_data_reads_them(bases, monkeypatch):
    path = bases / "configs" / "detection" / "mine.py"
    path.write_text(snippet(README, "Your data"))
    for name in ("train", "val"):
        write(bases / "data" / "mine" / f"{name}.json", coco_file())
    picture(bases / "data" / "mine" / "images" / "1.jpg")
    monkeypatch.chdir(bases)
    config = load_config(path, {}, tool_root=bases)
    inputs = inputs_of_config(config)
    for name in ("train_dataloader", "val_dataloader", "test_dataloader"):
        dataset = DATASETS.build(fill_pipelines(config[name].dataset, inputs))
        assert list(dataset.metainfo["classes"]) == CLASSES
        assert {prompt.text for prompt in dataset[0]["data_samples"].prompts} <= set(CLASSES)


def test_the_decoder_that_the_readme_shows_is_that_of_the_example():
    shown = snippet(README, "Add a task").strip()
    assert shown.startswith("@DECODERS")
    assert shown in (ROOT / "projects/example_decoder/example_decoder.py").read_text(encoding="utf-8")


# ---- what exists


def test_the_readme_is_short():
    assert len(README.splitlines()) <= 230


@page
def test_files_that_a_page_names_exist(page):
    text = page.read_text(encoding="utf-8")
    written = {str(written_file(content)) for _, content in blocks(text)}
    words = {word.strip("`,.;:()|") for word in re.split(r"[\s`]+", text)} - written
    named = [word for word in words if word.startswith(FOLDERS) and not re.search("[<*{]", word) and "mine" not in word]
    links = [link for link in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", text) if not (page.parent / link).exists()]
    assert [word for word in named if not (ROOT / word).exists()] + links == []


@page
def test_commands_that_a_page_shows_exist(page):
    for words in commands(page.read_text(encoding="utf-8")):
        tools = [word for word in words if re.match(r"(\$LUMEN/)?tools/.*\.py$", word)]
        for tool in tools:
            check_options(ROOT / tool.removeprefix("$LUMEN/"), words)


@pytest.mark.parametrize("tool", TOOLS, ids=lambda path: str(path.relative_to(ROOT)))
def test_the_help_of_every_tool_has_examples_that_exist(tool):
    source = tool.read_text(encoding="utf-8")
    examples = source.partition('EXAMPLES = """')[2].partition('"""')[0]
    assert "epilog=EXAMPLES" in source
    lines = [re.split(r"\s{3,}", line.strip())[0] for line in re.sub(r"\\+\n\s*", "", examples).splitlines()]
    shown = [shlex.split(line, comments=True) for line in lines if str(tool.relative_to(ROOT)) in line]
    assert shown
    for words in shown:
        check_options(tool, words)
        configs = [word for word in words if word.startswith(("configs/", "projects/"))]
        assert [config for config in configs if not (ROOT / config).is_file()] == []


def check_options(tool, words):
    """Fail unless the tool knows each option among the words of a command."""
    source = tool.read_text(encoding="utf-8")
    if "add_common_options" in source or "add_plugin_options" in source:
        source += (ROOT / "lumen" / "engine" / "tool.py").read_text(encoding="utf-8")
    called = next(place for place, word in enumerate(words) if word.endswith(tool.name))
    options = [word.partition("=")[0] for word in words[called:] if word.startswith("--")]
    unknown = [option for option in options if f'"{option}"' not in source]
    assert unknown == [], f"{tool.name} has no {unknown}"


@page
def test_make_targets_and_lumen_commands_that_a_page_shows_exist(page):
    text = page.read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.MULTILINE))
    assert set(re.findall(r"(?:^|`)make ([a-z-]+)", text, flags=re.MULTILINE)) <= targets
    known = {command.name or command.callback.__name__ for command in app.registered_commands}
    assert set(re.findall(r"(?:^|`)lumen ([a-z-]+)", text, flags=re.MULTILINE)) <= known


@page
def test_what_a_page_imports_exists(page):
    for block in snippets(page.read_text(encoding="utf-8"), "python"):
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in ("lumen", "mmengine"):
                module = importlib.import_module(node.module)
                assert [alias.name for alias in node.names if not hasattr(module, alias.name)] == []


# ---- tables that are printed from code


def own_decoders():
    """Return the classes of Lumen's decoders, without plug-ins that other tests registered."""
    DECODERS.import_from_location()
    return {name: kind for name, kind in DECODERS.module_dict.items() if kind.__module__.startswith("lumen.")}


@pytest.fixture(scope="module")
def tool():
    return load_tool("list_decoders")


def test_the_table_of_decoders_is_current(tool):
    rows = [row for row in tool.decoder_rows() if row[1] in own_decoders()]
    assert tool.markdown(rows) in (ROOT / "docs" / "tasks.md").read_text(encoding="utf-8")


def test_the_table_of_configs_is_current(tool):
    table = tool.markdown(tool.config_rows(), tool.CONFIG_COLUMNS)
    assert table in (ROOT / "docs" / "tasks.md").read_text(encoding="utf-8")


def test_the_table_of_tasks_is_current_and_complete(tool):
    assert tool.markdown(tool.task_rows(), tool.TASK_COLUMNS) in README
    assert set(tool.QUESTIONS) == {wording.name for wording in KNOWN_TASKS}


def test_each_task_is_judged_by_a_metric_that_gives_its_headline(tool):
    specs = {kind.spec.name: kind.spec for kind in own_decoders().values()}
    for task, question in tool.QUESTIONS.items():
        evaluator = load_config(ROOT / "configs" / question.config, {}, tool_root=ROOT).get("test_evaluator")
        metrics = [metric["type"] for metric in ([evaluator] if isinstance(evaluator, dict) else evaluator or [])]
        assert all(metric.needs <= specs[task].predictions for metric in metrics)
        if metrics:
            assert specs[task].headline.partition("/")[0] in [metric.default_prefix for metric in metrics]


def test_every_task_has_a_blind_baseline():
    text = (ROOT / "docs" / "tasks.md").read_text(encoding="utf-8").partition("## Blind baselines")[2]
    rows = [line.split("|")[1].strip() for line in text.splitlines() if line.startswith("| ")]
    assert set(rows[2:]) == {wording.name for wording in KNOWN_TASKS}


def test_the_list_of_families_is_current():
    listed = re.findall(
        r"^\| ([a-z0-9_/]+) \|", (ROOT / "docs" / "families.md").read_text(encoding="utf-8"), re.MULTILINE
    )
    assert set(listed) >= {key for key in FAMILIES if "/lumen" not in key}


def test_the_layout_names_every_part_of_the_package():
    layout = snippet(README, "Layout", "")
    parts = [path.name for path in (ROOT / "lumen").iterdir() if path.is_dir() and path.name != "__pycache__"]
    assert [part for part in parts if f"{part}/" not in layout] == []


def test_the_table_of_systems_names_what_shows_each_feature():
    text = (ROOT / "docs" / "systems.md").read_text(encoding="utf-8")
    _, _, *rows = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("|")
    ]
    assert {len(row) for row in rows} == {7} and len({row[0] for row in rows}) == len(rows) > 0
    works = []
    for feature, *systems, here, state in rows:
        paths = [word for word in re.findall("`([^`]+)`", here) if "/" in word]
        assert [path for path in paths if not (ROOT / path).exists()] == [], feature
        mark = re.match("`([a-z ]+)`", state)[1]
        assert mark in ("figure", "works", "code only", "missing"), feature
        assert mark == "missing" or paths, feature
        assert mark != "works" or any(path.startswith("tests/") for path in paths), feature
        assert mark != "figure" or re.search(r"\]\([\w./]+\.md", state), feature
        assert all(cell for cell in systems), feature
        works += [feature] * (mark in ("figure", "works"))
    listed, partly = (re.findall(r"^- \*\*(.+?)\*\*:", part, re.MULTILINE) for part in text.split("\n## ")[1:])
    assert listed == [row[0] for row in rows if row[0] not in works]
    assert set(partly) <= set(works)

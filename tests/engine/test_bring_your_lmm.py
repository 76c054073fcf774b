"""docs/bring_your_lmm.md from its first block to its last, on a tiny model of the family that it names."""

import ast
import itertools
import json
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from importlib.util import find_spec

import pytest
import zoo
from pages import ROOT, blocks, command_lines, run, written_file
from real_layouts import coco_file, picture, write

from lumen.data.annotations import read_coco
from lumen.lmm.families import FAMILIES

PAGE = (ROOT / "docs/bring_your_lmm.md").read_text(encoding="utf-8")
TRAIN = ("train_cfg.max_iters=2", "train_dataloader.batch_size=2", "train_dataloader.num_workers=0")
TRAIN += ("train_dataloader.persistent_workers=False", "val_dataloader.num_workers=0")
TEST = ("test_dataloader.num_workers=0", "test_cfg.foreign_names=2")


NUMBERS = itertools.count()


@pytest.fixture
def place(tmp_path, monkeypatch):
    """Go to a folder with the configs, two photographs, and tiny models where the page has real ones."""
    shutil.copytree(ROOT / "configs", tmp_path / "configs")
    zoo.save("smolvlm", tmp_path / "HuggingFaceTB/SmolVLM-Instruct")
    zoo.save("llava", tmp_path / "models/my_lmm")
    shutil.copy(tmp_path / "models/my_lmm/chat_template.jinja", tmp_path / "models/my_lmm.jinja")
    content = coco_file("0001.jpg")
    cat = {"id": 8, "image_id": 1, "category_id": 2, "bbox": [20, 4, 10, 12], "area": 120, "iscrowd": 0}
    content["annotations"].append(cat)
    picture(tmp_path / "data/mine/images/0001.jpg")
    for part in ("train", "val"):
        write(tmp_path / f"data/mine/{part}.json", content)
    known = dict(FAMILIES)
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    FAMILIES.clear()
    FAMILIES.update(known)
    sys.modules.pop("my_family", None)


def small(words):
    """Return a command with settings for a few steps on one picture; MMEngine would name runs of one second alike."""
    settings = TRAIN if "tools/train.py" in words else TEST if "tools/test.py" in words else ()
    return [*words, "--cfg-options", f"experiment_name=run_{next(NUMBERS)}", *settings] if settings else words


def test_each_block_runs(place, monkeypatch, capsys):
    trained = {word for name, text in blocks(PAGE) if name == "bash" for word in text.split() if word.endswith(".py")}
    for language, text in blocks(PAGE):
        path = written_file(text)
        if language == "bash":
            for words in map(shlex.split, command_lines(text)):
                run_command(words, monkeypatch)
        elif language == "json":
            (place / "shown.json").write_text(text)
            assert read_coco(place / "shown.json").classes == ("person", "cat")
        elif path is not None:
            path.write_text(text)
            if "read_base" in text and str(path) not in trained:
                train_leaf(path, text, monkeypatch, capsys)
        elif language == "python":
            names = {}
            exec(compile(text, "bring_your_lmm.md", "exec"), names)
            assert names["found"].bboxes.shape == (len(names["found"]), 4)
    assert {path.stem for path in (place / "work_dirs").iterdir()} >= {"mine", "mine_negatives", "mine_other"}
    assert json.loads((place / "figures.json").read_text())["foreign/names"] == 2
    assert list((place / "out/mine").glob("*.json"))


def run_command(words, monkeypatch):
    """Run a command of the page; of ``pip`` and ``torchrun`` check what can be checked without a second process."""
    if words[0] == "pip":
        extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
        assert set(re.search(r"\[(.*)\]", words[-1])[1].split(",")) <= set(extras)
    elif words[0] != "torchrun":  # the slow test runs it
        assert run(small(words), monkeypatch) == 0, words


def train_leaf(path, text, monkeypatch, capsys):
    """Train a config that the page shows without a command."""
    words, further = ["python", "tools/train.py", str(path)], ()
    if "quantization" in text:
        if find_spec("bitsandbytes") is None:
            assert run(small(words), monkeypatch) == 2
            assert "quantization needs bitsandbytes" in capsys.readouterr().err
        further = ("model.lmm.base.quantization=None",)
    assert run([*small(words), *further], monkeypatch) == 0, path


@pytest.mark.slow
def test_several_processes_train(place):
    lines = [words for name, text in blocks(PAGE) if name == "bash" for words in map(shlex.split, command_lines(text))]
    for _, text in blocks(PAGE):
        if written_file(text) is not None:
            written_file(text).write_text(text)
    launched = [words for words in lines if words[0] == "torchrun"]
    assert len(launched) == 2
    for words in launched:
        tool = [str(ROOT / word) if word == "tools/train.py" else word for word in words[1:]]
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", *tool, "--cfg-options", *TRAIN]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr[-2000:]


# ---- messages


def templates(tree):
    """Return the texts of a module, with ``...`` for what is filled in."""
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            yield "".join(part.value if isinstance(part, ast.Constant) else "..." for part in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield re.sub(r"%[sd]", "...", node.value)


def test_the_messages_of_the_page_are_those_of_the_code():
    rows = re.findall(r"^\| `(.+?)` \|", PAGE.partition("## What you may see")[2], flags=re.MULTILINE)
    said = [text for path in (ROOT / "lumen").glob("**/*.py") for text in templates(ast.parse(path.read_text()))]
    assert len(rows) > 15
    assert [row for row in rows if not any(row.strip(".: ") in text for text in said)] == []

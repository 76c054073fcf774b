"""docs/first_detector.md from its first command to its last, on generated pictures."""

import json
import re
import shlex
import signal
import subprocess
import sys
import tomllib
from urllib.request import urlopen

import pytest
import typer
from pages import ROOT, command_lines, run, snippets

from lumen.cli import app
from lumen.data.shapes import make_shapes

PAGE = (ROOT / "docs/first_detector.md").read_text(encoding="utf-8")
FEW = ("--iters", "2", "--cfg-options", "_ask.num_negatives=1")
AGAIN = ("--iters", "1", "--cfg-options", "val_dataloader.batch_size=4")  # a run that goes on has no helpers


@pytest.fixture
def place(tmp_path, monkeypatch):
    """Go to a folder with eight pictures, and the labels that a labelling tool would have exported."""
    make_shapes(tmp_path / "shapes", 8, 1, workers=1, num_test=1)
    (tmp_path / "shapes/train").rename(tmp_path / "photos")
    (tmp_path / "shapes/annotations/instances_train.json").rename(tmp_path / "corrected.json")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_commands_of_the_page_run(place, monkeypatch, capsys):
    for package in ("supervision", "uvicorn"):
        pytest.importorskip(package)
    lines = [shlex.split(line, comments=True) for block in snippets(PAGE, "bash") for line in command_lines(block)]
    for words in lines:
        if words[0] == "pip":
            extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
            assert set(re.search(r"\[(.*)\]", words[-1])[1].split(",")) <= set(extras)
        elif words[:2] == ["lumen", "serve"]:
            serve(words)
        elif words[0] == "lumen":
            short = () if words[1] != "train" or "--resume" in words else AGAIN if "work/" in words[-3] else FEW
            assert run([*words, *short], monkeypatch) == 0, (words, capsys.readouterr().err)
    assert len(json.loads((place / "labels/coco.json").read_text())["images"]) == 8
    assert list((place / "labels/yolo/labels").glob("*.txt")) and list((place / "out").glob("*.json"))
    assert (place / "work/iter_2.pth").is_file() and (place / "work2/iter_1.pth").is_file()
    assert capsys.readouterr().out.count("\nAP ") == 3


def serve(words):
    """Run the command until it answers, on a free port."""
    command = [sys.executable, "-m", "lumen.cli", *words[1:], "--port", "0", "--device", "cpu"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        url = next(line for line in process.stdout if line.startswith("serving at")).split()[-1]
        with urlopen(f"{url}/healthz", timeout=60) as answer:
            assert answer.status == 200
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) in (0, -signal.SIGTERM)


def test_options_that_the_page_shows_exist():
    known = {
        name
        for command in ("train", "label", "predict")
        for option in typer.main.get_command(app).commands[command].params
        for name in (*option.opts, *option.secondary_opts)
    }
    shown = set(re.findall(r"--[a-z][a-z-]+", re.sub(r"python tools/\S+[^`]*", "", PAGE)))
    assert shown and shown <= known

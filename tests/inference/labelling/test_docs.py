"""The commands and the code of docs/label.md, on a few pictures and a tiny model."""

import json
import shlex
import shutil

import pytest
from pages import ROOT, command_lines, run, snippets

PAGE = (ROOT / "docs" / "label.md").read_text(encoding="utf-8")


@pytest.fixture
def here(exported, photos, tmp_path, monkeypatch):
    shutil.copytree(exported, tmp_path / "exported")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def confirm(tasks, export):
    """Write what Label Studio exports when a person confirms each prediction, and adds a star."""
    content = json.loads(tasks.read_text())
    star = {"x": 10, "y": 10, "width": 50, "height": 50, "rectanglelabels": ["star"]}
    for task in content:
        regions = task.pop("predictions")[0]["result"]
        task["annotations"] = [{"result": [*regions, {"type": "rectanglelabels", "value": star}]}]
    export.write_text(json.dumps(content))


def test_what_the_page_shows_runs(here, monkeypatch, capsys):
    for package in ("supervision", "pyarrow"):
        pytest.importorskip(package)
    lines = [shlex.split(line, comments=True) for block in snippets(PAGE, "bash") for line in command_lines(block)]
    lines = [words for words in lines if words[0] == "lumen"]  # the others measure
    offline = [words for words in lines if "--lmm" not in words]
    assert len(offline) == len(lines) - 1, "one command downloads a model"
    for words in offline:
        if words[1] == "convert":
            confirm(here / "to_correct" / "label-studio" / "tasks.json", here / "export.json")
        assert run(words, monkeypatch) == 0, capsys.readouterr().err
    exec(compile(snippets(PAGE, "python")[0], "docs/label.md", "exec"), {})
    found = [json.loads((here / out / "coco.json").read_text()) for out in ("labels", "array", "by_python")]
    assert found[0] == found[1] == found[2] and len(found[0]["images"]) == 7
    assert (here / "labels" / "labels.parquet").is_file() and (here / "array" / "yolo" / "data.yaml").is_file()
    mine = json.loads((here / "data" / "mine" / "train.json").read_text())
    assert [len(mine[key]) for key in ("images", "categories")] == [7, 2] and len(mine["annotations"]) >= 7

"""What the README shows is what lies in the repository."""

import importlib.util
from pathlib import Path

import pytest

from lumen.prompts import KNOWN_TASKS
from lumen.registry import DECODERS, METRICS

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", ["example_decoder.py", "example_nano_shapes.py"])
def test_the_plug_in_is_shown_in_full(name):
    assert (ROOT / "projects" / "example_decoder" / name).read_text(encoding="utf-8").strip() in README


def test_files_that_the_readme_names_exist():
    words = {word.strip("`,.;:()") for word in README.split()}
    named = [word for word in words if word.startswith(("tools/", "configs/", "projects/", "docs/", "tests/"))]
    missing = [word for word in named if "*" not in word and not (ROOT / word).exists()]
    assert missing == []


def own_decoders():
    """Return the classes of Lumen's decoders, without plug-ins that other tests registered."""
    DECODERS.import_from_location()
    return {name: kind for name, kind in DECODERS.module_dict.items() if kind.__module__.startswith("lumen.")}


def rows_of(table):
    return [tuple(cell.strip() for cell in line.strip("|").split("|")) for line in table.splitlines()]


def test_the_table_of_decoders_is_what_the_tool_prints():
    spec = importlib.util.spec_from_file_location("list_decoders", ROOT / "tools" / "list_decoders.py")
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    own = [row for row in tool.decoder_rows() if row[1] in own_decoders()]
    assert tool.markdown(own) in README


def test_the_page_of_tasks_says_what_the_code_says():
    page = (ROOT / "docs" / "tasks.md").read_text(encoding="utf-8")
    table = rows_of(page.partition("| --- |")[2].partition("\n\n")[0])[1:]
    specs = {}
    for name, kind in own_decoders().items():
        if not name.startswith(("Sam", "Paper")):
            specs[kind.spec.name] = kind.spec
    wordings = {wording.name: wording for wording in KNOWN_TASKS}
    assert {row[0] for row in table} == set(wordings) == set(specs)
    for task, _, answer, targets, predictions, metrics, headline, config in table:
        spec, wording = specs[task], wordings[task]
        assert answer == ("words" if wording.is_text else f"{wording.answer_format} `{wording.routing_token}`")
        assert wording.is_text or set(targets.replace(" (without extent)", "").split(", ")) == spec.targets
        assert set(predictions.split(", ")) == spec.predictions
        assert headline == spec.headline
        judge = METRICS.get(metrics.split("`")[1])
        assert judge.default_prefix == headline.partition("/")[0]
        assert judge.needs <= spec.predictions
        assert config == "none yet" or (ROOT / config.strip("`")).is_file()
    assert [row[0] for row in rows_of(page.rpartition("| --- |")[2])[1:]] == [row[0] for row in table]

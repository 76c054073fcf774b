"""What the README shows is what lies in the repository."""

import importlib.util
import re
import shutil
from pathlib import Path

import pytest
import torch
from helpers import make_images, make_sample
from lmm import zoo
from mmengine.registry import DefaultScope

from lumen.engine.check_config import load_config
from lumen.lmm.families import FAMILIES
from lumen.lmm.meta import outline_config
from lumen.prompts import KNOWN_TASKS
from lumen.registry import DECODERS, METRICS, MODELS
from lumen.structures import Prompt

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


def test_the_snippet_that_brings_an_lmm_builds_and_learns(tmp_path):
    snippet = README.partition("**Bring your own LMM**")[2].partition("```python\n")[2].partition("```")[0]
    folder = tmp_path / "smolvlm"
    folder.mkdir()
    zoo.save("smolvlm", folder)
    (tmp_path / "configs").mkdir()
    for part in ("_base_", "detection"):
        shutil.copytree(ROOT / "configs" / part, tmp_path / "configs" / part)
    path = tmp_path / "configs" / "detection" / "mine.py"
    path.write_text(snippet.replace("HuggingFaceTB/SmolVLM-Instruct", str(folder)))
    config = load_config(path, {}, tool_root=tmp_path)
    frames = [config[name].dataset.pipeline[1] for name in ("train_dataloader", "val_dataloader", "test_dataloader")]
    assert [tuple(frame["input_hw"]) for frame in frames] == [(378, 378)] * 3
    assert outline_config("HuggingFaceTB/SmolVLM-Instruct").vision_config.image_size // 42 * 42 == 378
    torch.manual_seed(0)
    with DefaultScope.overwrite_default_scope("lumen"):
        model = MODELS.build(config.model)
    size_hw = model.lmm.input_spec.fixed_hw  # the tiny one takes smaller pictures
    images, sample = make_images(1, size_hw), make_sample([Prompt("cat"), Prompt("dog")], [[2, 2, 12, 12]], [0])
    losses = model(images, [sample], mode="loss")
    sum(losses.values()).backward()
    assert all(loss.isfinite() for loss in losses.values())


def test_every_family_has_a_name_in_the_readme():
    text = re.sub("[^a-z0-9]", "", README.partition("Known are")[2].partition("for another one")[0].lower())
    kinds = {key.partition("/")[0].removeprefix("llava_").replace("_", "") for key in FAMILIES}
    assert [kind for kind in sorted(kinds) if kind not in text] == []


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

import argparse
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.structures import InstanceData
from pages import load_tool, run
from transformers import PreTrainedTokenizerFast

from lumen.data.mixture import MixedDataset
from lumen.errors import CheckpointError, ConfigError, DataError
from lumen.structures import PerceptionSample, Prompt

ROOT = Path(__file__).resolve().parents[2]
TOOLS = ("compare.py", "browse_dataset.py", "inspect_misses.py", "list_decoders.py", "export.py")
TOOLS_ALONE = ("infer.py", "benchmarks/predict_startup.py", "benchmarks/coco_metric.py")


def _run(name, *words, cwd):
    # Without PYTHONPATH: a tool must find the package from any folder.
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"} | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(ROOT / "tools" / name), *words]
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True)


@pytest.mark.parametrize("name", TOOLS)
def test_help_shows_examples(name, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert run([f"tools/{name}", "--help"], monkeypatch) == 0
    assert f"python tools/{name}" in capsys.readouterr().out


@pytest.mark.parametrize("name", TOOLS_ALONE)
def test_help_shows_examples_from_any_folder(name, tmp_path):
    done = _run(name, "--help", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert f"python tools/{name}" in done.stdout


def test_the_table_of_decoders_names_each():
    list_decoders = load_tool("list_decoders")
    rows = list_decoders.decoder_rows()
    assert ("detection", "DetectionDecoder") in [row[:2] for row in rows]
    table = list_decoders.markdown(rows).splitlines()
    assert len(table) == 2 + len(rows)
    assert {line.count("|") for line in table} == {len(list_decoders.COLUMNS) + 1}


def test_infer_says_in_one_line_what_is_missing(tmp_path):
    done = _run("infer.py", "gone.py", "gone.pth", "gone.jpg", "--phrases", "star", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr == "error: there is no image 'gone.jpg'\n"


def _packed(num_objects):
    sample = PerceptionSample(
        gt_instances=InstanceData(
            bboxes=torch.tensor([[8.0, 8.0, 24.0, 24.0], [32.0, 40.0, 48.0, 56.0]])[:num_objects],
            prompt_index=torch.tensor([0, 2])[:num_objects],
        ),
        ignored_instances=InstanceData(bboxes=torch.zeros(0, 4), prompt_index=torch.zeros(0, dtype=torch.long)),
    )
    prompts = tuple(Prompt(text) for text in ("a", "b", "c"))
    sample.set_metainfo({"prompts": prompts, "img_shape": (64, 64), "img_id": 7, "img_path": "x/y.png"})
    return {"inputs": torch.zeros(3, 64, 64, dtype=torch.uint8), "data_samples": sample}


@pytest.mark.parametrize("num_objects", [0, 2])
@pytest.mark.parametrize("target", ["centernet", "ttfnet"])
def test_a_sample_is_drawn_with_its_target(num_objects, target):
    browse = load_tool("browse_dataset")
    packed = _packed(num_objects)
    heat = browse.target_heat(packed["data_samples"], target, 8)
    assert heat.shape == (64, 64)
    # The first box has its centre at (16, 16): the corner of cell (2, 2), which covers pixels 16 to 24.
    assert (heat[16:24, 16:24] == float(num_objects > 0)).all()
    assert browse.draw_sample(packed, target, 8).shape[2] == 3


def test_samples_are_spread_over_the_data_set():
    browse = load_tool("browse_dataset")
    assert browse.chosen_indices(100, 3, None) == [0, 49, 99]
    assert browse.chosen_indices(2, 12, None) == [0, 1]
    assert browse.chosen_indices(100, 3, [5, 4]) == [5, 4]
    with pytest.raises(DataError, match="no sample 100"):
        browse.chosen_indices(100, 3, [100])
    with pytest.raises(ConfigError, match="no test_dataloader"):
        browse.build_dataset({}, "test")


class _Numbers(torch.utils.data.Dataset):
    """A data set of numbers."""

    def __init__(self, size):
        self._size = size

    def __len__(self):
        return self._size

    def __getitem__(self, index):
        return index


def test_a_mixture_is_shown_set_by_set():
    browse = load_tool("browse_dataset")
    mixture = MixedDataset([_Numbers(100), _Numbers(3)])
    assert browse.spread_indices(mixture, 4) == [0, 99, 100, 102]
    assert browse.spread_indices(_Numbers(9), 2) == [0, 8]


def test_masks_points_and_answers_of_a_sample_are_drawn():
    browse = load_tool("browse_dataset")
    packed = _packed(2)
    plain = browse.draw_sample(packed, "ttfnet", 8)
    targets = packed["data_samples"].gt_instances
    targets.masks = torch.zeros(2, 64, 64, dtype=torch.bool)
    targets.masks[:, 8:24, 8:24] = True
    assert not np.array_equal(browse.draw_sample(packed, "ttfnet", 8), plain)
    targets.bboxes[:, 2:] = targets.bboxes[:, :2]
    assert browse.draw_sample(packed, "ttfnet", 8).shape[2] == 3
    empty = {"bboxes": torch.zeros(0, 4), "prompt_index": torch.zeros(0, dtype=torch.long)}
    packed["data_samples"].gt_instances = InstanceData(**empty)
    packed["data_samples"].set_metainfo({"prompts": (Prompt("what is it?", "vqa", answer="a star"),)})
    with_text = browse.draw_sample(packed, "ttfnet", 8)
    assert with_text.shape[1] < plain.shape[1], "no panel for a heatmap"


def test_a_failing_command_stops_the_benchmark():
    startup = load_tool("benchmarks/predict_startup")
    wall, cpu = startup.seconds_of([sys.executable, "-c", "pass"])
    assert wall > 0 and cpu >= -1e-9  # sums of clock ticks, rounded
    with pytest.raises(SystemExit, match="failed"):
        startup.seconds_of([sys.executable, "-c", "raise SystemExit(1)"])


def _nano_options(out):
    return argparse.Namespace(
        tower="nano", out=out, width=32, llm_layers=1, vision_layers=1, tied=False, seeing=False, seed=0
    )


def test_a_nano_model_appears_complete_and_is_replaced_by_another(tmp_path, monkeypatch):
    make_nano = load_tool("make_nano")
    options = _nano_options(tmp_path / "data" / "nano")
    make_nano.main(options)
    names = {path.name for path in options.out.iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= names
    before = (options.out / "config.json").read_bytes()

    def fail(*_):
        raise OSError("disk full")

    options.width = 64
    monkeypatch.setattr(PreTrainedTokenizerFast, "save_pretrained", fail)  # after the weights are written
    with pytest.raises(CheckpointError, match=r"cannot be written \(OSError: disk full"):
        make_nano.main(options)
    monkeypatch.undo()
    assert (options.out / "config.json").read_bytes() == before
    make_nano.main(options)
    assert (options.out / "config.json").read_bytes() != before
    assert {path.name for path in options.out.iterdir()} == names
    assert [path.name for path in options.out.parent.iterdir()] == ["nano"]


def test_a_folder_with_other_files_is_not_replaced_by_a_nano_model(tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(SystemExit, match=r"holds \['thesis.txt'\]"):
        load_tool("make_nano").main(_nano_options(tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]

"""The plug-in that docs/add_a_task.md builds: its data set, its decoder, its metric, and the page itself."""

import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import make_sample, make_shared
from mmengine.structures import InstanceData

from lumen.data.shapes import COLOURS as SHAPES_COLOURS
from lumen.data.transforms import AskClasses, ResizeToInput
from lumen.engine.check_config import load_config
from lumen.structures import Prompt

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "projects" / "colour_naming"
sys.path.append(str(FOLDER))  # as the tools do for the folder of a config

from colour_decoder import COLOURS, ColourAccuracy, ColourDataset, ColourNamingDecoder  # noqa: E402


@pytest.fixture
def ann_file(tmp_path):
    """Return a file with three annotations, the second of which has no area and is skipped."""
    rows = [("red", [10, 10, 20, 20]), ("blue", [0, 0, 0, 5]), ("green", [40, 40, 10, 10])]
    content = {
        "images": [{"id": 1, "file_name": "a.jpg", "width": 80, "height": 80}],
        "categories": [{"id": 1, "name": "star"}],
        "annotations": [
            {"id": number, "image_id": 1, "category_id": 1, "bbox": box, "area": 1, "iscrowd": 0, "colour": colour}
            for number, (colour, box) in enumerate(rows, 5)
        ],
    }
    (tmp_path / "a.json").write_text(json.dumps(content))
    return tmp_path / "a.json"


def test_the_words_are_those_of_shapes():
    assert set(COLOURS) == set(SHAPES_COLOURS)


def record_of(ann_file):
    dataset = ColourDataset(ann_file=str(ann_file), skip_budget=1.0)
    image = np.zeros((80, 80, 3), np.uint8)
    return {**dataset.get_data_info(0), "classes": ("star",), "fields": dataset.fields, "image": image}


def test_colours_stay_with_their_objects(ann_file):
    record = record_of(ann_file)
    assert [COLOURS[colour] for colour in record["instances"]["colours"]] == ["red", "green"]
    asked = AskClasses(num_prompts=None)(ResizeToInput(input_hw=(40, 40), flip_probability=1.0)(record))
    assert [COLOURS[colour] for colour in asked["gt_instances"]["colours"].tolist()] == ["red", "green"]
    assert asked["ignored_instances"]["colours"].shape == (0,)


def test_the_colour_is_read_where_the_object_is():
    torch.manual_seed(0)
    decoder = ColourNamingDecoder(32).eval()
    with torch.no_grad():
        decoder.colour.weight.copy_(torch.eye(8, 32) * 5)
        decoder.colour.bias.zero_()
    shared = make_shared((0,), (0,))
    with torch.no_grad():
        shared.dense[0, 3, 1, 2] = 1  # green, in the cell that covers x 32 to 48, y 16 to 32
        shared.heat_logits[0, 0, 1, 2] = 4
    sample = make_sample([Prompt("star", "colour_naming", label=0)], [[30, 14, 50, 34]], [0])
    sample.gt_instances.colours = torch.tensor([3])
    answer = decoder.predict(shared, [sample])[0]
    assert answer.colours.tolist() == [3] and answer.prompt_index.tolist() == [0]
    losses = decoder.loss(shared, [sample])
    # one logit of 5 among seven zeros: log(e^5 + 7) - 5
    assert losses["loss_colour"].item() == pytest.approx(0.0461, abs=1e-3)


def test_the_metric_counts_objects_that_are_found_and_named():
    """Of four objects one is right, one has another colour, one is found for another prompt only, one is missed."""
    sample = make_sample(["star", "ring"], [[0, 0, 10, 10], [20, 0, 30, 10], [40, 0, 50, 10], [60, 0, 70, 10]], [0] * 4)
    sample.gt_instances.colours = torch.tensor([3, 3, 3, 1])
    sample.pred_instances = InstanceData(
        bboxes=torch.tensor([[0.0, 0, 10, 9], [0, 0, 10, 10], [20, 0, 30, 10], [40, 0, 50, 10]]),
        colours=torch.tensor([3, 5, 2, 3]),
        scores=torch.tensor([0.9, 0.8, 0.7, 0.6]),
        prompt_index=torch.tensor([0, 0, 0, 1]),
    )
    metric = ColourAccuracy()
    metric.process(None, [sample.to_dict()])
    assert metric.evaluate(1) == {
        "colour_naming/accuracy": 0.25,
        "colour_naming/found": 0.5,
        "colour_naming/blind": 0.75,
    }
    assert metric.needs <= ColourNamingDecoder.spec.predictions


def test_nothing_found_and_nothing_there():
    metric = ColourAccuracy()
    empty = InstanceData(
        bboxes=torch.zeros(0, 4), colours=torch.zeros(0, dtype=torch.long), scores=torch.zeros(0),
        prompt_index=torch.zeros(0, dtype=torch.long),
    )  # fmt: skip
    sample = make_sample(["star"], [[0, 0, 10, 10]], [0])
    sample.gt_instances.colours, sample.pred_instances = torch.tensor([3]), empty
    metric.process(None, [sample.to_dict()])
    assert metric.evaluate(1)["colour_naming/accuracy"] == 0
    assert metric.compute_metrics([])["accuracy"] == -1


def test_the_config_fits_and_is_the_one_of_the_page():
    config = load_config(FOLDER / "colour_nano_shapes.py", tool_root=ROOT)
    assert config.train_dataloader.dataset.type.fields == ColourNamingDecoder.spec.fields
    page = (ROOT / "docs" / "add_a_task.md").read_text()
    lines = (FOLDER / "colour_nano_shapes.py").read_text().replace("from ...configs._base_", "from ._base_")
    code = [line for line in lines.split('"""')[2].strip().splitlines() if not line.startswith("#")]
    assert "\n".join(code) in page


def test_the_code_of_the_page_is_that_of_the_plug_in():
    page = (ROOT / "docs" / "add_a_task.md").read_text()
    source = (FOLDER / "colour_decoder.py").read_text()
    shown = [
        line.strip() for block in re.findall(r"```python\n(@DATASETS.*?)```", page, re.S) for line in block.splitlines()
    ]
    missing = [line.partition("  #")[0] for line in shown if line and line.partition("  #")[0] not in source]
    assert shown and missing == []

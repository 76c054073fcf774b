import json

import numpy as np
import pytest
import torch
from PIL import Image

pytest.importorskip("mmdet")

# mmcv names a class that has moved; mmdet builds its point grids without naming the order of axes.
pytestmark = [
    pytest.mark.filterwarnings("ignore::ImportWarning"),
    pytest.mark.filterwarnings("ignore:torch.meshgrid:UserWarning"),
]


@pytest.fixture
def arguments(load_benchmark, tmp_path, monkeypatch):
    random = np.random.default_rng(0)
    content = {"images": [], "annotations": [], "categories": [{"id": 3, "name": "dark"}, {"id": 5, "name": "light"}]}
    for number in range(1, 11):
        pixels = random.integers(100, 140, (64, 64, 3), dtype=np.uint8)
        pixels[16:48, 8:40] = 255 * (number % 2)
        Image.fromarray(pixels).save(tmp_path / f"{number}.png")
        content["images"].append({"id": number, "file_name": f"{number}.png", "height": 64, "width": 64})
        box = {"id": number, "image_id": number, "bbox": [8, 16, 32, 32], "area": 1024, "iscrowd": 0}
        content["annotations"].append({**box, "category_id": 5 if number % 2 else 3})
    (tmp_path / "boxes.json").write_text(json.dumps(content))
    bench = load_benchmark("difficulty")
    monkeypatch.setattr(bench, "CALIBRATION", 2)
    files = ["--data", str(tmp_path), "--ann-file", "boxes.json", "--images", "."]
    return bench.parse_arguments([*files, "--input-hw", "64", "64", "--batch", "4"])


def test_training_steps_start_gently_and_move_the_average(load_benchmark, arguments):
    bench = load_benchmark("difficulty")
    data = bench.open_data(arguments, "train")
    trainer = bench.Specialist(data.metainfo["classes"], seed=0)
    before = [tensor.clone() for tensor in trainer.averaged.parameters()]
    records = [data[index] for index in range(4)]
    losses = [trainer.step(records, lr=1e-3, clip=35, decay=0.998).item() for _ in range(2)]
    assert max(losses) < 20  # thousands where mmdet's initialisation was left out
    assert sum(not torch.equal(old, new) for old, new in zip(before, trainer.averaged.parameters(), strict=True)) > 100


def test_the_plan_grows_with_the_budget(load_benchmark, arguments):
    plan = load_benchmark("difficulty").calibrate(arguments)
    assert 1 <= plan(0.001) <= plan(10) < plan(100)


def test_training_and_evaluation_run_to_the_end(load_benchmark, arguments):
    bench = load_benchmark("difficulty")
    network, seconds = bench.train(arguments, 3)
    assert seconds > 0
    assert set(bench.FIGURES.values()) <= set(bench.evaluate(arguments, network, "val"))

import json

import numpy as np
import pytest
from mmengine.dataset import DefaultSampler, pseudo_collate
from PIL import Image
from toy import make_runner

from lumen.data.coco import CocoDataset
from lumen.data.transforms import AskClasses, LoadImage, PackSample, ResizeToInput
from lumen.metrics.calibration import CalibrationMetric
from lumen.metrics.coco.metric import CocoMetric


def write_set(root):
    """Write three images with a cat each, and the class dog, which is nowhere."""
    images, annotations = [], []
    for number in range(1, 4):
        Image.new("RGB", (96, 64)).save(root / f"{number}.png")
        images.append({"id": number, "file_name": f"{number}.png", "width": 96, "height": 64})
        box = {"bbox": [8.0, 8.0, 30.0, 20.0], "area": 600.0, "iscrowd": 0}
        annotations.append({"id": number, "image_id": number, "category_id": 1, **box})
    categories = [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}]
    (root / "a.json").write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories}))


@pytest.fixture
def runner(tmp_path, tiny_lumen):
    write_set(tmp_path)
    pipeline = [
        LoadImage(),
        ResizeToInput(input_hw=(64, 96)),
        AskClasses(num_prompts=None, shuffle=False),
        PackSample(),
    ]
    loader = {
        "dataset": CocoDataset(ann_file="a.json", data_root=str(tmp_path), pipeline=pipeline, test_mode=True),
        "sampler": {"type": DefaultSampler, "shuffle": False},
        "collate_fn": {"type": pseudo_collate},
        "batch_size": 2,
        "num_workers": 0,
    }
    evaluator = [{"type": CocoMetric}, {"type": CalibrationMetric}]
    return make_runner(
        tmp_path / "work",
        model=tiny_lumen,
        test_dataloader=loader,
        test_evaluator=evaluator,
        test_cfg={"dtype": "float32", "foreign_names": 3},
        randomness={"seed": 0},
    )


def test_a_test_writes_what_its_figures_depend_on(tmp_path, runner):
    figures = runner.test()
    card = json.loads((tmp_path / "work" / "protocol_test.json").read_text())
    assert card["figures"] == figures
    assert figures["foreign/names"] == 3 and 0 <= figures["foreign/false_alarms"] <= 1
    assert card["dataset"].endswith("a.json")
    assert (card["num_images"], card["prompts_per_image"]) == (3, 2)
    assert (card["answer_mode"], card["template"], card["dtype"], card["boxes"]) == (
        "forced",
        "compact",
        "float32",
        "not used",
    )
    assert set(card["written_answers"].values()) == {0}
    assert {"asked", "lacked_loc", "misnamed", "unparsed"} <= set(card["written_answers"])
    assert card["heatmap_stride"] == 8
    assert card["lmm_passes_per_image"] == 1
    assert card["ms_per_image"] > 0
    assert card["peak_memory_mb"] > 0
    assert card["metrics"]["CocoMetric"]["backend"] == "numpy"
    assert card["metrics"]["CalibrationMetric"]["num_bins"] == 20


def test_a_second_test_counts_afresh(tmp_path, runner):
    runner.test()
    first = json.loads((tmp_path / "work" / "protocol_test.json").read_text())
    runner.test()
    second = json.loads((tmp_path / "work" / "protocol_test.json").read_text())
    assert second["lmm_tokens_per_image"] == first["lmm_tokens_per_image"] > 24  # 6 x 4 image tokens and the words


def test_a_model_that_is_no_lumen_has_a_card_with_gaps(tmp_path):
    runner = make_runner(tmp_path, val=True, val_cfg={"dtype": "bfloat16"})
    figures = runner.val()
    card = json.loads((tmp_path / "protocol_val.json").read_text())
    assert card["figures"] == {"toy/mean": np.float64(figures["toy/mean"]).item()}
    assert (card["template"], card["lmm_passes_per_image"], card["dtype"]) == (None, None, "bfloat16")
    assert card["checkpoint"] == "none"

"""``lumen predict --lmm``: an LMM as it is, with random weights; and a tiny one that has learned to write a box."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.optim import OptimWrapper
from pages import load_tool
from PIL import Image
from typer.testing import CliRunner

from lumen import cli
from lumen.aligners.none import NoAligner
from lumen.data.coco import CocoDataset
from lumen.data.transforms import AskClasses, LoadImage, PackSample, ResizeToInput
from lumen.data.written import WriteAnswers
from lumen.decoders.text_box import TextBoxDecoder
from lumen.engine.tool import run_tool
from lumen.errors import ConfigError
from lumen.inference.bare import bare_predictor
from lumen.inference.predictor import LumenPredictor
from lumen.lmm.adapter import HFAdapter
from lumen.model import Lumen

ROOT = Path(__file__).resolve().parents[2]
FEW = ["--max-new-tokens", "6", "--max-pixels", "1024"]


@pytest.fixture
def photo(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)).save("photo.png")
    return tmp_path


def make_coco(folder):
    """Write three pictures, each with one box that is a quarter of it."""
    folder.mkdir()
    images = [{"id": number, "file_name": f"{number}.png", "width": 96, "height": 64} for number in range(3)]
    for image in images:
        pixels = np.random.default_rng(image["id"]).integers(0, 256, (64, 96, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / image["file_name"])
    boxes = [
        {"id": at + 1, "image_id": at, "category_id": 1, "bbox": [24, 16, 48, 32], "area": 1536, "iscrowd": 0}
        for at in range(3)
    ]
    categories = [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}]
    content = {"images": images, "annotations": boxes, "categories": categories}
    (folder / "ann.json").write_text(json.dumps(content))
    return folder


@pytest.mark.parametrize(
    ("family", "options", "score"),
    [
        ("qwen2_5_vl", (), "of the tokens of the coordinates"),
        ("paligemma", (), "of the tokens of the name"),
        ("llava", ("--dialect", "decimals"), "of the tokens of the coordinates"),
    ],
)
def test_predict_asks_a_bare_lmm_and_says_what_it_could_not_read(photo, repositories, family, options, score):
    words = ["predict", "photo.png", "dog", "red cup", "--lmm", repositories(family), *options, *FEW]
    done = CliRunner().invoke(cli.app, words, catch_exceptions=False)
    assert done.exit_code == 0
    assert "unparsed" in done.output
    report = json.loads((photo / "out" / "photo.json").read_text())
    assert report["task"] == "written_boxes"
    assert report["phrases"] == ["dog", "red cup"]
    assert report["unparsed"] >= 1 or report["bboxes_xyxy"]
    assert score in report["model"]["scores"]
    assert (photo / "out" / "photo.png").is_file()


def test_an_lmm_without_a_dialect_is_refused_before_it_is_loaded(photo, repositories, monkeypatch):
    monkeypatch.setattr(HFAdapter, "__init__", None)
    with pytest.raises(ConfigError, match=r"'llava' cannot be asked for boxes as it is: .*Train a decoder"):
        bare_predictor(repositories("llava"))


def test_the_bare_lmm_is_judged_by_coco_ap(tmp_path, repositories, monkeypatch):
    monkeypatch.setattr(sys, "path", [*sys.path])
    tool = load_tool("test")
    settings = [
        f"_lmm.name_or_path={repositories('qwen2_5_vl')}",
        "_lmm.base.dtype=float32",
        "_lmm.generation.max_new_tokens=4",
        "model.max_pixels=1024",
        f"test_dataloader.dataset.data_root={make_coco(tmp_path / 'coco')}",
        "test_dataloader.dataset.ann_file=ann.json",
        "test_dataloader.dataset.data_prefix.img=",
        "test_dataloader.num_workers=0",
        "test_cfg.dtype=float32",
    ]
    words = ["test.py", str(ROOT / "configs" / "zero_shot" / "detection_coco.py"), "--work-dir", str(tmp_path / "run")]
    monkeypatch.setattr(
        sys, "argv", [*words, "--debug", "--out", str(tmp_path / "out.json"), "--cfg-options", *settings]
    )
    run_tool(tool.main, tool.parse_options())
    assert json.loads((tmp_path / "out.json").read_text())["coco/bbox_mAP"] >= 0
    card = json.loads((tmp_path / "run" / "protocol_test.json").read_text())
    assert card["dialect"].startswith("qwen2_5_vl; score: mean probability")
    assert card["written_answers"]["questions"] == 3
    assert card["checkpoint"] == "none"


def test_only_a_config_without_trained_parts_needs_no_checkpoint(monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "path", [*sys.path])
    tool = load_tool("test")
    config = str(ROOT / "configs" / "detection" / "detection_nano_shapes.py")
    monkeypatch.setattr(sys, "argv", ["test.py", config, "--work-dir", str(tmp_path)])
    with pytest.raises(ConfigError, match="name a checkpoint"):
        tool.main(tool.parse_options())


def test_a_tiny_lmm_learns_to_write_a_box(tmp_path, tiny_nano):
    """From a COCO file through the transforms and the text loss; then the box comes back through the predictor."""
    torch.manual_seed(0)
    np.random.seed(0)
    adapter = HFAdapter(str(tiny_nano), generation={"dialect": "decimals", "max_new_tokens": 40})
    model = Lumen(adapter, {"type": NoAligner}, [{"type": TextBoxDecoder}], input_hw=(64, 96)).train()
    folder = make_coco(tmp_path / "coco")
    pipeline = [
        LoadImage(),
        ResizeToInput(input_hw=(64, 96)),
        AskClasses(num_prompts=None, task="written_boxes", shuffle=False),
        WriteAnswers(codec={"style": "decimals", "digits": 3}),
        PackSample(),
    ]
    dataset = CocoDataset(data_root=str(folder), ann_file="ann.json", data_prefix={"img": ""}, pipeline=pipeline)
    sample = dataset[0]
    assert [prompt.answer for prompt in sample["data_samples"].prompts] == ["0.250,0.250,0.750,0.750", "none"]
    wrapper = OptimWrapper(torch.optim.AdamW(model.parameters(), lr=1e-2))
    batch = {"inputs": [sample["inputs"]], "data_samples": [sample["data_samples"]]}
    for _ in range(100):
        loss = float(model.train_step(batch, wrapper)["loss"])
        if loss < 0.01:
            break
    assert loss < 0.05
    predictor = LumenPredictor(model, input_hw=(64, 96))
    predictor.set_image(str(folder / "0.png"))
    found = predictor.predict(["dog", "cat"], task="written_boxes")
    assert found.phrases == ["cat"]
    torch.testing.assert_close(found.bboxes, torch.tensor([[24.0, 16.0, 72.0, 48.0]]), atol=0.1, rtol=0)
    assert float(found.scores) > 0.9
    assert adapter.answer_report.unparsed == 0

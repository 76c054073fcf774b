"""The configs for pretrained LMMs, as they are, through ``tools/train.py`` on tiny models of the real families."""

import shutil
import sys
from pathlib import Path

import pytest
import torch
from own_data import make_mine
from pages import load_tool, snippet
from real_layouts import make_all
from test_sam import tiny_sam

from lumen.engine.tool import run_tool
from lumen.serialization.checkpoint import load_checkpoint

ROOT = Path(__file__).resolve().parents[2]
PHOTO = "detection_photo_"  # a base that is trained whole, from scratch but for its tower
FINETUNE = sorted(path for path in ROOT.glob("configs/finetune/*.py") if not path.stem.startswith(PHOTO))
SMALL = ("train_cfg.max_iters=2", "train_dataloader.batch_size=2")


@pytest.fixture
def train(monkeypatch, tmp_path):
    """Return a function that runs ``tools/train.py`` here and returns the checkpoint that it wrote last."""
    monkeypatch.setattr(sys, "path", [*sys.path])
    tool = load_tool("train")

    def run(config, *overrides, data, options=()):
        monkeypatch.setenv("LUMEN_DATA", str(data))
        arguments = [str(config), "--work-dir", str(tmp_path / "run"), "--debug", *options]
        monkeypatch.setattr(sys, "argv", ["train.py", *arguments, "--cfg-options", *SMALL, *overrides])
        run_tool(tool.main, tool.parse_options())
        return load_checkpoint(tmp_path / "run" / "iter_2.pth")

    return run


@pytest.mark.parametrize("path", FINETUNE, ids=lambda path: path.stem)
def test_a_config_for_pretrained_models_trains(path, train, repositories, tmp_path):
    data = make_mine(tmp_path / "data", pose=path.stem == "pose")
    family = {"detection": "smolvlm", "segmentation": "qwen3_vl", "pose": "llava"}.get(path.stem, "llava_siglip")
    options = ["val_dataloader.num_workers=0", "model.max_pixels=1024"]
    stored = train(path, f"model.lmm.name_or_path={repositories(family)}", *options, data=data)
    names = set(stored["raw_state_dict"])
    assert any("lora_A" in name for name in names) and "lmm.new_tokens.rows" in names
    trained = {name.partition(".lora_")[0] for name in names if name.startswith("lmm.base_model.")}
    assert all(name.endswith("_proj") for name in trained)
    for state in (stored["state_dict"], stored["raw_state_dict"]):
        assert all(value.dtype == torch.float32 for value in state.values() if value.is_floating_point())


def test_the_snippet_of_the_readme_trains(train, repositories, tmp_path):
    shown = snippet((ROOT / "README.md").read_text(encoding="utf-8"), "Your LMM")
    shutil.copytree(ROOT / "configs", tmp_path / "configs")
    mine = tmp_path / "configs/finetune/mine.py"
    mine.write_text(shown.replace("HuggingFaceTB/SmolVLM-Instruct", repositories("smolvlm")))
    stored = train(mine, data=make_mine(tmp_path / "data"))
    assert stored["meta"]["iter"] == 2


PAPER = {"train_dataloader.num_workers": "2", "model.max_pixels": "1024"}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["qwen3_vl", "smolvlm"])
def test_the_recipe_of_the_paper_trains_with_another_model(name, train, repositories, tmp_path):
    (path,) = ROOT.glob(f"configs/lumen_paper/alignment_{name.replace('_', '')}*.py")
    options = [f"model.lmm.name_or_path={repositories(name)}", *as_text(PAPER)]
    stored = train(path, *options, data=make_all(tmp_path / "data"))
    assert stored["raw_state_dict" if "raw_state_dict" in stored else "state_dict"]


@pytest.mark.slow
def test_the_stages_of_the_paper_follow_each_other(train, repositories, tmp_path):
    data, folder = make_all(tmp_path / "data"), ROOT / "configs/lumen_paper"
    tiny_sam().save_pretrained(tmp_path / "sam")
    options = [f"model.lmm.name_or_path={repositories('llava')}", "model.lmm.readout.dense_hw=[32,32]", *as_text(PAPER)]
    first = train(folder / "alignment_llava7b_paper_50k.py", *options, data=data)["state_dict"]
    assert first["lmm.base_model.lm_head.weight"].dtype == torch.float32
    (tmp_path / "run").rename(tmp_path / "first")
    options.append(f"load_from.checkpoint={tmp_path}/first/iter_2.pth")
    second = train(folder / "alignment_vqa_llava7b_paper_10k.py", *options, data=data)["state_dict"]
    assert not torch.equal(second["lmm.base_model.lm_head.weight"], first["lmm.base_model.lm_head.weight"])
    (tmp_path / "run").rename(tmp_path / "second")
    options[-1] = f"load_from.checkpoint={tmp_path}/second/iter_2.pth"
    options += [f"model.decoders.{number}.sam.name_or_path={tmp_path}/sam" for number in (3, 4)]
    options += ["val_dataloader.num_workers=0", "test_dataloader.num_workers=0"]
    third = train(folder / "decoding_llava7b_paper.py", *options, data=data)["state_dict"]
    for name, value in second.items():
        if name.startswith(("aligner.", "lmm.new_tokens.")):
            assert torch.equal(third[name], value)


def as_text(settings):
    return [f"{key}={value}" for key, value in settings.items()]

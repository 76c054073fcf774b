"""``lumen train`` from a folder of pictures to an AP, in an empty folder, with a tiny model."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from pages import run
from tuning_cases import coco_content, write_photos

from lumen.data.shapes import make_shapes
from lumen.engine.cost import GPUS
from lumen.errors import ConfigError, DataError
from lumen.serialization.checkpoint import load_checkpoint
from lumen.tuning import start
from lumen.tuning.recipe import load

FEW = ("--iters", "2", "--cfg-options", "val_dataloader.batch_size=2", "--cfg-options", "_ask.num_negatives=1")


@pytest.fixture
def lumen(photos, tmp_path, monkeypatch, capsys):
    """Return a function that runs ``lumen`` in an empty folder and gives its exit status, output and errors."""
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")

    def lumen(*words):
        status = run(["lumen", *map(str, words)], monkeypatch)
        return status, *capsys.readouterr()

    return lumen


def test_one_command_trains_and_prints_an_ap(lumen, photos, tiny_seeing, tmp_path):
    status, out, err = lumen("train", "--data", photos, "--lmm", tiny_seeing, *FEW)
    assert status == 0, err
    assert "train: 8 images, 8 with objects, 8 objects" in out and "parameters are trained" in out
    work = tmp_path / "empty/work_dirs/photos_detection"
    figures = json.loads((work / "protocol_val.json").read_text())["figures"]
    assert f"AP {figures['coco/bbox_mAP']:.3f}  (coco/bbox_mAP, validation)" in out
    # The config stays as it was written; with all that it inherits it lies beside it.
    assert len((work / "config.py").read_text().splitlines()) < 30
    assert (work / "config_whole.py").is_file()
    assert load(work / "config_whole.py").model.lmm.name_or_path == str(tiny_seeing)

    status, _, err = lumen("train", "--data", photos, "--lmm", tiny_seeing)
    assert status == 2 and "holds a training already" in err
    status, out, err = lumen("predict", photos / "images/01.png", "cat", "--model", work, "--out", "out")
    assert status == 0, err

    # Other pictures, from where it ended, by the clock; then once more in the same folder.
    status, out, err = lumen("train", "--data", photos, "--lmm", work, "--out", "more", "--minutes", "0.1", "--dry-run")
    assert status == 0, err
    config = load(tmp_path / "empty/more/config.py")
    assert config.load_from == str(work / "iter_2.pth") and config.train_cfg.max_iters >= 1
    text = (tmp_path / "empty/more/config.py").read_text()
    text = text.replace(f"max_iters={config.train_cfg.max_iters}", "max_iters=1")
    (tmp_path / "empty/more/config.py").write_text(text)
    status, out, err = lumen("train", "--resume", "--out", "more")
    assert status == 0 and "AP " in out, err
    assert load_checkpoint(tmp_path / "empty/more/iter_1.pth")["meta"]["iter"] == 1
    status, _, err = lumen("train", "--data", photos, "--lmm", work, "--out", "pose", "--task", "counting")
    assert status == 2 and "trains detection, and --task is counting" in err


@pytest.mark.parametrize("task", ["segmentation", "counting"])
def test_a_plan_for_a_pretrained_lmm(task, lumen, photos, repositories, tmp_path):
    pytest.importorskip("peft")
    words = ("--lmm", repositories("smolvlm"), "--task", task, "--out", "work", "--dry-run")
    status, out, err = lumen("train", "--data", photos / "labels.json", *words)
    assert status == 0, err
    assert "lumen train --resume --out work" in out
    config = load(tmp_path / "empty/work/config.py")
    assert [decoder["type"].spec.name for decoder in config.model.decoders] == [task]
    assert config.model.lmm.base.lora and config.train_cfg.max_iters == 500
    assert not list((tmp_path / "empty/work").glob("*.pth"))


def test_what_is_refused_leaves_nothing_behind(lumen, photos, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    write_photos(tmp_path / "one/images", range(1))
    (tmp_path / "one/a.json").write_text(json.dumps(coco_content(range(1))))
    refused = {
        ("--data", photos, "--lmm", "nobody/nothing"): "the base model 'nobody/nothing' cannot be read",
        ("--data", photos, "--task", "vqa"): "has no recipe for --task vqa",
        ("--data", tmp_path / "one"): "none can be held out",
        ("--data", tmp_path / "nowhere"): "there is no data",
        ("--data", photos, "--cfg-options", "modle.lmm=1"): "modle",
        ("--data", photos, "--tune", "half"): "--tune is one of",
        ("--data", photos, "--iters", "5", "--minutes", "1"): "--iters or --minutes",
        ("--resume",): "--resume takes --out",
        ("--resume", "--out", "work", "--iters", "9"): "its config is run as it is; leave out: iters",
        ("--resume", "--out", "work"): "holds no config.py",
        (): "give --data",
    }
    for words, message in refused.items():
        status, _, err = lumen("train", *words)
        assert status == 2 and message in err, (words, err)
    assert list((tmp_path / "empty").rglob("*")) == []


def test_the_folder_of_another_training_stays_when_one_is_refused(lumen, photos, tmp_path, monkeypatch):
    other = tmp_path / "empty/runs/other"

    def begin_another_one(*_):
        assert (tmp_path / "empty/runs/mine").is_dir()
        other.mkdir()
        raise ConfigError("no")

    monkeypatch.setattr(start, "write_config", begin_another_one)
    assert lumen("train", "--data", photos, "--out", "runs/mine")[0] == 2
    assert other.is_dir() and not (tmp_path / "empty/runs/mine").exists()


def test_a_training_keeps_its_config_where_another_is_begun_in_its_folder(lumen, photos, tiny_seeing, tmp_path):
    (tmp_path / "empty/work").mkdir()
    (tmp_path / "empty/work/config.py").write_text("# of the training\n")
    code = (
        "import sys, pathlib; from lumen.engine.work_folder import held\n"
        "with held(pathlib.Path(sys.argv[1])): print('held', flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", code, "work"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "held\n"
        status, _, err = lumen("train", "--data", photos, "--lmm", tiny_seeing, "--out", "work", *FEW)
        other.kill()
    assert status == 2 and f"another training writes into work: process {other.pid}" in err
    assert [path.name for path in (tmp_path / "empty/work").glob("*.py")] == ["config.py"]
    assert (tmp_path / "empty/work/config.py").read_text() == "# of the training\n"


def test_an_out_folder_that_links_lead_round_in_is_refused(lumen, photos):
    Path("one").symlink_to("other")
    Path("other").symlink_to("one")
    status, _, err = lumen("train", "--data", photos, "--lmm", "nano", "--out", "one", "--dry-run")
    assert status == 2 and err.splitlines()[-1] == "error: [Errno 17] File exists: 'one'"
    with pytest.raises(DataError, match="one exists and is not a shapes data set"):
        make_shapes(Path("one"), 1, 1)


@pytest.mark.slow
def test_fifty_pictures_are_enough_for_an_ap(tmp_path):
    make_shapes(tmp_path / "shapes", 50, 1, workers=1, num_test=1)
    (tmp_path / "empty").mkdir()
    (tmp_path / "photos").mkdir()
    (tmp_path / "shapes/train").rename(tmp_path / "photos/images")
    (tmp_path / "shapes/annotations/instances_train.json").rename(tmp_path / "photos/labels.json")
    command = [sys.executable, "-m", "lumen.cli", "train", "--data", "../photos"]
    done = subprocess.run(command, cwd=tmp_path / "empty", capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("AP ")]
    assert float(line.split()[1]) > 0.1


def test_the_plan_says_when_the_rate_of_a_gpu_is_not_known(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda number: "NVIDIA H100 80GB HBM3")
    assert start._gpu_tflops() == (GPUS["h100"][0], "")
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda number: "Other Card")
    assert start._gpu_tflops() == (GPUS["a100"][0], ", an A100's: that of Other Card is not known")

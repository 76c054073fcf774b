"""Two ranks, started by ``torchrun`` on the CPU, run the tools as a user does: training, resuming, evaluation."""

import json
import os
import shutil
import subprocess
import sys
from itertools import islice
from pathlib import Path

import pytest
import torch
from real_layouts import coco_file, make_all, picture, write
from torch.utils.data import TensorDataset
from toy import make_runner

from lumen.data.mixture import MixedDataset, MixtureSampler
from lumen.engine.check_config import load_config
from lumen.engine.ddp import LumenDDP
from lumen.engine.ranks import start_cpu_ranks
from lumen.errors import ConfigError
from lumen.serialization.checkpoint import load_checkpoint

ROOT = Path(__file__).resolve().parents[2]
RANKS = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
MIXTURE = ROOT / "configs/lumen_paper/alignment_vqa_llava7b_paper_10k.py"
STEPS, PIECES = 4, 2


@pytest.fixture
def run(tmp_path):
    """Return a function that runs a tool on data below ``tmp_path / "data"``, in one process or on two ranks."""

    def call(tool, config, *arguments, options, ranks=1):
        command = [sys.executable, *(RANKS if ranks == 2 else ()), ROOT / "tools" / tool, config, *arguments]
        command += ["--debug", "--launcher", "pytorch" if ranks == 2 else "none", "--cfg-options", *options]
        environment = {**os.environ, "LUMEN_DATA": str(tmp_path / "data")}
        done = subprocess.run([*map(str, command)], env=environment, capture_output=True, text=True, timeout=600)
        assert done.returncode == 0, done.stderr[-3000:]

    return call


def make_pictures(root, number):
    """Write as many pictures in the layout of ``configs/finetune``, with an object that nearly fills each."""
    table = coco_file()
    table |= {"images": [], "annotations": []}
    for image_id in range(1, number + 1):
        picture(root / f"mine/images/{image_id}.jpg")
        content = coco_file(f"{image_id}.jpg")
        table["images"].append({**content["images"][0], "id": image_id})
        box = {"bbox": [image_id, 3, 42, 32], "area": 42 * 32, "category_id": image_id % 2 + 1}
        table["annotations"].append({**content["annotations"][0], **box, "id": image_id, "image_id": image_id})
    for part in ("train", "val"):
        write(root / f"mine/{part}.json", table)


def text_alone(weights, text_source):
    """Return, for each step and rank, whether all samples are text: one sample for each of the pieces."""
    mixture = MixedDataset([TensorDataset(torch.zeros(1))] * len(weights), weights)
    stream = islice(MixtureSampler(mixture, seed=0), STEPS * PIECES * 2)
    is_text = torch.tensor([mixture.source_of(index) == text_source for index in stream])
    return is_text.view(STEPS, PIECES, 2).all(1)


@pytest.mark.slow
@pytest.mark.parametrize("wrapper", ["LumenDDP", "FSDP2"])
def test_two_ranks_train_the_recipe_on_mixed_batches_and_resume_exactly(wrapper, run, repositories, tmp_path):
    weights = load_config(MIXTURE, tool_root=ROOT).train_dataloader.dataset.weights
    alone = text_alone(weights, text_source=len(weights) - 1)
    assert (alone[:, 0] != alone[:, 1]).any()  # a rank has text alone where the other has locations
    make_all(tmp_path / "data")
    options = [f"model.lmm.name_or_path={repositories('llava')}", "model.lmm.readout.dense_hw=[32,32]"]
    options += ["train_dataloader.batch_size=1", "train_dataloader.num_workers=2", f"train_cfg.max_iters={STEPS}"]
    options += ["default_hooks.checkpoint.interval=2", f"optim_wrapper.accumulative_counts={PIECES}"]
    options += ["load_from=none", f"model_wrapper_cfg={{'type':'{wrapper}'}}"]
    whole, part = tmp_path / "whole", tmp_path / "part"
    run("train.py", MIXTURE, "--work-dir", whole, options=options, ranks=2)
    part.mkdir()
    shutil.copy(whole / "iter_2.pth", part)
    run("train.py", MIXTURE, "--work-dir", part, "--resume", options=options, ranks=2)
    wanted, found = (load_checkpoint(folder / f"iter_{STEPS}.pth") for folder in (whole, part))
    assert wanted["meta"]["world_size"] == 2 and len(wanted["rng"]) == 2
    assert any("lora_A" in name for name in wanted["state_dict"])
    assert wanted["state_dict"]["lmm.base_model.lm_head.weight"].dtype == torch.float32
    start = load_checkpoint(whole / "iter_2.pth")["state_dict"]
    for name, value in wanted["state_dict"].items():
        assert torch.equal(found["state_dict"][name], value), name
        assert value.isfinite().all()
    assert not torch.equal(
        start["lmm.base_model.lm_head.weight"], wanted["state_dict"]["lmm.base_model.lm_head.weight"]
    )


@pytest.mark.slow
def test_two_ranks_evaluate_as_one_process(run, repositories, tmp_path):
    """Of five images the two ranks read three each: the repeated one counts once."""
    config = ROOT / "configs/finetune/detection.py"
    make_pictures(tmp_path / "data", number=5)
    options = [f"model.lmm.name_or_path={repositories('llava')}", "model.max_pixels=1024"]
    options += ["model.aligner.channels=32", "model.aligner.mlp_channels=64", "val_dataloader.num_workers=0"]
    options += [
        "model.lmm.base.dtype=float32",
        "val_dataloader.batch_size=1",
        "val_cfg.dtype=float32",
        "test_cfg.dtype=float32",
    ]
    fast = ["train_dataloader.num_workers=0", "train_dataloader.persistent_workers=False", "train_cfg.max_iters=20"]
    fast += ["param_scheduler=none", "optim_wrapper.optimizer.lr=0.01", "custom_hooks.1.decay=0.1"]
    run("train.py", config, "--work-dir", tmp_path / "run", options=[*options, *fast])
    options.append("test_dataloader.batch_size=1")
    figures = []
    for ranks in (1, 2):
        out = tmp_path / f"{ranks}.json"
        arguments = [tmp_path / "run", "--work-dir", tmp_path / "test", "--out", out]
        run("test.py", config, *arguments, options=[*options, "test_dataloader.num_workers=0"], ranks=ranks)
        figures.append(json.loads(out.read_text()))
    assert figures[0]["coco/bbox_mAP"] > 0 and figures[0]["foreign/mean_score"] > 0
    assert figures[0] == pytest.approx(figures[1], abs=1e-9)


@pytest.fixture
def one_rank(tmp_path, monkeypatch):
    """Return settings of a run of one rank, and leave its group of processes afterwards."""
    for name, value in (("RANK", "0"), ("LOCAL_RANK", "0"), ("WORLD_SIZE", "1")):
        monkeypatch.setenv(name, value)
    meet = {"init_method": f"file://{tmp_path}/meet", "rank": 0, "world_size": 1, "timeout": 60}
    yield {"launcher": "pytorch", "env_cfg": {"dist_cfg": meet}}
    torch.distributed.destroy_process_group()


@pytest.mark.filterwarnings("ignore:.broadcast_buffers. is deprecated:FutureWarning")  # older torch has no other name
def test_a_rank_without_a_gpu_is_wrapped_by_name_and_trains(one_rank, tmp_path):
    runner = make_runner(tmp_path / "run", max_iters=2, **one_rank, cfg={"model_wrapper_cfg": {"type": "LumenDDP"}})
    assert isinstance(runner.model, LumenDDP) and torch.distributed.get_backend() == "gloo"
    runner.train()
    assert len(load_checkpoint(tmp_path / "run/iter_2.pth")["rng"]) == 1
    with pytest.raises(ConfigError, match="must be LumenDDP, FSDP2 or a registered wrapper, got 'NoSuch'"):
        make_runner(tmp_path / "other", **one_rank, cfg={"model_wrapper_cfg": {"type": "NoSuch"}})


@pytest.mark.parametrize(("launcher", "settings"), [("slurm", {}), ("pytorch", {"backend": "nccl"})])
def test_ranks_that_need_a_gpu_are_refused_without_one(launcher, settings):
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    with pytest.raises(ConfigError, match="ranks on a machine without a GPU need --launcher pytorch"):
        start_cpu_ranks(launcher, settings)
    start_cpu_ranks("none", settings)

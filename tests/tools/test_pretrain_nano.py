import os
import subprocess
import sys
from pathlib import Path

import pytest
from transformers import AutoModelForImageTextToText

from lumen.data.shapes import make_shapes

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
def test_all_stages_follow_each_other_and_are_run_once(tmp_path):
    make_shapes(tmp_path / "data" / "shapes", num_train=32, num_val=1, num_test=1, workers=1)

    def pretrain():
        command = [sys.executable, ROOT / "tools" / "pretrain_nano.py", "--max-iters", "2", "--out", "nano"]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=600)
        assert done.returncode == 0, done.stderr
        return done.stdout

    pretrain()
    model = AutoModelForImageTextToText.from_pretrained(tmp_path / "nano" / "model")
    assert model.dtype.is_floating_point and model.config.untrained_parts == []
    (tmp_path / "nano" / "joint" / "iter_2.pth").unlink()
    (tmp_path / "nano" / "joint" / "last_checkpoint").unlink()
    again = pretrain()
    assert [stage for stage in ("tower", "connector", "llm", "joint") if f"{stage}: done" in again] == [
        "tower",
        "connector",
        "llm",
    ]

"""Jobs that are killed: one process at random moments, and a worker of Ray."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest

from lumen.inference.labelling.merge import merge_parts
from lumen.inference.labelling.on_ray import PartLabeller
from lumen.inference.labelling.run import Effort
from lumen.inference.labelling.start import ModelChoice, label_source
from lumen.inference.reports import Request
from lumen.inference.sources import ExportedModel

ROOT = Path(__file__).resolve().parents[3]
REQUEST = Request(("star", "red ring"), "detection", 0.0)


@pytest.mark.slow
def test_a_job_that_is_killed_loses_and_doubles_nothing(exported, photos):
    words = [sys.executable, "tools/benchmarks/label_kills.py", str(exported), str(photos), "--kills", "20"]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=3000)
    assert done.returncode == 0, done.stderr
    assert "20 kills" in done.stdout


@pytest.fixture
def local_ray(monkeypatch):
    """Start Ray with two CPUs on this machine, and stop it behind the test."""
    ray = pytest.importorskip("ray")
    patience = {"RAY_raylet_start_wait_time_s": "240", "RAY_agent_register_timeout_ms": "240000"}  # on a busy machine
    for name, value in {**patience, "RAY_AUTH_MODE": "disabled"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    try:
        ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    except Exception as error:  # Ray has errors of many kinds for processes that it cannot start
        pytest.skip(f"Ray does not start on this machine: {type(error).__name__}: {error}")
    yield ray
    ray.shutdown()


def kill_one_labeller(parts, killed):
    """Wait for the first part, then kill one of the processes that run ``PartLabeller``."""
    while not any(parts.glob("*.jsonl")):
        time.sleep(0.02)
    names = (process for process in psutil.process_iter(["cmdline"]) if process.info["cmdline"])
    workers = [process.pid for process in names if PartLabeller.__name__ in " ".join(process.info["cmdline"])]
    os.kill(workers[0], signal.SIGKILL)
    killed.append(workers)


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # Ray and pandas warn about themselves
def test_two_workers_of_ray_of_which_one_is_killed_make_what_one_process_makes(exported, photos, tmp_path, local_ray):
    choice = ModelChoice(ExportedModel(exported), "cpu")
    options = {"part_size": 1, "effort": Effort(batch_size=2, workers=1)}
    label_source((photos, None), REQUEST, choice, tmp_path / "one", **options)
    killed = []
    killer = threading.Thread(target=kill_one_labeller, args=(tmp_path / "ray" / "parts", killed), daemon=True)
    killer.start()
    counts = label_source((photos, None), REQUEST, choice, tmp_path / "ray", ray=2, **options)
    killer.join(timeout=60)
    assert len(killed[0]) == 2, "there were two workers, and one of them was killed"
    assert counts["pictures"] == 7
    for out in ("one", "ray"):
        merge_parts(tmp_path / out, ["coco"])
    assert (tmp_path / "one" / "coco.json").read_bytes() == (tmp_path / "ray" / "coco.json").read_bytes()

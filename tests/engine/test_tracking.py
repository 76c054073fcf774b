import importlib.util
import json
from pathlib import Path

import pytest
from mmengine.config import ConfigDict
from mmengine.visualization import LocalVisBackend, TensorboardVisBackend
from toy import make_runner

from lumen.engine.tracking import log_to
from lumen.errors import ConfigError


@pytest.fixture
def wandb(monkeypatch):
    """Return the package as a new process has it: it keeps settings and runs until it is torn down."""
    package = pytest.importorskip("wandb")
    package.teardown()
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    yield package
    package.teardown()


def config_for(work_dir, *backends):
    return ConfigDict(work_dir=str(work_dir), visualizer={"type": "Visualizer", "vis_backends": list(backends)})


def train(config, **changes):
    logger = {"type": "LoggerHook", "interval": 1}
    make_runner(
        Path(config.work_dir), max_iters=2, visualizer=config.visualizer, default_hooks={"logger": logger}, **changes
    ).train()


def records_of(content):
    """Yield the records of a .wandb file: LevelDB's log format in blocks of 32 KiB, behind a header of 7 bytes."""
    assert content[:4] == b":W&B"
    place, parts = 7, b""
    while place + 7 <= len(content):
        size, kind = int.from_bytes(content[place + 4 : place + 6], "little"), content[place + 6]
        if 2**15 - place % 2**15 < 7:  # the end of a block is filled up
            place += 2**15 - place % 2**15
            continue
        parts += content[place + 7 : place + 7 + size]
        place += 7 + size
        if kind in (1, 4):  # whole, or the last part
            yield parts
            parts = b""


def test_tensorboard_gets_the_curves_of_training_and_validation(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    config = config_for(tmp_path, {"type": LocalVisBackend})
    log_to(config, ["tensorboard", "tensorboard"])
    train(config, val=True)
    (events,) = tmp_path.rglob("events.out.tfevents.*")
    read = EventAccumulator(str(events))
    read.Reload()
    (local,) = tmp_path.rglob("scalars.json")
    written = [json.loads(line) for line in local.read_text().splitlines()]
    expected = [entry["loss"] for entry in written if "loss" in entry]
    assert [(event.step, event.value) for event in read.Scalars("loss")] == [
        (step, pytest.approx(value, rel=1e-6)) for step, value in enumerate(expected, start=1)
    ]
    assert any("toy" in tag for tag in read.Tags()["scalars"]), "metrics of the validation"


def test_wandb_writes_a_run_offline(tmp_path, monkeypatch, wandb):
    from wandb.proto.wandb_internal_pb2 import Record

    monkeypatch.setenv("WANDB_MODE", "offline")
    config = config_for(tmp_path)
    log_to(config, ["wandb"])
    train(config)
    wandb.teardown()  # the file is whole once W&B's service has ended
    (file,) = tmp_path.rglob("run-*.wandb")
    losses, names = [], []
    for record in map(Record.FromString, records_of(file.read_bytes())):
        names += [record.run.display_name] if record.HasField("run") else []
        row = {item.key or "/".join(item.nested_key): item.value_json for item in record.history.item}
        losses += [(json.loads(row["iter"]), json.loads(row["loss"]))] if "loss" in row else []
    assert [step for step, _ in losses] == [1, 2] and all(loss > 0 for _, loss in losses)
    assert set(names) == {tmp_path.name}


def test_a_tracker_that_the_config_has_is_not_added_twice(tmp_path):
    config = config_for(tmp_path, {"type": TensorboardVisBackend}, {"type": "mmengine.visualization.LocalVisBackend"})
    log_to(config, ["tensorboard"])
    assert len(config.visualizer.vis_backends) == 2
    bare = ConfigDict(work_dir=str(tmp_path))
    log_to(bare, ["tensorboard"])
    assert [each["type"] for each in bare.visualizer.vis_backends] == ["TensorboardVisBackend"]
    log_to(bare, [])
    assert len(bare.visualizer.vis_backends) == 1


def test_what_cannot_be_logged_to_is_an_error_before_the_run(tmp_path, monkeypatch):
    with pytest.raises(ConfigError, match="'mlflow' is not an accepted value; known are tensorboard, wandb"):
        log_to(config_for(tmp_path), ["mlflow"])
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"wandb, which is not installed: pip install 'lumen-perception\[wandb\]'"):
        log_to(config_for(tmp_path), ["wandb"])


def test_wandb_without_an_account_is_an_error_before_the_run(tmp_path, monkeypatch, wandb):
    monkeypatch.setenv("WANDB_MODE", "online")
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    with pytest.raises(ConfigError, match=r"No API key configured.*WANDB_MODE=offline"):
        log_to(config_for(tmp_path), ["wandb"])

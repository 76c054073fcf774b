import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from mmengine.hooks import CheckpointHook, Hook
from mmengine.logging import MessageHub
from toy import ToyData, ToyMetric, ToyModel, make_runner

from lumen.engine.ending import EXIT_AGAIN, end_is_requested, ending_on_sigterm
from lumen.engine.hooks import EmaHook, FreezeHook, SafeCheckpointHook
from lumen.engine.stopping import StopRequested, StopSignal
from lumen.engine.work_folder import LOCK, held
from lumen.errors import CheckpointError, ConfigError
from lumen.serialization.checkpoint import find_checkpoint, load_checkpoint, save_checkpoint


def _weights(runner):
    return runner.model.state_dict()


def _equal(first, second):
    return all(torch.equal(first[name], second[name]) for name in first)


def test_a_resumed_run_ends_with_the_same_bits_as_one_that_never_stopped(tmp_path):
    whole = make_runner(tmp_path / "whole", val=True, custom_hooks=[{"type": EmaHook}])
    whole.train()
    for stop in (2, 3, 6):
        # Validation after iteration 2 is lost by the stop and must not be missed by the weights.
        part = make_runner(
            tmp_path / "part", max_iters=stop, val=stop != 2, resume=True, custom_hooks=[{"type": EmaHook}]
        )
        part.train()
    assert _equal(_weights(whole), _weights(part))
    first, second = (load_checkpoint(tmp_path / name / "iter_6.pth") for name in ("whole", "part"))
    assert _equal(first["state_dict"], second["state_dict"])
    assert not _equal(first["state_dict"], first["raw_state_dict"])
    assert first["optimizer"]["param_groups"] == second["optimizer"]["param_groups"]
    # Python's generator is left out: the check of annotations draws from it.
    assert torch.equal(first["rng"][0]["torch"], second["rng"][0]["torch"])


def test_loader_workers_do_not_change_the_run(tmp_path):
    models = [make_runner(tmp_path / str(workers), num_workers=workers).train() for workers in (0, 2)]
    assert _equal(models[0].state_dict(), models[1].state_dict())


def test_validation_does_not_change_the_run(tmp_path):
    models = [make_runner(tmp_path / str(val), val=val).train() for val in (False, True)]
    assert _equal(models[0].state_dict(), models[1].state_dict())


def test_a_checkpoint_loads_in_a_bare_process_and_says_where_it_comes_from(tmp_path):
    make_runner(tmp_path, max_iters=2).train()
    code = (
        "import sys, torch; c = torch.load(sys.argv[1], weights_only=True); m = c['meta'];"
        "assert not any(name.startswith(('mmengine', 'lumen')) for name in sys.modules);"
        "print(m['iter'], m['seed'], m['model']['class'], m['lumen_version'], m['absent'])"
    )
    output = subprocess.run(
        [sys.executable, "-c", code, tmp_path / "iter_2.pth"], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert output.stdout.split() == ["2", "3", "ToyModel", "0.1.0", "[]"]


def test_old_checkpoints_go_and_the_newest_is_pointed_to(tmp_path):
    hooks = {"checkpoint": {"type": SafeCheckpointHook, "interval": 2, "max_keep": 2}}
    make_runner(tmp_path, max_iters=7, default_hooks=hooks).train()
    assert sorted(path.name for path in tmp_path.glob("*.pth")) == ["iter_6.pth", "iter_7.pth"]
    assert find_checkpoint(tmp_path).name == "iter_7.pth"


def test_the_best_checkpoint_is_kept_and_a_resume_remembers_it(tmp_path):
    def runner(max_iters):
        hook = {"type": SafeCheckpointHook, "interval": 1, "save_best": "toy/mean", "rule": "less"}
        return make_runner(tmp_path, max_iters=max_iters, val=True, resume=True, default_hooks={"checkpoint": hook})

    runner(2).train()
    assert load_checkpoint(tmp_path / "best.pth")["meta"]["iter"] == 2
    resumed = runner(6)
    resumed.train()
    best = load_checkpoint(tmp_path / "best.pth")
    means = resumed.message_hub.get_scalar("val/toy/mean").data[0]
    assert best["meta"]["metrics"]["toy/mean"] <= min(means)
    assert best["hooks"]["checkpoint"]["best"] == -best["meta"]["metrics"]["toy/mean"]


class ScriptedMetric(ToyMetric):
    """Scores .5, .9, .6, .7 after two, four, six and eight iterations; may be killed as it starts."""

    kill_after = None

    def compute_metrics(self, results):
        """Look the score up."""
        iters = MessageHub.get_current_instance().get_info("iter")  # the last one that was started
        iters += iters % 2
        if iters == self.kill_after:
            raise KeyboardInterrupt
        return {"score": {2: 0.5, 4: 0.9, 6: 0.6, 8: 0.7}[iters]}


def make_scripted(folder, *, interval=3, max_iters=8, **changes):
    hook = {"type": SafeCheckpointHook, "interval": interval, "save_best": "toy/score"}
    return make_runner(
        folder,
        max_iters=max_iters,
        val=True,
        default_hooks={"checkpoint": hook},
        val_evaluator=[{"type": ScriptedMetric}],
        **changes,
    )


def test_a_kill_between_an_evaluation_and_the_next_save_keeps_the_best_checkpoint(tmp_path):
    class Killed(Hook):
        def before_train_iter(self, runner, batch_idx, data_batch=None):
            if batch_idx == 4:  # after the evaluation at 4, which scores .9; the last checkpoint is that of 3
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make_scripted(tmp_path, custom_hooks=[Killed()]).train()
    assert find_checkpoint(tmp_path).name == "iter_3.pth"
    make_scripted(tmp_path, resume=True).train()
    best = load_checkpoint(tmp_path / "best.pth")["meta"]
    assert (best["iter"], best["metrics"]["toy/score"]) == (4, 0.9)


def test_a_run_that_starts_anew_keeps_the_best_checkpoint_of_the_one_that_was_killed_before_its_first_save(tmp_path):
    class Killed(Hook):
        """Kills amid an iteration."""

        def __init__(self, iteration):
            self.iteration = iteration

        def before_train_iter(self, runner, batch_idx, data_batch=None):
            """Kill."""
            if batch_idx == self.iteration:
                raise KeyboardInterrupt

    # Killed after .9, without any numbered checkpoint; then after .5.
    for iteration in (5, 3):
        with pytest.raises(KeyboardInterrupt):
            hooks = [Killed(iteration)]
            make_scripted(tmp_path, interval=100, resume=True, custom_hooks=hooks).train()
    best = load_checkpoint(tmp_path / "best.pth")["meta"]
    assert (best["iter"], best["metrics"]["toy/score"]) == (4, 0.9)
    # A run that resumes nothing is another one.
    make_scripted(tmp_path, interval=100, max_iters=2).train()
    assert load_checkpoint(tmp_path / "best.pth")["meta"]["metrics"]["toy/score"] == 0.5


@pytest.mark.parametrize("name", ["head.weight", "norm.running_mean"])
def test_a_checkpoint_with_numbers_that_are_not_finite_is_not_resumed(name, tmp_path):
    averaged = {"custom_hooks": [{"type": EmaHook}]}
    make_runner(tmp_path, max_iters=2, **averaged).train()
    whole = load_checkpoint(tmp_path / "iter_2.pth")
    for state in ("state_dict", "raw_state_dict"):  # the average alone, or the weights of training
        broken = {**whole, state: {**whole[state], name: torch.full_like(whole[state][name], float("nan"))}}
        save_checkpoint(tmp_path / "iter_2.pth", broken)
        with pytest.raises(CheckpointError, match=f"not finite: {name}"):
            make_runner(tmp_path, resume=True, **averaged).train()


def test_an_evaluation_that_was_killed_is_repeated_and_a_finished_one_is_not(tmp_path, monkeypatch):
    monkeypatch.setattr(ScriptedMetric, "kill_after", 8)
    with pytest.raises(KeyboardInterrupt):
        make_scripted(tmp_path).train()
    assert find_checkpoint(tmp_path).name == "iter_8.pth"
    monkeypatch.setattr(ScriptedMetric, "kill_after", None)
    resumed = make_scripted(tmp_path, resume=True)
    resumed.train()
    assert resumed.message_hub.get_scalar("val/toy/score").data[0].tolist() == [0.7]
    again = make_scripted(tmp_path, resume=True)
    again.train()
    assert "val/toy/score" not in again.message_hub.log_scalars


class Terminated(Hook):
    """Sends SIGTERM to its own process amid iteration 2."""

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        """Send it."""
        if batch_idx == 1:
            os.kill(os.getpid(), signal.SIGTERM)


def test_sigterm_saves_and_a_resume_ends_with_the_same_bits(tmp_path):
    before = signal.getsignal(signal.SIGTERM)
    hooks = {"checkpoint": {"type": SafeCheckpointHook, "interval": 100}}
    with pytest.raises(SystemExit) as stopped:
        part = make_runner(tmp_path / "part", num_workers=1, default_hooks=hooks, custom_hooks=[Terminated()])
        part.train()
    assert stopped.value.code == EXIT_AGAIN == 75
    assert signal.getsignal(signal.SIGTERM) is before
    assert find_checkpoint(tmp_path / "part").name == "iter_2.pth"
    resumed = make_runner(tmp_path / "part", default_hooks=hooks, resume=True).train()
    whole = make_runner(tmp_path / "whole", default_hooks=hooks).train()
    assert _equal(whole.state_dict(), resumed.state_dict())


def test_sigterm_in_an_evaluation_saves_the_weights_of_training(tmp_path, monkeypatch):
    process = ToyMetric.process
    monkeypatch.setattr(ToyMetric, "process", lambda *args: (process(*args), os.kill(os.getpid(), signal.SIGTERM)))
    hooks = {"checkpoint": {"type": SafeCheckpointHook, "interval": 100}}
    averaged = {"default_hooks": hooks, "custom_hooks": [{"type": EmaHook}], "val": True}
    with pytest.raises(SystemExit):
        make_runner(tmp_path / "part", **averaged).train()
    monkeypatch.undo()
    resumed = make_runner(tmp_path / "part", resume=True, **averaged)
    resumed.train()
    whole = make_runner(tmp_path / "whole", **averaged)
    whole.train()
    assert _equal(_weights(whole), _weights(resumed))


def test_sigterm_before_and_behind_a_training_gives_the_same_exit_code():
    start = (
        "import sys, os, atexit, time; from lumen.engine.ending import ending_on_sigterm\n"
        "atexit.register(lambda: os.kill(os.getpid(), 15))\n"
        "with ending_on_sigterm(): "
    )
    for block, code in (("os.kill(os.getpid(), 15)", EXIT_AGAIN), ("sys.exit(2)", 2), ("pass", -signal.SIGTERM)):
        assert subprocess.run([sys.executable, "-c", start + block]).returncode == code


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_an_exit_that_python_drops_ends_the_training_at_its_first_step():
    class Collected:
        def __del__(self):
            os.kill(os.getpid(), signal.SIGTERM)

    with ending_on_sigterm():
        Collected()  # at once, and without an exit
        assert end_is_requested()
        with pytest.raises(StopRequested), StopSignal() as stop:
            stop.leave_if_requested()
    with StopSignal() as stop:
        stop.leave_if_requested()


def test_two_trainings_do_not_share_a_work_folder(tmp_path):
    code = (
        "import sys, pathlib; from lumen.engine.work_folder import held\n"
        "with held(pathlib.Path(sys.argv[1])): print('held', flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "held\n"
        with pytest.raises(ConfigError, match=f"writes into .*: process {other.pid} on {socket.gethostname()}"):
            make_runner(tmp_path).train()
        assert not list(tmp_path.glob("*.py")), "the config of the other training would be replaced"
        other.kill()
    assert str(other.pid) in (tmp_path / LOCK).read_text(), "the killed process left its number"
    with held(tmp_path):
        assert str(os.getpid()) in (tmp_path / LOCK).read_text()


def test_a_damaged_newest_checkpoint_falls_back_to_the_one_before(tmp_path):
    make_runner(tmp_path, max_iters=3).train()
    newest = tmp_path / "iter_3.pth"
    newest.write_bytes(newest.read_bytes()[:-1000])
    runner = make_runner(tmp_path, max_iters=4, resume=True)
    runner.train()
    log = "".join(path.read_text() for path in Path(runner.log_dir).glob("*.log"))
    assert "iter_3.pth is not a whole checkpoint" in log and "iter_2.pth" in log
    assert load_checkpoint(tmp_path / "iter_4.pth")["meta"]["iter"] == 4
    for content in ("", "gone.pth"):
        (tmp_path / "last_checkpoint").write_text(content)
        assert make_runner(tmp_path, max_iters=4, resume=True).train() is not None
    for path in tmp_path.glob("iter_*.pth"):
        path.write_bytes(b"PK")
    with pytest.raises(CheckpointError, match=r"no checkpoint of .* is whole"):
        make_runner(tmp_path, max_iters=4, resume=True).train()


def test_a_checkpoint_with_other_contents_is_refused(tmp_path):
    make_runner(tmp_path, max_iters=1).train()
    whole = load_checkpoint(tmp_path / "iter_1.pth")
    path = tmp_path / "changed.pth"
    changes = [{"optimizer": 3}, {"optimizer": {"state": {}}}, {"rng": 5}, {"hooks": []}, {"param_schedulers": {}}]
    changes += [{"meta": {}}, {"meta": {**whole["meta"], "iter": "one"}}, {"meta": {**whole["meta"], "iter": -1}}]
    changes += [{"meta": []}, {"state_dict": 1}, {"state_dict": {"head.bias": "text"}}]
    for change in changes:
        save_checkpoint(path, {**whole, **change})
        with pytest.raises(CheckpointError):
            make_runner(tmp_path / "other", resume=str(path)).train()


def test_an_unknown_metric_for_the_best_checkpoint_is_told(tmp_path):
    hooks = {"checkpoint": {"type": SafeCheckpointHook, "save_best": "toy/mena"}}
    with pytest.raises(ConfigError, match=r"none of the metrics \['toy/mean'\]"):
        make_runner(tmp_path, val=True, default_hooks=hooks).train()


def test_a_stage_freezes_starts_from_another_and_keeps_all_that_differs_from_the_base(tmp_path):
    freeze_base = {"type": FreezeHook, "freeze": ["base.*"]}
    make_runner(tmp_path / "one", max_iters=2, custom_hooks=[freeze_base]).train()
    one = load_checkpoint(tmp_path / "one" / "iter_2.pth")
    assert one["meta"]["absent"] == ["base.bias", "base.weight"]

    freeze_norm = {"type": FreezeHook, "freeze": ["*"], "trainable": ["head.*"]}
    second = make_runner(
        tmp_path / "two",
        max_iters=2,
        load_from=str(tmp_path / "one" / "iter_2.pth"),
        custom_hooks=[freeze_norm, {"type": EmaHook}],
    )
    second.train()
    two = load_checkpoint(tmp_path / "two" / "iter_2.pth")
    assert torch.equal(two["state_dict"]["norm.weight"], one["state_dict"]["norm.weight"])
    assert torch.equal(two["state_dict"]["norm.running_mean"], one["state_dict"]["norm.running_mean"])
    assert not torch.equal(two["state_dict"]["head.weight"], one["state_dict"]["head.weight"])
    assert torch.equal(second.model.base.weight, ToyModel().base.weight)

    # The second checkpoint needs the first neither for a resume nor for a test.
    hooks = [freeze_norm, {"type": EmaHook}]
    make_runner(tmp_path / "two", max_iters=3, load_from="gone.pth", resume=True, custom_hooks=hooks).train()


def test_load_from_names_what_starts_afresh(tmp_path):
    make_runner(tmp_path / "one", max_iters=1).train()
    path = tmp_path / "one" / "iter_1.pth"
    checkpoint = load_checkpoint(path)
    del checkpoint["state_dict"]["head.weight"]
    save_checkpoint(path, checkpoint)
    with pytest.raises(CheckpointError, match=r"missing: head\.weight"):
        make_runner(tmp_path / "two", load_from=str(path)).train()
    make_runner(tmp_path / "two", max_iters=1, load_from={"checkpoint": str(path), "fresh": ["head.*"]}).train()


def test_a_resume_with_another_seed_or_from_weights_alone_is_refused(tmp_path):
    make_runner(tmp_path, max_iters=1).train()
    with pytest.raises(CheckpointError, match="pass --seed 3"):
        make_runner(tmp_path, resume=True, randomness={"seed": 4}).train()
    checkpoint = load_checkpoint(tmp_path / "iter_1.pth")
    save_checkpoint(tmp_path / "weights.pth", {key: checkpoint[key] for key in ("state_dict", "meta")})
    with pytest.raises(CheckpointError, match="holds weights only; use load_from"):
        make_runner(tmp_path, resume=str(tmp_path / "weights.pth")).train()


def test_the_config_in_a_checkpoint_is_compared_and_never_executed(tmp_path, caplog):
    make_runner(tmp_path, max_iters=1).train()
    checkpoint = load_checkpoint(tmp_path / "iter_1.pth")
    checkpoint["meta"]["config"] = f"open({str(tmp_path / 'canary')!r}, 'w')"
    save_checkpoint(tmp_path / "iter_1.pth", checkpoint)
    runner = make_runner(tmp_path, max_iters=2, resume=True)
    runner.train()
    assert not (tmp_path / "canary").exists()
    logs = "".join(path.read_text() for path in tmp_path.rglob("*.log"))
    assert "the config differs from the checkpoint's" in logs


def test_the_average_is_what_evaluation_sees(tmp_path):
    runner = make_runner(tmp_path, max_iters=4, val=True, custom_hooks=[{"type": EmaHook, "decay": 0.9}])
    runner.train()
    checkpoint = load_checkpoint(tmp_path / "iter_4.pth")
    logged = runner.message_hub.get_scalar("val/toy/mean").current()
    assert _equal(checkpoint["raw_state_dict"], _weights(runner))
    test = make_runner(
        tmp_path / "test",
        val=True,
        load_from=str(tmp_path / "iter_4.pth"),
    )
    assert test.val()["toy/mean"] == logged


def test_evaluation_in_bfloat16_differs_a_little(tmp_path):
    values = [make_runner(tmp_path, val=True, val_cfg={"dtype": dtype}).val() for dtype in ("float32", "bfloat16")]
    assert values[0]["toy/mean"] != values[1]["toy/mean"]
    assert values[0]["toy/mean"] == pytest.approx(values[1]["toy/mean"], rel=0.05)


def test_the_clock_of_training_and_evaluation_is_logged_and_kept(tmp_path):
    from lumen.engine.hooks import CpuClockHook

    hooks = [{"type": CpuClockHook, "interval": 1}]
    runner = make_runner(tmp_path, max_iters=3, val=True, custom_hooks=hooks)
    runner.train()
    clock = load_checkpoint(tmp_path / "iter_3.pth")["meta"]["cpu_seconds"]
    assert clock["train"] > 0.0
    assert clock["evaluation"] > 0.0
    resumed = make_runner(tmp_path, max_iters=4, val=True, resume=True, custom_hooks=hooks)
    resumed.train()
    assert resumed.message_hub.get_scalar("train/cpu_seconds").current() > clock["train"]


def test_mmengines_checkpoint_hook_and_epochs_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="use SafeCheckpointHook"):
        make_runner(tmp_path, default_hooks={"checkpoint": {"type": CheckpointHook}})
    with pytest.raises(ConfigError, match="trains by iteration"):
        make_runner(tmp_path, train_cfg={"by_epoch": True, "max_epochs": 1}).train()


def test_a_sampler_that_cannot_continue_is_refused(tmp_path):
    runner = make_runner(tmp_path)
    runner._train_dataloader["sampler"] = {"type": "DefaultSampler"}
    with pytest.raises(ConfigError, match="give your sampler a method skip"):
        runner.train()


def test_threads_are_set_from_the_config(tmp_path):
    before = torch.get_num_threads()
    make_runner(tmp_path, env_cfg={"num_threads": 2})
    assert torch.get_num_threads() == 2
    make_runner(tmp_path)
    assert torch.get_num_threads() == 1
    torch.set_num_threads(before)


class OtherData(ToyData):
    """Data with other classes than those of training."""

    def __init__(self) -> None:
        super().__init__(noisy=False)
        self.metainfo = {"classes": ("toys",)}


def test_classes_that_only_validation_asks_for_are_warned_about(tmp_path):
    def log_of(folder, dataset):
        loader = {
            "dataset": dataset,
            "sampler": {"type": "DefaultSampler", "shuffle": False},
            "batch_size": 3,
            "num_workers": 0,
        }
        runner = make_runner(folder, max_iters=1, val=True, val_dataloader=loader)
        runner.train()
        return Path(runner.log_dir, f"{runner.timestamp}.log").read_text()

    assert "in validation alone: ['toys'] (1)" in log_of(tmp_path / "a", {"type": OtherData})
    assert "class names" not in log_of(tmp_path / "b", {"type": ToyData, "noisy": False})


def test_curves_go_to_tensorboard_where_the_config_names_it(tmp_path):
    backends = [{"type": "LocalVisBackend"}, {"type": "TensorboardVisBackend"}]
    runner = make_runner(
        tmp_path,
        max_iters=1,
        visualizer={"type": "Visualizer", "vis_backends": backends},
        default_hooks={"logger": {"type": "LoggerHook", "interval": 1}},
    )
    runner.train()
    for backend in runner.visualizer._vis_backends.values():
        backend.close()
    (events,) = tmp_path.rglob("events.out.tfevents.*")
    assert events.stat().st_size > 0

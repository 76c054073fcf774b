"""Two ranks on the CPU: they keep the same statistics, and a resume continues on both with the same random numbers."""

from pathlib import Path

import pytest
import torch
from helpers import joined
from mmengine.hooks import Hook
from toy import make_runner

from lumen.engine.hooks import SafeCheckpointHook
from lumen.engine.runner import LumenRunner
from lumen.serialization.checkpoint import load_checkpoint

pytestmark = pytest.mark.slow


class NoteDropout(Hook):
    """Starts the ranks with other generators, and keeps the state after each iteration: where dropout will go on."""

    def __init__(self) -> None:
        self.states = []

    def before_train(self, runner):
        """Tell the ranks apart, where the run is a new one."""
        if not runner.iter:
            torch.manual_seed(torch.distributed.get_rank())

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        """Note the state."""
        self.states.append(torch.get_rng_state())


def train(folder, **changes):
    hook = NoteDropout()
    hooks = {"checkpoint": {"type": SafeCheckpointHook, "interval": 3}}
    runner = make_runner(folder, default_hooks=hooks, custom_hooks=[hook], launcher="pytorch", **changes)
    runner.train()
    return {"weights": runner.model.module.state_dict(), "generator": hook.states[-1]}


def rank_main(rank, folder):
    with joined(rank, folder):
        folder = Path(folder)
        whole = train(folder / "whole")
        train(folder / "part", max_iters=3)
        torch.manual_seed(1234 + rank)  # the second part must not go on from the numbers of this process
        part = train(folder / "part", resume=True)
        torch.save({"whole": whole, "part": part}, folder / f"{rank}.pth")


@pytest.fixture(scope="module")
def two_ranks(tmp_path_factory):
    """Return the folder, and what each of two ranks found."""
    folder = tmp_path_factory.mktemp("ranks")
    torch.multiprocessing.spawn(rank_main, (str(folder),), nprocs=2)
    return folder, [torch.load(folder / f"{rank}.pth", weights_only=True) for rank in range(2)]


def test_ranks_have_equal_weights_and_statistics(two_ranks):
    first, second = (found["whole"]["weights"] for found in two_ranks[1])
    assert not torch.equal(first["norm.running_mean"], torch.zeros(8))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_a_resume_ends_with_the_same_bits_on_all_ranks(two_ranks):
    for found in two_ranks[1]:
        whole, part = found["whole"], found["part"]
        assert all(torch.equal(whole["weights"][name], part["weights"][name]) for name in whole["weights"])
        assert torch.equal(whole["generator"], part["generator"])
    assert not torch.equal(*(found["whole"]["generator"] for found in two_ranks[1])), "each rank draws its own"


def test_a_checkpoint_holds_the_generators_of_both_ranks(two_ranks):
    folder, _ = two_ranks
    checkpoint = load_checkpoint(folder / "whole" / "iter_6.pth")
    assert checkpoint["meta"]["world_size"] == 2 and len(checkpoint["rng"]) == 2
    alone = make_runner(folder / "alone", max_iters=7, resume=str(folder / "whole" / "iter_6.pth"))
    assert isinstance(alone, LumenRunner) and alone.train() is not None

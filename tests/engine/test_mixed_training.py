"""Training on a mixture of data sets: exact after a restart, and in step where ranks see different tasks."""

import pytest
import torch
from helpers import TINY, joined, make_images, make_sample
from mmengine.optim import OptimWrapper
from toy import ToyData, make_runner

from lumen.aligners.dense import DenseAligner
from lumen.data.mixture import MixedDataset, MixtureSampler
from lumen.decoders.detection import DetectionDecoder
from lumen.lmm.adapter import HFAdapter
from lumen.lmm.nano.model import make_nano
from lumen.model import Lumen


def mixed_runner(folder, *, max_iters=6, num_workers=0, resume=False):
    parts = [{"type": ToyData, "size": 3}, {"type": ToyData, "size": 8}]
    loader = {
        "dataset": {"type": MixedDataset, "datasets": parts, "weights": [2, 1]},
        "sampler": {"type": MixtureSampler},
        "batch_size": 3,
        "num_workers": num_workers,
    }
    return make_runner(folder, max_iters=max_iters, train_dataloader=loader, resume=resume)


def weights(runner):
    return torch.cat([value.flatten().double() for value in runner.model.state_dict().values()])


def test_a_resumed_run_on_a_mixture_ends_with_the_same_bits(tmp_path):
    whole = mixed_runner(tmp_path / "whole")
    whole.train()
    for stop in (2, 5, 6):
        part = mixed_runner(tmp_path / "part", max_iters=stop, resume=True)
        part.train()
    assert torch.equal(weights(whole), weights(part))
    with_workers = mixed_runner(tmp_path / "workers", num_workers=2)
    with_workers.train()
    assert torch.equal(weights(whole), weights(with_workers))


def rank_main(rank, folder):
    """Train steps in which one rank has boxes only and the other samples without any location prompt."""
    from mmengine.model import MMDistributedDataParallel

    with joined(rank, folder):
        torch.manual_seed(rank)  # the wrapper must make the ranks equal
        model = Lumen(
            lmm={
                "type": HFAdapter,
                "name_or_path": f"{folder}/nano",
                "base": {"attention": "eager"},
                "readout": {"phrase_reconstruction": True},
            },
            aligner={"type": DenseAligner, "channels": 32, "num_heads": 4, "mlp_channels": 64, "fine_levels": 1},
            decoders=[{"type": DetectionDecoder}],
        )
        wrapped = MMDistributedDataParallel(model.train())
        optimizer = OptimWrapper(torch.optim.SGD(wrapped.parameters(), lr=1e-2))
        boxes = [make_sample(["cat", "dog"], [[4, 8, 40, 60]], [0]), make_sample(["cat"], [[0, 0, 9, 9]], [0])]
        nothing = [make_sample(), make_sample()]
        for step in range(2):  # the ranks change places
            data = {"inputs": list(make_images(2, seed=rank)), "data_samples": boxes if rank == step else nothing}
            logged = wrapped.train_step(data, optimizer)
        # Parameters, not running statistics: rank 0 hands its own to the others before each step.
        torch.save({"weights": dict(model.named_parameters()), "loss": logged["loss"]}, f"{folder}/{rank}.pth")


@pytest.mark.slow
def test_ranks_with_different_tasks_stay_in_step(tmp_path):
    nano = make_nano(tmp_path / "nano", sizes=TINY, seed=0)
    before = dict(HFAdapter(str(nano), base={"attention": "eager"}).named_parameters())
    torch.multiprocessing.spawn(rank_main, (str(tmp_path),), nprocs=2)
    first, second = (torch.load(tmp_path / f"{rank}.pth", weights_only=True) for rank in range(2))
    for name, value in first["weights"].items():
        assert torch.equal(value, second["weights"][name]) and value.isfinite().all()
    assert torch.isfinite(first["loss"]) and torch.isfinite(second["loss"])
    name = next(name for name in before if name.endswith("q_proj.weight"))
    assert not torch.equal(before[name], first["weights"][f"lmm.{name}"])

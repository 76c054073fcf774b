"""Two processes on the CPU, sharded (FSDP2) and replicated (DDP), train as one process does."""

import pytest
import torch
from helpers import TINY, joined, make_images, make_sample
from mmengine.model import BaseDataPreprocessor, BaseModel, MMDistributedDataParallel
from mmengine.optim import OptimWrapper
from torch import nn
from torch.distributed.tensor import DTensor
from toy import ToyData, make_runner

from lumen.aligners.dense import DenseAligner
from lumen.decoders.detection import DetectionDecoder
from lumen.engine.fsdp import FSDP2
from lumen.engine.hooks import EmaHook, SafeCheckpointHook
from lumen.engine.muon import MuonAdamW
from lumen.engine.optim import GroupedConstructor, LumenOptimWrapper
from lumen.errors import ConfigError
from lumen.lmm.adapter import HFAdapter
from lumen.lmm.nano.model import make_nano
from lumen.model import Lumen
from lumen.serialization.checkpoint import load_checkpoint
from lumen.serialization.sharding import gather, shard_like, whole

STEPS = 3
PROMPTS = ["cat", "dog"]


class QuietModel(BaseModel):
    """Two layers without dropout and running statistics."""

    def __init__(self):
        super().__init__(data_preprocessor=BaseDataPreprocessor())
        torch.manual_seed(0)
        self.layers = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 1))

    def forward(self, inputs, data_samples=None, mode="tensor"):
        output = self.layers(torch.stack(list(inputs)))[:, 0]
        if mode == "loss":
            return {"loss": (output - torch.stack(list(data_samples))).square().mean()}
        return list(output)


def make_lumen(folder, **base):
    torch.manual_seed(0)
    return Lumen(
        lmm={
            "type": HFAdapter,
            "name_or_path": f"{folder}/nano",
            "base": {"attention": "sdpa", **base},
            "readout": {"phrase_reconstruction": True},
        },
        aligner={"type": DenseAligner, "channels": 32, "num_heads": 4, "mlp_channels": 64, "fine_levels": 1},
        decoders=[{"type": DetectionDecoder}],
    ).eval()  # running statistics would differ between the ranks


def batch(part):
    samples = [make_sample(PROMPTS, [[4, 8, 40, 60]], [0]), make_sample(["cat"], [[0, 0, 9, 9]], [0])]
    return {"inputs": list(make_images(2))[part], "data_samples": samples[part]}


def curve(model, part):
    """Return the loss of each step."""
    optimizer = LumenOptimWrapper(torch.optim.AdamW(model.parameters(), lr=1e-3), clip_grad={"max_norm": 1.0})
    return torch.stack([model.train_step(batch(part), optimizer)["loss"].detach() for _ in range(STEPS)])


def toy_run(folder, max_iters, *, batch_size, **options):
    loader = {"dataset": {"type": ToyData, "noisy": False}, "sampler": {"type": "InfiniteSampler"}}
    runner = make_runner(
        folder,
        max_iters=max_iters,
        model={"type": QuietModel},
        train_dataloader={**loader, "batch_size": batch_size, "num_workers": 0},
        optim_wrapper={
            "constructor": GroupedConstructor,
            "type": LumenOptimWrapper,
            "optimizer": {"type": MuonAdamW, "lr": 0.01},
            "paramwise_cfg": {"muon": True, "lr_mult": {"layers.0.*": 0.5}},
            "clip_grad": {"max_norm": 1.0},
        },
        default_hooks={"checkpoint": {"type": SafeCheckpointHook, "interval": 2}},
        custom_hooks=[{"type": EmaHook, "decay": 0.5}],
        **options,
    )
    runner.train()
    return runner


def rank_main(rank, folder):
    with joined(rank, folder):
        part, found = slice(rank, rank + 1), {}
        found["ddp"] = curve(MMDistributedDataParallel(make_lumen(folder)), part)
        sharded = FSDP2(make_lumen(folder, gradient_checkpointing=True))
        pieces = [parameter for parameter in sharded.parameters() if isinstance(parameter, DTensor)]
        found["all_in_pieces"] = torch.tensor(len(pieces) == len(list(sharded.parameters())))
        found["fsdp"] = curve(sharded, part)
        found["half"] = curve(FSDP2(make_lumen(folder), param_dtype="bfloat16"), part)
        with torch.no_grad():
            found["answers"] = torch.tensor(len(sharded.val_step(batch(part))))
        options = {"batch_size": 2, "launcher": "pytorch", "cfg": {"model_wrapper_cfg": {"type": "FSDP2"}}}
        toy_run(f"{folder}/whole", 4, **options)
        toy_run(f"{folder}/part", 2, **options)
        toy_run(f"{folder}/part", 4, **options, resume=True)
        torch.save(found, f"{folder}/{rank}.pth")


@pytest.fixture(scope="module")
def two_ranks(tmp_path_factory):
    """Return the folder in which two ranks have trained."""
    folder = tmp_path_factory.mktemp("ranks")
    make_nano(folder / "nano", sizes=TINY, seed=0)
    torch.multiprocessing.spawn(rank_main, (str(folder),), nprocs=2)
    return folder


@pytest.mark.slow
def test_two_ranks_have_the_loss_curve_of_one_process(two_ranks):
    wanted = curve(make_lumen(two_ranks), slice(None))
    ranks = [torch.load(two_ranks / f"{rank}.pth", weights_only=True) for rank in range(2)]
    for kind in ("ddp", "fsdp"):
        mean = (ranks[0][kind] + ranks[1][kind]) / 2
        torch.testing.assert_close(mean, wanted, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close((ranks[0]["half"] + ranks[1]["half"]) / 2, wanted, rtol=0.1, atol=0.1)
    assert all(rank["all_in_pieces"] and rank["answers"] == 1 for rank in ranks)


@pytest.mark.slow
def test_a_sharded_run_resumes_exactly_and_its_checkpoint_is_whole(two_ranks, tmp_path):
    whole_run, resumed = (load_checkpoint(two_ranks / name / "iter_4.pth") for name in ("whole", "part"))
    alone = toy_run(tmp_path / "alone", 4, batch_size=4)
    names = dict(alone.model.named_parameters())
    assert set(whole_run["state_dict"]) == set(names)
    for name, parameter in names.items():
        assert whole_run["raw_state_dict"][name].shape == parameter.shape
        assert torch.equal(whole_run["raw_state_dict"][name], resumed["raw_state_dict"][name])
        assert torch.equal(whole_run["state_dict"][name], resumed["state_dict"][name])
        torch.testing.assert_close(whole_run["raw_state_dict"][name], parameter.data, rtol=1e-4, atol=1e-4)
    taken = make_runner(tmp_path / "taken", model={"type": QuietModel}, load_from=str(two_ranks / "part/iter_4.pth"))
    taken.load_or_resume()
    assert torch.equal(taken.model.layers[0].weight, resumed["state_dict"]["layers.0.weight"])  # the average


def test_what_is_not_in_pieces_passes_untouched():
    tensor = torch.arange(3.0)
    assert whole(tensor) is tensor and shard_like(tensor, torch.zeros(3)) is tensor
    assert gather({"a": [tensor, 1, "x"]}, keep=False)["a"][0] is tensor


def test_an_unknown_precision_is_refused():
    with pytest.raises(ConfigError, match="param_dtype must be one of"):
        FSDP2(QuietModel(), param_dtype="float16")


def test_patterns_of_parameters_do_not_know_the_wrapper():
    class Wrapper(FSDP2):
        def __init__(self, module):
            nn.Module.__init__(self)
            self.module = module

    config = {"optimizer": {"type": torch.optim.SGD, "lr": 1.0}}
    built = GroupedConstructor(config, {"lr_mult": {"layers.0.*": 0.5}})(Wrapper(QuietModel()))
    assert isinstance(built, OptimWrapper)
    assert sorted({group["lr"] for group in built.optimizer.param_groups}) == [0.5, 1.0]

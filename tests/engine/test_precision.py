import pytest
import torch
from mmengine.model import BaseDataPreprocessor, BaseModel
from torch import nn
from toy import make_runner

from lumen.engine.hooks import EmaHook, FreezeHook
from lumen.engine.optim import LumenOptimWrapper
from lumen.engine.precision import is_mixed, widen_trained
from lumen.errors import ConfigError
from lumen.serialization.checkpoint import load_checkpoint


class NarrowModel(BaseModel):
    """A layer that stands for a pretrained one in bfloat16, and a head in bfloat16 that is trained."""

    def __init__(self):
        super().__init__(data_preprocessor=BaseDataPreprocessor())
        torch.manual_seed(0)
        self.base, self.head = nn.Linear(4, 8).bfloat16(), nn.Linear(8, 1).bfloat16()

    def forward(self, inputs, data_samples=None, mode="tensor"):
        output = self.head(self.base(torch.stack(list(inputs)).bfloat16()))[:, 0].float()
        return {"loss": (output - torch.stack(list(data_samples))).square().mean()} if mode == "loss" else list(output)


def run(folder, lr=1e-5, **changes):
    runner = make_runner(
        folder,
        model={"type": NarrowModel},
        optim_wrapper={"type": LumenOptimWrapper, "dtype": "bfloat16",
                       "optimizer": {"type": torch.optim.AdamW, "lr": lr, "weight_decay": 0.0}},
        param_scheduler=None,
        custom_hooks=[{"type": FreezeHook, "freeze": ["base.*"]}, {"type": EmaHook, "decay": 0.998}],
        **changes,
    )  # fmt: skip
    start = {name: value.detach().clone() for name, value in runner.model.named_parameters()}
    runner.train()
    return start, runner


def test_small_steps_move_every_trained_weight_of_a_narrow_model_and_its_average(tmp_path):
    start, runner = run(tmp_path)
    trained = dict(runner.model.named_parameters())
    assert trained["base.weight"].dtype == torch.bfloat16
    assert torch.equal(trained["base.weight"], start["base.weight"])
    assert trained["head.weight"].dtype == torch.float32
    assert (trained["head.weight"] != start["head.weight"]).all()
    state = runner.optim_wrapper.optimizer.state[trained["head.weight"]]
    assert state["exp_avg"].dtype == state["exp_avg_sq"].dtype == torch.float32
    stored = load_checkpoint(tmp_path / "iter_6.pth")
    average = stored["state_dict"]["head.weight"]
    assert average.dtype == torch.float32
    assert (average != start["head.weight"]).all() and (average != trained["head.weight"]).all()


def test_a_resume_keeps_the_precision(tmp_path):
    run(tmp_path / "part", max_iters=4)
    _, resumed = run(tmp_path / "part", max_iters=6, resume=True)
    _, whole = run(tmp_path / "whole", max_iters=6)
    assert torch.equal(resumed.model.head.weight, whole.model.head.weight)


def test_trained_float32_beside_a_narrow_base_needs_mixed_precision(tmp_path):
    wrapper = {"type": LumenOptimWrapper, "optimizer": {"type": torch.optim.SGD, "lr": 0.1}}
    hooks = [{"type": FreezeHook, "freeze": ["base.*"]}]
    with pytest.raises(ConfigError, match=r"optim_wrapper\.dtype must be 'bfloat16': head\.weight and 1 more"):
        make_runner(tmp_path, model={"type": NarrowModel}, optim_wrapper=wrapper, custom_hooks=hooks)


def test_only_what_is_trained_is_widened():
    model = nn.Sequential(nn.Linear(2, 2).bfloat16().requires_grad_(False), nn.Linear(2, 2).half(), nn.Linear(2, 2))
    assert widen_trained(model) == ["1.weight", "1.bias"]
    assert [layer.weight.dtype for layer in model] == [torch.bfloat16, torch.float32, torch.float32]
    assert is_mixed(model) and not is_mixed(model[1:])
    assert widen_trained(model) == []


def test_running_statistics_follow_their_weights():
    model = nn.Sequential(nn.BatchNorm2d(2), nn.BatchNorm2d(2).requires_grad_(False)).bfloat16()
    widen_trained(model)
    assert [layer.running_var.dtype for layer in model] == [torch.float32, torch.bfloat16]
    assert model[0].num_batches_tracked.dtype == torch.int64
    with torch.autocast("cpu", torch.bfloat16):
        model[0](torch.randn(2, 2, 3, 3).bfloat16()).sum().backward()

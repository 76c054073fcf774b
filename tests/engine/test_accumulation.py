import pytest
import torch
from mmengine.dataset import InfiniteSampler
from mmengine.hooks import Hook
from test_visual_hook import Boxes, Losses, model_config
from torch import nn
from toy import make_runner

from lumen.engine.optim import LumenOptimWrapper
from lumen.errors import ConfigError


class FixedStatistics(Hook):
    """Keeps batch normalisation from seeing the batch."""

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        """Do so; the loop has just set everything to training."""
        for module in runner.model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eval()


def accumulated(folder, nano, batch_size, counts):
    """Train two steps; return the weights and the losses."""
    losses = Losses()
    runner = make_runner(
        folder,
        max_iters=2,
        model=model_config(nano),
        train_dataloader={"dataset": {"type": Boxes}, "batch_size": batch_size, "num_workers": 0,
                          "sampler": {"type": InfiniteSampler}},
        optim_wrapper={"type": LumenOptimWrapper, "accumulative_counts": counts,
                       "optimizer": {"type": torch.optim.SGD, "lr": 1e-4}},
        param_scheduler=None,
        custom_hooks=[losses, FixedStatistics()],
    )  # fmt: skip
    runner.train()
    return dict(runner.model.named_parameters()), losses.values


def test_accumulated_pieces_step_as_the_whole_batch(tmp_path, tiny_nano):
    whole, losses = accumulated(tmp_path / "whole", tiny_nano, 4, 1)
    pieces, losses_of_pieces = accumulated(tmp_path / "pieces", tiny_nano, 2, 2)
    assert losses_of_pieces == pytest.approx(losses, rel=1e-5)
    for name, value in whole.items():
        torch.testing.assert_close(pieces[name], value, rtol=1e-4, atol=1e-6)


def test_accumulation_that_would_not_equal_the_whole_is_refused(tmp_path):
    wrapper = {"type": LumenOptimWrapper, "optimizer": {"type": torch.optim.SGD, "lr": 0.1}}
    with pytest.raises(ConfigError, match="accumulative_counts=2 works for a Lumen"):
        make_runner(tmp_path / "toy", optim_wrapper={**wrapper, "accumulative_counts": 2}).train()
    with pytest.raises(ConfigError, match="accumulative_counts must be at least 1"):
        make_runner(tmp_path / "none", optim_wrapper={**wrapper, "accumulative_counts": 0}).train()

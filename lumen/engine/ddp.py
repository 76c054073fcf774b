"""Replicated training (DDP): every rank has the whole model, and gradients are averaged over ranks."""

from typing import Any

import torch
from mmengine.dist import all_reduce
from mmengine.model import MMDistributedDataParallel, is_model_wrapper
from mmengine.optim import OptimWrapper
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from lumen.model import Lumen
from lumen.registry import MODEL_WRAPPERS


@MODEL_WRAPPERS.register_module()
class LumenDDP(MMDistributedDataParallel):
    """MMEngine's wrapper, which also runs on a CPU and computes a Lumen's step in several pieces.

    Running statistics of batch normalisation are the same on all ranks after each step; see ``average_statistics``.

    Args:
        module: The model.
        device_ids: The GPU of this rank; left out for a model on the CPU, whatever is given.
        kwargs: What ``torch.nn.parallel.DistributedDataParallel`` takes.
    """

    def __init__(self, module: nn.Module, device_ids: list[int] | None = None, **kwargs: Any) -> None:
        # DDP refuses device ids for a module on the CPU, which MMEngine always gives.
        on_cpu = next(module.parameters()).device.type == "cpu"
        settings = {"broadcast_buffers": False, **kwargs}
        super().__init__(module=module, device_ids=None if on_cpu else device_ids, **settings)

    def train_step(self, data: Any, optim_wrapper: OptimWrapper) -> dict[str, Tensor]:
        """Do one optimizer step over the global batch; see ``Lumen.train_step``. Statistics are averaged after it."""
        if isinstance(self.module, Lumen):
            logged = self.module.train_step(data, optim_wrapper, wrapper=self)
        else:
            logged = super().train_step(data, optim_wrapper)
        average_statistics(self.module)
        return logged


@torch.no_grad()
def average_statistics(model: nn.Module) -> None:
    """Give the running statistics of batch normalisation their mean over the ranks; every rank calls it.

    In training each rank normalises its own share of the batch, and its statistics would drift from those of the
    others: ranks would evaluate different models. Normalising over all ranks at once (``SyncBatchNorm``) would need
    as many calls of each layer on every rank, while a rank without objects of a task may have none.
    """
    norms = [part for part in model.modules() if isinstance(part, _BatchNorm) and part.training]
    statistics = [each for part in norms for each in (part.running_mean, part.running_var) if each is not None]
    if statistics:
        flat = torch.cat([each.flatten() for each in statistics])
        all_reduce(flat, "mean")
        for each, mean in zip(statistics, flat.split([each.numel() for each in statistics]), strict=True):
            each.copy_(mean.view_as(each))


def unwrapped(model: nn.Module) -> nn.Module:
    """Return a model without the wrapper that distributes it over ranks, if it has one."""
    return model.module if is_model_wrapper(model) else model

"""Replicated training (DDP): every rank has the whole model, and gradients are averaged over ranks."""

from typing import Any

from mmengine.model import MMDistributedDataParallel
from mmengine.optim import OptimWrapper
from torch import Tensor, nn

from lumen.model import Lumen
from lumen.registry import MODEL_WRAPPERS


@MODEL_WRAPPERS.register_module()
class LumenDDP(MMDistributedDataParallel):
    """MMEngine's wrapper, which also runs on a CPU and computes a Lumen's step in several pieces.

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
        """Do one optimizer step over the global batch; see ``Lumen.train_step``."""
        if isinstance(self.module, Lumen):
            return self.module.train_step(data, optim_wrapper, wrapper=self)
        return super().train_step(data, optim_wrapper)

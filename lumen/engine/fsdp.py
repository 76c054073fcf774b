"""Fully sharded training (FSDP2): every rank keeps a shard of each parameter, its gradient and its optimizer state."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import torch
from mmengine.dist import broadcast
from mmengine.model import BaseModel
from mmengine.optim import OptimWrapper
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

from lumen.engine.ddp import average_statistics
from lumen.errors import ConfigError
from lumen.model import Lumen
from lumen.registry import MODEL_WRAPPERS

DTYPES = ("float32", "bfloat16")


@runtime_checkable
class BuiltOfBlocks(Protocol):
    """A module that names the parts that sharding keeps in one piece, such as an adapter its transformer layers."""

    def transformer_layers(self) -> Sequence[nn.Module]:
        """Return the parts."""


@MODEL_WRAPPERS.register_module()
class FSDP2(nn.Module):
    """Shards a model over all ranks with ``torch.distributed.fsdp.fully_shard``: each block, then the rest.

    For ``model_wrapper_cfg`` of ``LumenRunner``, which hands over the model on the CPU; a block is moved to the device
    when it is sharded. Ranks start with the weights of rank 0. Checkpoints hold full tensors, as of one process.

    Args:
        module: The model. Blocks are what its parts that are ``BuiltOfBlocks`` name.
        device: Kind of device, ``cuda`` or ``cpu``; the GPU where there is one when left out.
        param_dtype: Precision in which blocks compute, ``bfloat16`` or ``float32``; the weights' own when left out.
            All other parts follow the optimizer wrapper's ``dtype``: heatmap and boxes stay in float32.
        reduce_dtype: Precision in which the gradients of blocks are added up over ranks.
        reshard_after_forward: Free the gathered blocks between forward and backward; False trades memory for speed.

    Raises:
        ConfigError: If a dtype is unknown, or the trained weights of a block, or of the rest, differ in dtype.
    """

    def __init__(
        self,
        module: BaseModel,
        *,
        device: str | None = None,
        param_dtype: str | None = None,
        reduce_dtype: str = "float32",
        reshard_after_forward: bool = True,
    ) -> None:
        super().__init__()
        for name, dtype in (("param_dtype", param_dtype or "float32"), ("reduce_dtype", reduce_dtype)):
            if dtype not in DTYPES:
                raise ConfigError(f"{name} must be one of {DTYPES}, got {dtype!r}")
        # MMEngine leaves the model on the CPU, from where each block goes to this device on its own.
        device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        # All ranks form one dimension: parameters are sharded over every one of them.
        mesh = init_device_mesh(device, (torch.distributed.get_world_size(),))
        # Before sharding: afterwards each rank only holds its own shard.
        _share_weights(module)
        # Parameters are cast when a block is gathered; the shards and the optimizer keep their dtype.
        precision = MixedPrecisionPolicy(
            param_dtype=getattr(torch, param_dtype) if param_dtype else None, reduce_dtype=getattr(torch, reduce_dtype)
        )
        found = [
            block for part in module.modules() if isinstance(part, BuiltOfBlocks) for block in part.transformer_layers()
        ]
        _check_dtypes(module, found)
        # Inner blocks first: what is left over then forms the group of the whole module.
        for block in found:
            fully_shard(block, mesh=mesh, reshard_after_forward=reshard_after_forward, mp_policy=precision)
        # No mixed precision here: the aligner and the decoders follow autocast.
        fully_shard(module, mesh=mesh)
        if device == "cpu":  # gloo supports sums, not means
            for part in (*found, module):
                part.set_force_sum_reduction_for_comms(True)
        self.module = module.to(device)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Run the model; only through here are its parameters gathered."""
        return self.module(*args, **kwargs)

    def train_step(self, data: Any, optim_wrapper: OptimWrapper) -> dict[str, Tensor]:
        """Do one optimizer step over the global batch, as ``LumenDDP`` does."""
        if isinstance(self.module, Lumen):
            logged = self.module.train_step(data, optim_wrapper, wrapper=self)
        else:
            with optim_wrapper.optim_context(self):
                losses = self._run(data, "loss", training=True)
                total, logged = self.module.parse_losses(losses)
            optim_wrapper.update_params(total)
        average_statistics(self.module)
        return logged

    def val_step(self, data: Any) -> list:
        """Answer a batch; every rank needs one, since each provides its shards to the others."""
        return self._run(data, "predict", training=False)

    def test_step(self, data: Any) -> list:
        """Answer a batch; see ``val_step``."""
        return self.val_step(data)

    def _run(self, data: Any, mode: str, *, training: bool) -> Any:
        # What MMEngine's wrappers do in `_run_forward`.
        data = self.module.data_preprocessor(data, training)
        if isinstance(data, Mapping):
            # By calling the module, so that the hooks of fully_shard gather its parameters.
            return self.module(**data, mode=mode)
        return self.module(*data, mode=mode)


def _share_weights(module: nn.Module) -> None:
    """Give all ranks what rank 0 has: the ranks may have drawn new weights differently."""
    # Frozen weights are not sent: they are read from the base model or a checkpoint.
    trained = [*(parameter for parameter in module.parameters() if parameter.requires_grad), *module.buffers()]
    for tensor in trained:
        broadcast(tensor.data)


def _check_dtypes(module: nn.Module, blocks: Sequence[nn.Module]) -> None:
    # Each group is reduced as one flat tensor, so its trained weights need one dtype.
    inside = {parameter for block in blocks for parameter in block.parameters()}
    rest = [parameter for parameter in module.parameters() if parameter not in inside]
    for what, parameters in [("a block", list(block.parameters())) for block in blocks] + [("the rest", rest)]:
        kinds = {str(parameter.dtype) for parameter in parameters if parameter.requires_grad}
        if len(kinds) > 1:
            raise ConfigError(
                f"FSDP2 needs one dtype for all trained weights of {what}, got {sorted(kinds)}: freeze the base model, "
                "train it with LoRA, or load it with base=dict(dtype='float32')"
            )

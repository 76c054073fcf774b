"""A GPU that the CPU plays: it notes each place where the host would wait for it."""

import traceback
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

DEVICE = torch.device("meta")  # the only device but the CPU that every build knows
_ATEN = torch.ops.aten
_READ = {_ATEN._local_scalar_dense, _ATEN.equal, _ATEN.nonzero, _ATEN.masked_select, _ATEN._unique2}
_READ |= {_ATEN.unique_consecutive, _ATEN.repeat_interleave}
_FOLDER = Path(__file__).parents[1]


class _OnDevice(Tensor):
    """A tensor that says it is on the GPU; ``held`` has its values."""

    @staticmethod
    def __new__(cls, held: Tensor) -> "_OnDevice":
        layout = {"strides": held.stride(), "storage_offset": held.storage_offset(), "dtype": held.dtype}
        return Tensor._make_wrapper_subclass(cls, held.size(), **layout, device=DEVICE)

    def __init__(self, held: Tensor) -> None:
        self.held = held

    __torch_function__ = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(cls, function, types, args=(), kwargs=None):
        raise RuntimeError(f"{function} outside of PretendGPU")


class _FromHost(TorchFunctionMode):
    """Let ``torch.tensor`` make its tensor on the CPU and copy it, which is what it does out of sight."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if function in (torch.tensor, torch.as_tensor) and kwargs.get("device") is not None:
            device = kwargs.pop("device")
            return function(*args, **kwargs).to(device)
        return function(*args, **kwargs)


class PretendGPU(TorchDispatchMode):
    """Run GPU operations on the CPU, and note the waits.

    The host waits where it reads a value, a number of true places or a whole tensor, and where it copies to the GPU
    without ``non_blocking``. An operation of tensors of both devices is an error, as on a real GPU.

    Attributes:
        waits: File, line and operation of each wait; the innermost line that is not torch's.
    """

    def __init__(self) -> None:
        super().__init__()
        self.waits: list[str] = []

    def __enter__(self):
        self._from_host = _FromHost()
        self._from_host.__enter__()
        return super().__enter__()

    def __exit__(self, *error):
        self._from_host.__exit__(*error)
        return super().__exit__(*error)

    def take(self, module: nn.Module) -> None:
        """Bring the parameters and buffers of a module to the GPU, without gradients."""
        for each in module.modules():
            for name, tensor in each._parameters.items():
                if tensor is not None:
                    each._parameters[name] = nn.Parameter(_OnDevice(tensor.detach()), requires_grad=False)
            for name, tensor in each._buffers.items():
                if tensor is not None:
                    each._buffers[name] = _OnDevice(tensor)

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        given = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        on_device = any(isinstance(tensor, _OnDevice) for tensor in given)
        wanted = kwargs.get("device")
        to_device = on_device if wanted is None else torch.device(wanted) == DEVICE
        if self._waits(function, args, kwargs, on_device, to_device):
            self.waits.append(f"{_place()}: {function}")
        elif on_device and function.overloadpacket not in (_ATEN._to_copy, _ATEN.copy_):
            strangers = [tensor for tensor in given if not isinstance(tensor, _OnDevice) and tensor.ndim]
            if strangers:
                raise RuntimeError(f"{function} of tensors of both devices, one of shape {strangers[0].shape}")
        if wanted is not None:
            kwargs["device"] = torch.device("cpu")
        args, kwargs = tree_map(_held, (args, kwargs))
        result = function(*args, **kwargs)
        if to_device:
            return tree_map(lambda leaf: _OnDevice(leaf) if isinstance(leaf, Tensor) else leaf, result)
        return result

    def _waits(self, function, args, kwargs, on_device: bool, to_device: bool) -> bool:
        packet = function.overloadpacket
        if not any(tensor.numel() for tensor in tree_leaves((args, kwargs)) if isinstance(tensor, Tensor)):
            return False  # there is nothing to wait for
        if packet == _ATEN._to_copy:
            return on_device != to_device and (on_device or not kwargs.get("non_blocking"))
        if packet == _ATEN.copy_:
            sides = [isinstance(tensor, _OnDevice) for tensor in args[:2]]
            return sides[0] != sides[1] and (sides[1] or not (args[2:] or [kwargs.get("non_blocking")])[0])
        if packet in (_ATEN.index, _ATEN.index_put, _ATEN.index_put_):
            found = [index for index in args[1] if index is not None]
            return on_device and any(index.dtype == torch.bool or not isinstance(index, _OnDevice) for index in found)
        return on_device and packet in _READ


def _held(leaf):
    return leaf.held if isinstance(leaf, _OnDevice) else leaf


def _place() -> str:
    for frame in reversed(traceback.extract_stack()):
        if "/torch/" not in frame.filename and frame.filename != __file__:
            name = frame.filename.removeprefix(f"{_FOLDER}/").split("site-packages/")[-1]
            return f"{name}:{frame.lineno} ({frame.name})"
    return "?"

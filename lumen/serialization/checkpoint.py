"""Checkpoints that are data: tensors, numbers, strings, lists and dicts, written whole or not at all.

A checkpoint of Lumen is one dict:

- ``state_dict``: the weights that a user loads; the averaged ones where training averages weights.
- ``raw_state_dict``: the weights that training continues with, only where they differ from ``state_dict``.
- ``optimizer``, ``param_schedulers``, ``rng``, ``hooks``: what an exact resume needs; ``rng`` holds the generators of
  each rank.
- ``meta``: ``iter``, ``epoch``, ``seed``, ``config`` (text, compared and never executed), ``model`` (how the model
  describes itself), ``absent`` (names of the model that the checkpoint leaves to the base model), ``metrics``,
  ``lumen_version``, ``time``.
"""

import re
import zipfile
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor, nn

from lumen.errors import CheckpointError, named_faults
from lumen.ops.finite import is_finite, names_not_finite
from lumen.paths import find_path
from lumen.serialization.atomic import atomic_file, write_text
from lumen.serialization.sharding import shard_like

POINTER = "last_checkpoint"
_NUMBERED = re.compile(r"iter_(\d+)\.pth")
_MAX_DEPTH = 500


@runtime_checkable
class DescribedModel(Protocol):
    """A model that describes itself: base model, token names, stage. The strings are written into checkpoints."""

    def describe(self) -> Mapping[str, str]:
        """Return what a reader of the checkpoint must know to use it."""


@runtime_checkable
class StandIn(Protocol):
    """A module in place of a larger one, such as cached features in place of an LMM."""

    def left_out(self) -> Iterable[str]:
        """Return the names of weights that the larger one has from its base model, and this one lacks."""


def plain(value: Any) -> Any:
    """Turn tuples into lists, NumPy numbers into Python's, parameters into tensors on the CPU.

    Anything else stays unchanged, so that ``save_checkpoint`` can name what is not data.
    """
    if isinstance(value, Tensor):
        tensor = value.detach().cpu()
        # torch.save writes the whole storage behind a view.
        return tensor.clone() if tensor.untyped_storage().nbytes() > tensor.nbytes else tensor
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray):
        return torch.from_numpy(value.copy())
    if isinstance(value, Mapping):
        return {key: plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [plain(entry) for entry in value]
    return value


def save_checkpoint(path: Path, checkpoint: Mapping[str, Any]) -> None:
    """Write a checkpoint so that ``path`` is a whole file at every moment; see ``atomic_file``.

    Args:
        path: Where the checkpoint will be; its folder exists.
        checkpoint: Tensors, numbers, strings, lists and dicts, nested at any depth.

    Raises:
        CheckpointError: A value is something else, with its place in the message, or the disk is full or read-only.
    """
    _refuse_objects(checkpoint, "checkpoint")
    remedy = "older checkpoints stay; make room, and continue with --resume"
    # torch reports a full disk as a RuntimeError.
    with named_faults(f"{path} cannot be written", CheckpointError, remedy=remedy), atomic_file(path) as file:
        torch.save(checkpoint, file)


def load_checkpoint(path: Path | str) -> dict[str, Any]:
    """Read a checkpoint without executing anything in it.

    Raises:
        CheckpointError: The file is missing, broken, holds code, or is not a checkpoint of Lumen.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"there is no checkpoint {path}; check the path")
    # Damage is found first, since a damaged file may still load.
    _refuse_broken(path)
    try:
        # `weights_only` refuses everything that could execute code.
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises errors of all classes on damaged files
        raise CheckpointError(
            f"{path} cannot be loaded as data: {_first_line(error)}. It holds Python objects or was not written by "
            "Lumen. It is not loaded in any other way; write it again with Lumen, or convert it to tensors where you "
            "trust it"
        ) from error
    if not isinstance(checkpoint, dict) or not {"state_dict", "meta"} <= checkpoint.keys():
        raise CheckpointError(f"{path} is not a checkpoint of Lumen: it lacks 'state_dict' or 'meta'")
    _check_contents(path, checkpoint)
    return checkpoint


def _check_contents(path: Path, checkpoint: Mapping[str, Any]) -> None:
    """Refuse weights that are not named tensors, or would take more memory than the file."""
    meta = checkpoint["meta"]
    dicts = {key: checkpoint.get(key, {}) for key in ("meta", "state_dict", "raw_state_dict")}
    for key, value in (dicts | {"meta.model": meta.get("model", {}) if isinstance(meta, dict) else {}}).items():
        if not isinstance(value, dict):
            kind = type(value).__name__
            raise CheckpointError(f"{path} is not a checkpoint of Lumen: {key!r} is a {kind}, expected a dict")
    absent = meta.get("absent", [])
    if not isinstance(absent, list) or not all(isinstance(name, str) for name in absent):
        raise CheckpointError(f"{path} is not a checkpoint of Lumen: 'meta.absent' is not a list of names")
    for place, value in _tensors(checkpoint, path):
        # None of these is written by Lumen, and they have no storage that could be measured.
        if value.is_nested or value.is_quantized or value.layout != torch.strided or value.is_meta:
            raise CheckpointError(f"{path} is not a checkpoint of Lumen: {place} is not a plain tensor")
        if value.numel() * value.element_size() > value.untyped_storage().nbytes():
            raise CheckpointError(
                f"{path} is damaged: {place} has the shape {list(value.shape)}, which its stored numbers do not fill"
            )
    for key in ("state_dict", "raw_state_dict"):
        for name, value in checkpoint.get(key, {}).items():
            if not isinstance(name, str) or not isinstance(value, Tensor):
                raise CheckpointError(f"{path} is not a checkpoint of Lumen: {key}.{name} is not a named tensor")


def _tensors(checkpoint: Mapping[str, Any], path: Path) -> Iterator[tuple[str, Tensor]]:
    """Yield place and value of each tensor; raise CheckpointError where containers lie too deep in each other."""
    # Each container once, without recursion: a file may hold a list that holds itself, or one that doubles 40 times.
    waiting: list[tuple[str, Any, int]] = [("checkpoint", checkpoint, 0)]
    seen = {id(checkpoint)}
    while waiting:
        place, node, depth = waiting.pop()
        if depth > _MAX_DEPTH:
            raise CheckpointError(f"{path} is not a checkpoint of Lumen: it holds more than {_MAX_DEPTH} nested lists")
        for key, value in node.items() if isinstance(node, Mapping) else enumerate(node):
            if isinstance(value, Tensor):
                yield f"{place}.{key}", value
            elif isinstance(value, Mapping | list | tuple) and id(value) not in seen:
                seen.add(id(value))
                waiting.append((f"{place}.{key}", value, depth + 1))


def write_pointer(path: Path) -> None:
    """Make the pointer file beside ``path`` name it; the pointer is replaced as a whole."""
    write_text(path.with_name(POINTER), path.name)


def find_checkpoint(folder: Path | str) -> Path | None:
    """Return the checkpoint to resume from: the one the pointer names, else the highest ``iter_N.pth``, else none.

    Raises:
        CheckpointError: The pointer names nothing, or a file that is gone.
    """
    pointer = Path(folder) / POINTER
    numbered = numbered_checkpoints(folder)
    if not pointer.is_file():
        return max(numbered, key=lambda path: int(_NUMBERED.fullmatch(path.name)[1]), default=None)
    # Only the name is read from the pointer: a run whose folder was moved still resumes.
    name = Path(pointer.read_text(encoding="utf-8", errors="replace").strip().replace("\0", "")).name
    target = pointer.parent / name
    if not target.is_file():
        others = ", ".join(sorted(path.name for path in numbered)) or "none"
        raise CheckpointError(f"{pointer} names {name!r}, which is gone; resume from another file ({others})")
    return target


def load_newest(folder: Path | str, warn: Callable[[str], None]) -> tuple[Path, dict[str, Any]] | None:
    """Load the checkpoint to resume from; where it is damaged, the newest older one that is whole.

    Args:
        folder: The work folder of a run.
        warn: Is told what is wrong with each checkpoint that is passed over.

    Returns:
        The path and the checkpoint; None where the folder holds none.

    Raises:
        CheckpointError: It holds some, and none is whole.
    """
    candidates = list(reversed(numbered_checkpoints(folder)))
    try:
        first = find_checkpoint(folder)
    except CheckpointError as error:
        warn(str(error))
        first = None
    if first is not None:
        candidates = [first, *(path for path in candidates if path != first)]
    elif not candidates:
        return None
    for path in candidates:
        try:
            return path, load_checkpoint(path)
        except CheckpointError as error:
            warn(f"{error}. The checkpoint before it is taken")
    raise CheckpointError(f"no checkpoint of {folder} is whole: start again without --resume")


def named_checkpoint(path: Path) -> Path:
    """Return the checkpoint that a user names: a file, or the work folder of a run for its newest one.

    The path is looked for in the current folder, then in the checkout; see ``find_path``.

    Raises:
        CheckpointError: The folder holds none.
    """
    path = Path(find_path(path))
    found = find_checkpoint(path) if path.is_dir() else path
    if found is None:
        raise CheckpointError(f"{path} holds no checkpoint: train first, or name a file")
    return found


def numbered_checkpoints(folder: Path | str) -> list[Path]:
    """Return the files ``iter_N.pth`` of a folder, oldest first by the time they were written."""
    paths = [path for path in Path(folder).glob("iter_*.pth") if _NUMBERED.fullmatch(path.name)]
    return sorted(paths, key=lambda path: path.stat().st_mtime_ns)


def trained_state(model: nn.Module, also: Collection[str] = ()) -> dict[str, Tensor]:
    """Return the part of ``state_dict`` that differs from the base model.

    It is every parameter that requires a gradient, every buffer, and the names in ``also``: what was loaded from an
    earlier stage and is frozen now.
    """
    # Buffers are in `state_dict` and not among the parameters, so they are always kept.
    state = model.state_dict()
    # A tied parameter stands under each of its names in `state_dict`, so each must be found here.
    parameters = dict(model.named_parameters(remove_duplicate=False))
    frozen = {name for name, parameter in parameters.items() if not parameter.requires_grad}
    names = (state.keys() - frozen) | set(also)
    return {name: tensor for name, tensor in state.items() if name in names}


def absent_names(model: nn.Module, held: Collection[str]) -> list[str]:
    """Return the names that a checkpoint which holds ``held`` leaves to the base model, stand-ins included."""
    # A stand-in, such as cached features, lacks weights that the full model takes from its base.
    standing = {
        f"{place}.{name}"
        for place, part in model.named_modules()
        if isinstance(part, StandIn)
        for name in part.left_out()
    }
    return sorted((model.state_dict().keys() | standing) - set(held))


def load_trained_state(model: nn.Module, checkpoint: Mapping[str, Any], *, fresh: Collection[str] = ()) -> set[str]:
    """Load ``checkpoint['state_dict']``; what it lacks must be exactly what it records as left to the base model.

    Args:
        model: Built with the same base model as the checkpoint's.
        checkpoint: As ``load_checkpoint`` returns it.
        fresh: Glob patterns of names that may differ: the model keeps its own values for names that only it has, and
            names that only the checkpoint has are left out. For starting a new stage, such as ``decoders.*``.

    Returns:
        The names that were loaded.

    Raises:
        CheckpointError: Names, shapes or kinds of numbers do not fit, or a number is not finite; the message names a
            few, and the recorded model.
    """
    state, meta = checkpoint["state_dict"], checkpoint["meta"]
    current = model.state_dict()
    # 1. Compare names, both ways; `fresh` names may differ.
    chosen = {name: tensor for name, tensor in state.items() if name in current}
    missing = sorted(
        name for name in current.keys() - state.keys() - set(meta.get("absent", ())) if not _matches(name, fresh)
    )
    unexpected = sorted(name for name in state.keys() - current.keys() if not _matches(name, fresh))
    # 2. Compare shapes, also of `fresh` names: a tensor is never loaded in part.
    shapes = [
        f"{name} {list(chosen[name].shape)} against {list(current[name].shape)} here"
        for name in chosen
        if chosen[name].shape != current[name].shape
    ]
    # 3. Compare kinds of numbers: copying would turn complex or whole numbers into reals without an error.
    kinds = [
        f"{name} {tensor.dtype} against {current[name].dtype} here"
        for name, tensor in chosen.items()
        if _kind(tensor) != _kind(current[name])
    ]
    # 4. Report all differences at once, before any weight changes.
    found = {"missing": missing, "unexpected": unexpected, "other shape": shapes, "other numbers": kinds}
    found["not finite"] = _not_finite(chosen, current)
    complaints = [f"{title}: {_few(names)}" for title, names in found.items() if names]
    if complaints:
        raise CheckpointError(f"the checkpoint does not fit this model; {'; '.join(complaints)}. {_recorded(meta)}")
    model.load_state_dict({name: shard_like(tensor, current[name]) for name, tensor in chosen.items()}, strict=False)
    return set(chosen)


def refuse_not_finite(state: Mapping[str, Tensor], current: Mapping[str, Tensor]) -> None:
    """Refuse weights that are not finite: a model with them finds nothing, and without an error.

    Args:
        state: The weights.
        current: Those of the model; what is not finite there, such as a mask, need not be in ``state``.

    Raises:
        CheckpointError: It names a few.
    """
    broken = _not_finite(state, current)
    if broken:
        raise CheckpointError(
            f"the weights hold numbers that are not finite: {_few(broken)}. Take an older checkpoint, or another copy"
        )


def _not_finite(state: Mapping[str, Tensor], current: Mapping[str, Tensor]) -> list[str]:
    # A number may also be too large for the precision here.
    narrowed = {
        name: tensor.to(current[name].dtype) if tensor.dtype.itemsize > current[name].dtype.itemsize else tensor
        for name, tensor in state.items()
        if _kind(tensor) == _kind(current[name])
    }
    # A mask is not finite in the model as built either.
    return [name for name in names_not_finite(narrowed) if is_finite([current[name]])]


def describe(model: nn.Module) -> dict[str, str]:
    """Return the description of a ``DescribedModel``, of another model the name of its class."""
    if isinstance(model, DescribedModel):
        return {str(key): str(value) for key, value in model.describe().items()}
    return {"class": type(model).__name__}


def _refuse_objects(value: Any, place: str) -> None:
    if isinstance(value, Mapping):
        for key, entry in value.items():
            if not isinstance(key, str | int):
                raise CheckpointError(f"{place} has a key of type {type(key).__name__}; use strings or integers")
            _refuse_objects(entry, f"{place}.{key}")
    elif isinstance(value, list):
        for index, entry in enumerate(value):
            _refuse_objects(entry, f"{place}.{index}")
    elif type(value) not in (Tensor, bool, int, float, str, type(None)):
        raise CheckpointError(
            f"{place} is a {type(value).__name__}; a checkpoint holds tensors, numbers, strings, lists and dicts only"
        )


def _refuse_broken(path: Path) -> None:
    """Compare every part of the file with its check sum: torch itself does not notice a flipped byte."""
    try:
        with zipfile.ZipFile(path) as archive:
            # torch stores without compression: what unpacks to more than the file was made to fill the memory.
            unpacked = sum(entry.file_size for entry in archive.infolist())
            if unpacked > path.stat().st_size:
                raise CheckpointError(f"{path} unpacks to {unpacked} bytes, more than the file has: it is not loaded")
            broken = archive.testzip()
    except CheckpointError:
        raise
    except Exception as error:  # zipfile raises errors of many classes, such as of an encoding, on damaged headers
        raise CheckpointError(
            f"{path} is not a whole checkpoint: {_first_line(error)}. It is truncated or was not written by Lumen; "
            "resume from another checkpoint of the folder"
        ) from error
    if broken is not None:
        raise CheckpointError(f"{path} is damaged: {broken} differs from its check sum; use another checkpoint")


def _recorded(meta: Mapping[str, Any]) -> str:
    model = ", ".join(f"{key} {value}" for key, value in meta.get("model", {}).items())
    return f"It was written by iteration {meta.get('iter', '?')} of: {model or 'an unnamed model'}"


def _kind(tensor: Tensor) -> tuple[bool, torch.dtype | None]:
    """Return what may not change in copying: reals of any precision are alike."""
    is_real = tensor.is_floating_point()
    return is_real, None if is_real else tensor.dtype


def _matches(name: str, patterns: Collection[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def _few(names: list[str], limit: int = 3) -> str:
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]

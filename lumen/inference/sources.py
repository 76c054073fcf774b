"""Where the command line takes its model from: a run, an exported folder, or an LMM as it is. Imports nothing heavy."""

import gc
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from lumen.errors import CheckpointError, ConfigError
from lumen.paths import is_hub_id

if TYPE_CHECKING:
    from lumen.inference.predictor import LumenPredictor
    from lumen.interop.mmdet.detector import MMDetDetector

MAX_NEW_TOKENS = 1024
"""Bound on the tokens of a bare LMM's answer; a box takes 10 to 40."""
MAX_PIXELS = 1024 * 1024
"""Bound on the pixels of an image for a bare LMM that takes several sizes."""

PRECISIONS = ("float32", "bfloat16")
_BEST = "best.pth"
_EXPORTED = "model.json"


@dataclass(frozen=True, slots=True)
class ModelFiles:
    """A trained model on disk: the config of its run, which is code, and a checkpoint."""

    config: Path
    checkpoint: Path


@dataclass(frozen=True, slots=True)
class ExportedModel:
    """What ``tools/export.py`` wrote, without code, and its base model where it is not the recorded one.

    Args:
        folder: The folder, or ``org/name``, a repository of the Hugging Face Hub.
        base_model: Folder or id.
    """

    folder: Path
    base_model: str | None = None


@dataclass(frozen=True, slots=True)
class BareLmm:
    """An LMM that writes boxes itself, untrained here.

    Args:
        name_or_path: Folder or model id; an id is downloaded.
        dialect: How it writes boxes; see ``lumen.inference.bare.bare_predictor``.
        max_new_tokens: Bound on the tokens of an answer.
        max_pixels: Bound on the pixels of an image; None for the usual one, see ``bare_predictor``.
    """

    name_or_path: str
    dialect: str | None = None
    max_new_tokens: int = MAX_NEW_TOKENS
    max_pixels: int | None = None


@dataclass(frozen=True, slots=True)
class DetectorFiles:
    """A detector of mmdet on disk: its config, which is code, and its weights."""

    config: Path
    checkpoint: Path


Source = ModelFiles | ExportedModel | BareLmm | DetectorFiles


def find_model(
    model: Path | None, config: Path | None, checkpoint: Path | None, base_model: str | None = None
) -> ModelFiles | ExportedModel:
    """Return the model that the options name; the newest exported folder where they name none.

    A config is Python code, so one is used only where the user names it or the work folder that it lies in.

    Raises:
        ConfigError: The options do not fit each other.
        CheckpointError: There is no such model, or a work folder holds no config or checkpoint.
    """
    if (config is None) != (checkpoint is None) or (model is not None and config is not None):
        raise ConfigError("give --config and --checkpoint together, or --model alone, or none of them")
    if config is not None and checkpoint is not None:
        found = ModelFiles(config, checkpoint)
    else:
        folder = model or _newest_exported()
        if (folder / _EXPORTED).is_file() or is_hub_id(folder):
            return ExportedModel(folder, base_model)
        found = _files_of_run(folder)
    if base_model is not None:
        raise ConfigError("--base-model belongs to an exported folder; a config names its base model itself")
    return found


def describe_source(source: Source) -> str:
    """Return what a model is taken from, for the command line."""
    if isinstance(source, ModelFiles | DetectorFiles):
        return f"{source.checkpoint} ({source.config})"
    return source.name_or_path if isinstance(source, BareLmm) else str(source.folder)


def open_model(source: Source, device: str | None, dtype: str | None = None) -> "LumenPredictor | MMDetDetector":
    """Import what is heavy and load the model, without progress bars and without waiting for the garbage collector.

    Imports create millions of objects that stay; scanning them repeatedly takes a fifth of the start-up time.

    Args:
        source: Where it comes from.
        device: The first GPU where there is one, else the CPU, when left out.
        dtype: ``float32`` or ``bfloat16``; bfloat16 on a GPU, float32 elsewhere, when left out.

    Raises:
        ConfigError: There is no such precision, or see ``LumenPredictor``; or mmdet is not installed.
        CheckpointError: The model cannot be loaded.
    """
    if isinstance(source, DetectorFiles):
        from lumen.interop.mmdet.detector import MMDetDetector

        if dtype not in (None, "float32"):
            raise ConfigError(f"a detector of mmdet computes in float32, got {dtype!r}")
        return MMDetDetector.from_files(source.config, source.checkpoint, device=device)
    if dtype not in (None, *PRECISIONS):
        raise ConfigError(f"the precision is one of {', '.join(PRECISIONS)}, got {dtype!r}")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    # MMEngine imports torch's distributed optimizers, whose scripts take 0.15 s to compile and are of no use here.
    os.environ.setdefault("PYTORCH_JIT", "0")
    gc.disable()
    try:
        import torch

        from lumen.inference.bare import bare_predictor
        from lumen.inference.predictor import LumenPredictor

        where = {"device": device, "dtype": None if dtype is None else getattr(torch, dtype)}
        if isinstance(source, BareLmm):
            bounds = {"max_new_tokens": source.max_new_tokens, "max_pixels": source.max_pixels}
            return bare_predictor(source.name_or_path, dialect=source.dialect, **where, **bounds)
        if isinstance(source, ExportedModel):
            return LumenPredictor.from_pretrained(source.folder, base_model=source.base_model, **where)
        return LumenPredictor.from_checkpoint(source.config, source.checkpoint, **where)
    finally:
        gc.freeze()
        gc.enable()


def _newest_exported() -> Path:
    from lumen.paths import find_path

    place = Path(find_path("work_dirs"))
    # Hidden folders are what killed processes left: they may be incomplete.
    found = [path for path in place.rglob(_EXPORTED) if "/." not in f"/{path.relative_to(place).as_posix()}"]
    if not found:
        raise CheckpointError(
            f"there is no exported model ({_EXPORTED}) in work_dirs: name the work folder of a run with --model, such "
            "as that of `make demo`, a folder that tools/export.py wrote, or an LMM that writes boxes with --lmm"
        )
    return max(found, key=lambda path: path.stat().st_mtime_ns).parent


def _files_of_run(folder: Path) -> ModelFiles:
    from lumen.serialization.checkpoint import find_checkpoint

    best = folder / _BEST
    # A killed process leaves a hidden one that may be half of a config.
    configs = sorted(folder.glob("[!.]*.py"), key=lambda path: path.stat().st_mtime_ns)
    if not configs:
        raise CheckpointError(f"{folder} holds no config; give the work folder of a training run, or --config")
    found = best if best.is_file() else find_checkpoint(folder)
    if found is None:
        raise CheckpointError(f"{folder} holds neither {_BEST} nor a checkpoint; has its training saved anything yet?")
    return ModelFiles(configs[-1], found)

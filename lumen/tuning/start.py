"""From what a user has and asks for to a written config, and from there to figures."""

import copy
import importlib.util
import json
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from lumen.data.check import Progress
from lumen.engine.cost import GPUS, Plan, make_plan
from lumen.engine.work_folder import held
from lumen.errors import ConfigError
from lumen.lmm.meta import KNOWN
from lumen.lmm.repository import read_config as read_lmm_config
from lumen.paths import find_path, real_path
from lumen.registry import DECODERS
from lumen.serialization.checkpoint import find_checkpoint
from lumen.tuning.base import Base, find_base, registered
from lumen.tuning.recipe import CONFIG, Wishes, config_text, load, write_config
from lumen.tuning.splits import Splits, find_splits
from lumen.tuning.survey import Survey, check_task, survey

_MFU = 0.35  # share of a plain matrix product's rate that a training is taken to reach
_TRIAL_STEPS, _TIMED_STEPS = 6, 4
_SHARE_OF_STEPS = 0.9  # of the minutes asked for; the rest is for loading and judging


@dataclass(frozen=True, slots=True)
class Source:
    """Where the data lies.

    Args:
        data: See ``find_splits``.
        images: Folder of the images, where it is not in ``data``.
        val_share: Share that is held out where there is no validation split; None for a fifth.
    """

    data: Path
    images: Path | None = None
    val_share: float | None = None


def prepare(
    source: Source,
    lmm: str,
    wishes: Wishes,
    folder: Path,
    *,
    minutes: float | int | None = None,
    say: Callable[[str], None] = print,
    progress: Progress = iter,
) -> Path:
    """Look at data and model, write what a training needs into a folder, and return the path of its config.

    Whatever can be refused is refused before a weight is loaded; a refused training leaves no folder behind.

    Args:
        source: Where the data lies.
        lmm: See ``find_base``.
        wishes: What is asked for.
        folder: Work folder; one with a config and a checkpoint is refused.
        minutes: Take as many steps as fit, by a trial of some steps; None for those of ``wishes``.
        say: Takes what was found, and the plan.
        progress: Wraps the images of a split while their files are looked at.

    Raises:
        ConfigError: The task, the folder or a setting does not fit.
        DataError: The data cannot be trained on.
        CheckpointError: The LMM cannot be reached.
    """
    check_task(wishes.task)
    require_training()
    _require_free(folder)
    base = find_base(lmm, wishes.task)
    lmm_config = read_lmm_config(find_path(base.name_or_path), None) if base.name_or_path not in KNOWN else None
    options = {"images": source.images, "val_share": source.val_share, "seed": wishes.seed}
    splits = find_splits(source.data, real_path(folder), task=wishes.task, **options)
    found = survey(splits, wishes.task, skip_budget=wishes.skip_budget, progress=progress)
    say(found.text)
    missing = [place for place in (folder, *folder.parents) if not place.exists()]
    try:
        return _write(base, splits, found, wishes, folder, lmm_config, minutes, say)
    except BaseException:
        _take_away(missing)
        raise


def _take_away(made: Sequence[Path]) -> None:
    """Remove a folder that was made, with all in it, and those above it that were made for it and hold nothing else."""
    for place in made[:1]:
        shutil.rmtree(place, ignore_errors=True)
    for place in made[1:]:
        if not place.is_dir() or any(place.iterdir()):  # another training may have begun in it meanwhile
            return
        place.rmdir()


def _write(
    base: Base,
    splits: Splits,
    found: Survey,
    wishes: Wishes,
    folder: Path,
    lmm_config: Any,
    minutes: float | int | None,
    say: Callable[[str], None],
) -> Path:
    """Write new label files and the config, with as many steps as fit, and tell the plan.

    Raises:
        ConfigError: A training writes into the folder: it would lose its config and its labels.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with held(folder):
        path = _write_files(base, splits, found, wishes, folder, minutes)
    say(plan_text(_plan(load(path), lmm_config)))
    return path


def _write_files(
    base: Base, splits: Splits, found: Survey, wishes: Wishes, folder: Path, minutes: float | int | None
) -> Path:
    for split in (splits.train, splits.val, splits.test):
        if split is not None:
            split.write()
    path = write_config(config_text(base, splits, found, wishes, folder), base, folder)
    if minutes is not None:
        wishes = replace(wishes, iters=steps_within(load(path), minutes))
        path = write_config(config_text(base, splits, found, wishes, folder), base, folder)
    return path


def train(path: Path, *, resume: bool = False) -> tuple[str, dict[str, float]]:
    """Train what a written config describes; return the name of the main figure, and all of the last validation.

    Args:
        path: The config.
        resume: Go on from the newest checkpoint of the work folder, where there is one.

    Raises:
        ConfigError: The config does not fit, or another training writes into the folder.
    """
    require_training()
    from lumen.engine.runner import LumenRunner

    config = load(path)
    config.resume = resume
    LumenRunner.from_cfg(config).train()
    card = json.loads((Path(config.work_dir) / "protocol_val.json").read_text(encoding="utf-8"))
    figures = {name: value for name, value in card["figures"].items() if isinstance(value, int | float)}
    return registered(config.model["decoders"][0]["type"], DECODERS).spec.headline, figures


def config_to_resume(folder: Path) -> Path:
    """Return the config of a work folder that ``prepare`` wrote; ConfigError where there is none."""
    path = folder / CONFIG
    if not path.is_file():
        raise ConfigError(f"{folder} holds no {CONFIG}: give --data to begin a training, or the right --out")
    return path


def steps_within(config: Any, minutes: float | int) -> int:
    """Return how many steps of a config fit into some minutes on this machine, by a trial of some of them."""
    from lumen.engine.runner import LumenRunner

    trial = copy.deepcopy(config)
    trial.train_cfg = {"max_iters": _TRIAL_STEPS}
    for name in ("dataloader", "evaluator", "cfg"):
        trial[f"val_{name}"] = trial[f"test_{name}"] = None
    with tempfile.TemporaryDirectory() as folder:
        trial.work_dir, trial.experiment_name = folder, "trial"
        runner = LumenRunner.from_cfg(trial)
        runner.train()
        seconds = runner.message_hub.get_scalar("train/time").mean(_TIMED_STEPS)
    return max(1, int(minutes * 60 * _SHARE_OF_STEPS / float(seconds)))


def plan_text(plan: Plan) -> str:
    """Return what a training costs, in a few lines."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    tflops, of_what = _gpu_tflops() if device == "cuda" else (matmul_tflops(), "")
    trained = sum(count for count, _ in plan.parameters.values())
    frozen = sum(count for _, count in plan.parameters.values())
    memory = f"{plan.peak_bytes / 1e9:.2f} GB of memory at most"
    if device == "cuda":
        whole = torch.cuda.get_device_properties(0).total_memory
        memory += f" of {whole / 1e9:.0f}" + ("" if plan.peak_bytes < whole else ": MAY NOT FIT")
    hours = plan.hours(tflops=tflops, mfu=_MFU)
    lasting = f"{hours:.1f} hours" if hours >= 1 else f"{max(1, round(60 * hours))} minutes"
    return (
        f"plan: {trained:,} parameters are trained, {frozen:,} are frozen; {memory}\n"
        f"plan: {plan.num_iters:,} steps, about {lasting} on this {device} (arithmetic alone, at {_MFU:.0%} of "
        f"{tflops:.2g} TFLOP/s{of_what})"
    )


def matmul_tflops(size: int = 768, seconds: float = 0.2) -> float:
    """Return the rate of a bfloat16 matrix product on one thread of the CPU, in TFLOP/s."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as a training on a machine without GPU
    matrix = torch.ones(size, size, dtype=torch.bfloat16)
    matrix @ matrix
    start, count = time.perf_counter(), 0
    while time.perf_counter() - start < seconds:
        matrix @ matrix
        count += 1
    rate = 2 * size**3 * count / (time.perf_counter() - start) / 1e12
    torch.set_num_threads(threads)
    return rate


def _gpu_tflops() -> tuple[float | int, str]:
    """Return the data sheet's rate of this GPU and no words; of one that is not known an A100's, and words on it."""
    name = torch.cuda.get_device_name(0)
    key = name.lower().replace(" ", "")
    known = next((tflops for known, (tflops, _) in GPUS.items() if known in key), None)
    return (known, "") if known else (GPUS["a100"][0], f", an A100's: that of {name} is not known")


def require_training() -> None:
    """Raise ConfigError where the packages that a training needs are missing."""
    if importlib.util.find_spec("cv2") is None:
        raise ConfigError("training needs further packages (cv2 is missing): pip install 'lumen-perception[train]'")


def _plan(config: Any, lmm_config: Any) -> Plan:
    if lmm_config is None:
        return make_plan(config)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "config.json"
        lmm_config.to_json_file(file)
        return make_plan(config, model_config=file)


def _require_free(folder: Path) -> None:
    if (folder / CONFIG).is_file() and find_checkpoint(folder) is not None:
        raise ConfigError(
            f"{folder} holds a training already: go on with lumen train --resume --out {folder}, or name another --out"
        )
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"{folder} is a file; --out names a folder")

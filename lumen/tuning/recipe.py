"""The config of a training: ten lines on top of a recipe of the package, which anybody can read and change."""

import ast
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lumen.config import read_config
from lumen.engine.check_config import load_config, parse_overrides
from lumen.errors import ConfigError
from lumen.paths import real_path
from lumen.serialization.atomic import write_text
from lumen.tuning.base import Base
from lumen.tuning.splits import Split, Splits
from lumen.tuning.survey import Survey

CONFIG = "config.py"
TUNES = ("frozen", "lora", "whole")
_BEFORE = "before"
_PACKAGE = Path(__file__).resolve().parents[2]
_NANO_SIDE = 320  # of its input at most; it was pretrained at 160
_NANO_MULTIPLE = 16
_NANO_CROP_HW = (160, 160)
# Steps by the number of training images: a guess between a first try and what small sets were measured with.
_NANO_STEPS = (4, 300, 1500)
_LMM_STEPS = (10, 500, 5000)
_NANO_BATCH, _LMM_BATCH = 16, 8


@dataclass(frozen=True, slots=True)
class Wishes:
    """What the user asks for, beside data and model.

    Args:
        task: Task to train.
        iters: Steps; None for a number by the size of the data.
        seed: Seed of the run.
        skip_budget: Share of the images, and of the annotations, that may be unusable.
        tune: What learns in the LMM, of ``TUNES``; None for ``whole`` of nano, ``lora`` of a larger one.
        overrides: ``key.path=value`` texts, as ``--cfg-options`` takes them.
    """

    task: str
    iters: int | None = None
    seed: int = 0
    skip_budget: float = 0.01
    tune: str | None = None
    overrides: Sequence[str] = ()


def num_steps(base: Base, survey: Survey, iters: int | None) -> int:
    """Return the steps of a run: those asked for, or a number by the size of the data."""
    per_image, least, most = _NANO_STEPS if base.is_nano else _LMM_STEPS
    return iters or min(max(per_image * survey.num_train, least), most)


def config_text(base: Base, splits: Splits, survey: Survey, wishes: Wishes, folder: Path) -> str:
    """Return the config of a training.

    Args:
        base: What it starts from.
        splits: The data.
        survey: What the data holds.
        wishes: Further settings.
        folder: Work folder.

    Raises:
        ConfigError: An override is not one.
    """
    recipe = f".{_BEFORE}" if base.run else f"lumen.recipes.{wishes.task}"
    lines = [
        f'"""{wishes.task} of {len(survey.names)} names on {survey.num_train} images, written by `lumen train`."""',
        "",
        "from mmengine.config import read_base",
        "",
        "with read_base():",
        f"    from {recipe} import *",
        *(["    from lumen.recipes.packaged_nano import *"] if base.is_nano and not base.run else []),
        "",
        *_model_lines(base, survey, wishes.task),
        *tune_lines(base, wishes.tune),
        f"_names = {_literal(survey.names)}",
        f"_shared = dict(classes=_names, skip_budget={wishes.skip_budget!r})",
        f'train_dataloader["dataset"].update(_shared, {_place(splits.train)})',
        f'val_dataloader["dataset"].update(_shared, {_place(splits.val)})',
        *_test_lines(splits.test),
        *_run_lines(base, survey, wishes, folder),
        *override_lines(wishes.overrides),
    ]
    return "\n".join(lines) + "\n"


def _model_lines(base: Base, survey: Survey, task: str) -> list[str]:
    if base.run:
        return [f"load_from = {_literal(str(base.run.checkpoint))}", "resume = False"]
    if not base.is_nano:
        return [f'_lmm["name_or_path"] = {_literal(base.name_or_path)}']
    input_hw = _NANO_CROP_HW if task == "pose" else nano_input_hw(survey.size_hw)  # of pose each object is cropped
    return [
        f'_lmm["name_or_path"] = {_literal(base.name_or_path)}',
        'model["lmm"], model["aligner"] = _lmm, _aligner',
        f'model["input_hw"] = {input_hw!r}',
    ]


def tune_lines(base: Base, tune: str | None) -> list[str]:
    """Return the lines of a config that make the LMM learn as asked, none for what the recipe does by itself.

    Raises:
        ConfigError: There is no such way, or it is not one for this base.
    """
    if tune is None:
        return []
    if tune not in TUNES or base.run or (tune == "whole" and not base.is_nano):
        raise ConfigError(
            f"--tune is one of {', '.join(TUNES)}; a run that goes on keeps its own, and whole is for nano alone, got "
            f"{tune!r} for {base.name_or_path}"
        )
    lora = '_lmm["base"]["lora"] = '
    frozen = '_freeze["trainable"] = []'
    if not base.is_nano:
        return [f"{lora}None", frozen] if tune == "frozen" else []
    rank = [f'{lora}dict(r=16, alpha=32, dropout=0.05, targets=["q_proj", "v_proj"])']
    hooks = ["custom_hooks = [_freeze, *custom_hooks]"]
    return {"frozen": [frozen, *hooks], "lora": [*rank, *hooks], "whole": []}[tune]


def nano_input_hw(size_hw: tuple[int, int]) -> tuple[int, int]:
    """Return the input size of nano for images of a size: of their shape, a multiple of 16, up to 320 pixels."""
    scale = min(1.0, _NANO_SIDE / max(size_hw))
    height, width = (max(1, round(side * scale / _NANO_MULTIPLE)) * _NANO_MULTIPLE for side in size_hw)
    return height, width


def _place(split: Split) -> str:
    images = f"data_prefix=dict(img={_literal(str(split.images))})"
    return f'data_root="", ann_file={_literal(str(split.ann_file))}, {images}'


def _literal(value: str | Sequence[str]) -> str:
    """Return a text, or texts, as Python writes them, with double quotes."""
    return json.dumps(value, ensure_ascii=False)


def _test_lines(test: Split | None) -> list[str]:
    if test is None:
        return ["test_dataloader = val_dataloader"]
    return [f'test_dataloader = dict(val_dataloader, dataset=dict(val_dataloader["dataset"], {_place(test)}))']


def _run_lines(base: Base, survey: Survey, wishes: Wishes, folder: Path) -> list[str]:
    steps = num_steps(base, survey, wishes.iters)
    batch = min(_NANO_BATCH if base.is_nano else _LMM_BATCH, survey.num_train)
    workers = ", num_workers=0, persistent_workers=False" if base.is_nano else ""
    interval = "" if base.is_nano else f", val_interval={max(steps // 5, 1)}"
    return [
        f"train_dataloader.update(batch_size={batch}{workers})",
        *(["val_dataloader.update(num_workers=0)"] if base.is_nano else []),
        f"train_cfg = dict(max_iters={steps}{interval})",
        f"randomness = dict(seed={wishes.seed})",
        f"work_dir = {_literal(str(real_path(folder)))}",
    ]


def override_lines(overrides: Sequence[str]) -> list[str]:
    """Return overrides as lines of a config, so that nothing of a run stands outside of it.

    ``custom_hooks.0.decay=0.9`` becomes ``custom_hooks[0]["decay"] = 0.9``; a dict is merged into what is there.
    """
    lines = []
    for path, value in parse_overrides(overrides).items():
        name, *keys = path.split(".")
        target = name + "".join(f"[{key}]" if key.isdigit() else f"[{key!r}]" for key in keys)
        lines.append(f"{target}.update({value!r})" if keys and isinstance(value, dict) else f"{target} = {value!r}")
    return lines


def write_config(text: str, base: Base, folder: Path) -> Path:
    """Write a config into the work folder, with that of the run to go on from beside it; return its path.

    Raises:
        ConfigError: A line of it names a setting that there is not.
    """
    ast.parse(text)  # overrides are the user's words
    folder.mkdir(parents=True, exist_ok=True)
    if base.run:
        read_config(base.run.config).dump(folder / f"{_BEFORE}.py")
    path = folder / CONFIG
    write_text(path, text)
    load(path)
    return path


def load(path: Path) -> Any:
    """Return the settings of a written config.

    Raises:
        ConfigError: It names a setting that there is not.
    """
    try:
        return load_config(path, tool_root=_PACKAGE)
    except (KeyError, IndexError, TypeError) as error:
        raise ConfigError(f"{path}: a line changes a setting that there is not ({error}); see --cfg-options") from error

"""Options that several commands share, and the model that they name. Imports nothing heavy."""

import inspect
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from lumen.errors import ConfigError
from lumen.inference.sources import MAX_NEW_TOKENS, BareLmm, Source, find_model

WRITTEN = "written_boxes"

ModelFolder = Annotated[
    Path | None,
    typer.Option(
        help="Exported folder with model.json, or org/name, one of the Hugging Face Hub, or work folder of a run, "
        "whose config is run as Python code. By default the newest exported folder in work_dirs.",
        show_default=False,
    ),
]
BaseModel = Annotated[
    str | None,
    typer.Option(help="Folder or id of the base model of an exported folder; only an id given here is downloaded."),
]
ConfigFile = Annotated[Path | None, typer.Option(help="Config, together with --checkpoint; it is run as Python code.")]
CheckpointFile = Annotated[Path | None, typer.Option(help="Checkpoint, together with --config.")]
LmmName = Annotated[
    str | None,
    typer.Option(
        help="Folder or id of a pretrained LMM that writes boxes itself, asked in its own words without training; "
        "an id is downloaded.",
    ),
]
DialectName = Annotated[
    str | None, typer.Option(help="--lmm: how it writes boxes, where its model type does not tell.")
]
MaxNewTokens = Annotated[int, typer.Option(min=1, help="--lmm: bound on the tokens of an answer.")]
MaxPixels = Annotated[
    int | None, typer.Option(min=1, help="--lmm: bound on the pixels of an image, where the LMM takes several sizes.")
]
Threshold = Annotated[
    float | None,
    typer.Option(
        "--threshold",
        "-t",
        help="Lowest score that is kept; by default 0.3, and 0 for sentences. Counts and texts have none.",
        show_default=False,
    ),
]
Device = Annotated[str | None, typer.Option(help="Such as cpu or cuda:0; by default a GPU, if any.")]


def choose_source(
    task: str,
    bare: tuple[str | None, str | None, int, int | None],
    files: tuple[Path | None, Path | None, Path | None, str | None],
) -> Source:
    """Return the model that the options of a command name.

    Args:
        task: What is asked of it.
        bare: ``--lmm``, ``--dialect``, ``--max-new-tokens`` and ``--max-pixels``.
        files: ``--model``, ``--config``, ``--checkpoint`` and ``--base-model``.

    Raises:
        ConfigError: The options do not fit each other.
        CheckpointError: There is no such model.
    """
    lmm, dialect, max_new_tokens, max_pixels = bare
    if lmm is not None:
        check_bare(task, *files)
        return BareLmm(lmm, dialect, max_new_tokens, max_pixels)
    refuse_bare_options(*bare)
    return find_model(*files)


def refuse_bare_options(lmm: str | None, dialect: str | None, max_new_tokens: int, max_pixels: int | None) -> None:
    """Raise ConfigError where options of a bare LMM are given without one."""
    if lmm is None and (dialect, max_new_tokens, max_pixels) != (None, MAX_NEW_TOKENS, None):
        raise ConfigError("--dialect, --max-new-tokens and --max-pixels belong to --lmm")


def refuse_others(command: Callable[..., Any], given: Mapping[str, Any], taken: Collection[str], why: str) -> None:
    """Raise ConfigError where a command was given more than it takes in this way, which would be ignored.

    Args:
        command: The function of the command; its defaults are what was not given.
        given: Its arguments by name.
        taken: Names of those that it takes.
        why: Start of the message.
    """
    parameters = inspect.signature(command).parameters
    others = [
        name.replace("_", " ")
        for name, parameter in parameters.items()
        if name not in taken and (given[name] or None) != (parameter.default or None)
    ]
    if others:
        raise ConfigError(f"{why}; leave out: {', '.join(others)}")


def check_bare(task: str, *files: Path | str | None) -> None:
    """Raise ConfigError where a bare LMM is asked for what it cannot give, or beside another model."""
    if task not in ("detection", WRITTEN):
        raise ConfigError(f"a bare LMM is asked for boxes only, got --task {task}: train a decoder for that task")
    if any(file is not None for file in files):
        raise ConfigError("give --lmm alone, without --model, --base-model, --config and --checkpoint")

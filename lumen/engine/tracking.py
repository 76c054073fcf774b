"""Curves of a run in TensorBoard and W&B, beside the files of the run. Both come through MMEngine's backends."""

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lumen.errors import ConfigError

# The backend of MMEngine, the package it needs, and the extra that installs the package.
TRACKERS = {
    "tensorboard": ("TensorboardVisBackend", "tensorboard", "train"),
    "wandb": ("WandbVisBackend", "wandb", "wandb"),
}


def log_to(config: Any, names: Sequence[str]) -> None:
    """Make a run write its losses, rates and metrics to trackers as well; a tracker that the config has stays one.

    TensorBoard reads the work folder. A run of W&B is called like the work folder; project, entity and mode come from
    the environment (``WANDB_PROJECT``, ``WANDB_ENTITY``, ``WANDB_MODE``), and its curves are drawn against iterations.

    Args:
        config: Config of a run, which is changed.
        names: Names of ``TRACKERS``.

    Raises:
        ConfigError: A name is unknown, its package is not installed, or W&B has no account to log in with.
    """
    for name in dict.fromkeys(names):
        if name not in TRACKERS:
            raise ConfigError(f"--log-to {name!r} is not an accepted value; known are {', '.join(TRACKERS)}")
        backend, package, extra = TRACKERS[name]
        if importlib.util.find_spec(package) is None:
            raise ConfigError(
                f"--log-to {name} needs the package {package}, which is not installed: "
                f"pip install 'lumen-perception[{extra}]'"
            )
        if name == "wandb":
            _log_in()
        backends = _backends_of(config)
        if not any(_is_of(each, backend) for each in backends):
            backends.append({"type": backend, **_options(name, Path(config.work_dir))})


def _backends_of(config: Any) -> list:
    """Return the list of backends in a config, where it can be added to."""
    if config.get("visualizer") is None:
        config.visualizer = {"type": "Visualizer"}
    if config.visualizer.get("vis_backends") is None:
        config.visualizer.vis_backends = []
    return config.visualizer.vis_backends


def _options(name: str, work_dir: Path) -> dict[str, Any]:
    if name != "wandb":
        return {}
    # Without a step of its own, W&B counts calls, which come more often than every iteration that is logged.
    return {"init_kwargs": {"name": work_dir.name}, "define_metric_cfg": [{"name": "*", "step_metric": "iter"}]}


def _is_of(backend: Any, name: str) -> bool:
    kind = backend["type"]
    return name == (kind if isinstance(kind, str) else kind.__name__).rpartition(".")[2]


def _log_in() -> None:
    """Find out before the model is built whether W&B takes the run; offline it asks for no account."""
    import wandb

    try:
        wandb.login()
    except wandb.errors.Error as error:
        raise ConfigError(
            f"--log-to wandb: {error} Set WANDB_API_KEY, or WANDB_MODE=offline for a run that is uploaded later"
        ) from error

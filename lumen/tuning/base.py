"""What a training starts from: a pretrained LMM, nano, or a run of Lumen to go on from."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmengine import Config

from lumen.config import read_config
from lumen.data.coco import CocoDataset
from lumen.errors import ConfigError
from lumen.inference.sources import ExportedModel, ModelFiles, find_model
from lumen.paths import find_path
from lumen.registry import DATASETS, DECODERS

_NANO_TOWER = "lumen_nano_vision"


@dataclass(frozen=True, slots=True)
class Base:
    """A model to train further.

    Args:
        name_or_path: Folder or id of the LMM, as a config names it.
        is_nano: Whether it is of the size of nano, whose recipe trains more of it.
        run: Config and checkpoint of the run to go on from; None for an LMM alone.
    """

    name_or_path: str
    is_nano: bool
    run: ModelFiles | None = None


def find_base(name: str, task: str) -> Base:
    """Return what ``--lmm`` names: a hub id, a folder of an LMM, ``nano``, or a work folder or checkpoint of a run.

    Raises:
        ConfigError: It is an exported model, or the run has no decoder for the task, or trained on other data than
            images with boxes.
        CheckpointError: A work folder lacks its config or a checkpoint.
    """
    place = Path(find_path(name))
    if (place / "config.json").is_file():
        # Absolute, so that the config runs from any folder; a name of the package stays a name.
        return Base(str(place.resolve()) if Path(name).exists() else name, _is_nano(place))
    if not place.exists():
        return Base(name, is_nano=False)
    run = _run_of(place)
    config = read_config(run.config)
    _check_run(config, run, task)
    lmm = config.model["lmm"]["name_or_path"]
    return Base(lmm, _is_nano(Path(find_path(lmm))), run)


def _run_of(place: Path) -> ModelFiles:
    found = find_model(place.parent if place.is_file() else place, None, None)
    if isinstance(found, ExportedModel):
        raise ConfigError(
            f"{place} is an exported model, which holds no training: give --lmm the work folder of its run, or its LMM"
        )
    return ModelFiles(found.config.resolve(), (place if place.is_file() else found.checkpoint).resolve())


def _check_run(config: Config, run: ModelFiles, task: str) -> None:
    """Raise ConfigError where a run cannot go on with other data."""
    kinds = [registered(decoder["type"], DECODERS) for decoder in config.model["decoders"]]
    tasks = [kind.spec.name for kind in kinds]
    if tasks != [task]:
        raise ConfigError(
            f"{run.config} trains {', '.join(tasks)}, and --task is {task}: only one decoder, of the same task, can go "
            "on; give its LMM to begin another one"
        )
    dataset = (config.get("train_dataloader") or {}).get("dataset", {})
    kind = registered(dataset.get("type"), DATASETS)
    if not (isinstance(kind, type) and issubclass(kind, CocoDataset)):
        raise ConfigError(
            f"{run.config} trains on {getattr(kind, '__name__', kind)}, which is not one set of images with boxes: "
            "write a config by hand, with load_from"
        )


def registered(kind: Any, registry: Any) -> Any:
    """Return the class that a ``type`` of a config stands for: it names the class itself or as text."""
    return registry.get(kind) if isinstance(kind, str) else kind


def _is_nano(folder: Path) -> bool:
    file = folder / "config.json"
    if not file.is_file():
        return False
    content = json.loads(file.read_text(encoding="utf-8"))
    return content.get("vision_config", {}).get("model_type") == _NANO_TOWER

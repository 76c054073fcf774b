"""A trained model from its files: config, checkpoint, and how its pipelines look at an image."""

from dataclasses import dataclass
from os import PathLike

from mmengine import Config

from lumen.checkpoint import load_checkpoint, load_trained_state
from lumen.config import read_config
from lumen.data.views import Views, find_views
from lumen.errors import CheckpointError
from lumen.model import Lumen
from lumen.paths import CHECKOUT
from lumen.registry import MODELS


@dataclass(frozen=True, slots=True)
class TrainedModel:
    """A model with its weights.

    Args:
        model: The model, on the CPU.
        views: How it sees images and objects.
        description: What is known of it, for reports.
    """

    model: Lumen
    views: Views
    description: dict[str, str]


def load_trained(config_path: str | PathLike[str], checkpoint_path: str | PathLike[str]) -> TrainedModel:
    """Build the model of a config and load a checkpoint.

    Raises:
        ConfigError: The config cannot be read, or names neither ``FrameImage`` nor ``CropInstance``.
        CheckpointError: The checkpoint, or the base model that it builds on, cannot be loaded.
    """
    config = read_config(config_path, import_roots=[CHECKOUT])
    views = find_views(config)
    checkpoint = load_checkpoint(checkpoint_path)
    model = _build_model(config)
    load_trained_state(model, checkpoint)
    known = {"config": str(config_path), "checkpoint": str(checkpoint_path)}
    return TrainedModel(model, views, {**model.describe(), "iter": str(checkpoint["meta"].get("iter", "?")), **known})


def _build_model(config: Config) -> Lumen:
    try:
        return MODELS.build(config.model)
    except OSError as error:
        raise CheckpointError(
            f"the base model of {config.filename} cannot be read: {str(error).strip().splitlines()[0]} "
            "Checkpoints hold what was trained only; put the base model where the config's name_or_path says"
        ) from error

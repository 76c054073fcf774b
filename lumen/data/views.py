"""How a config's pipelines frame an image, so that a predictor frames it in the same way, without augmentation."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from mmengine import Config

from lumen.data.keypoint_transforms import AskKeypoints, CropInstance
from lumen.data.pipelines import NO_INPUTS, ModelInputs, fill_step
from lumen.data.transforms import ResizeToInput
from lumen.errors import ConfigError
from lumen.registry import TRANSFORMS

_LOADERS = ("test_dataloader", "val_dataloader", "train_dataloader")


@dataclass(frozen=True, slots=True)
class Views:
    """The transforms of a config that choose what is seen and how keypoints are worded.

    Args:
        whole: Frames the image.
        crop: Cuts out an object.
        ask: Words its keypoints.
    """

    whole: ResizeToInput
    crop: CropInstance
    ask: AskKeypoints


def find_views(config: Config, inputs: ModelInputs = NO_INPUTS) -> Views:
    """Return the views of a config's test pipeline; what that lacks comes from validation, then from training.

    Sizes, modes and paddings are taken over, augmentation is not.

    A config with one of the two views gets the other at the same input size; keypoints are worded as
    ``AskKeypoints`` does by itself where no pipeline asks for any.

    Args:
        config: The config.
        inputs: ``Lumen.inputs`` of its model; gives the sizes that the pipelines leave out.

    Raises:
        ConfigError: There is neither ``ResizeToInput`` nor ``CropInstance``.
    """
    # The pipeline of testing comes first, since its view is that of prediction.
    steps = [step for name in _LOADERS for step in _steps((config.get(name) or {}).get("dataset"))]
    whole, crop, ask = (_first(steps, kind, inputs) for kind in (ResizeToInput, CropInstance, AskKeypoints))
    if whole is None and crop is None:
        raise ConfigError(
            f"{config.filename}: no dataset of {_LOADERS} has ResizeToInput or CropInstance in its pipeline: add one "
            "or make LumenPredictor(model, input_hw=...) yourself"
        )
    # The view that a config lacks gets the size of the one that it has.
    seen = crop if whole is None else whole
    view = {"input_hw": seen.input_hw, "pad_value": seen.pad_value}
    return Views(
        # Built anew without chances: random zooms and flips belong to training.
        ResizeToInput(**view) if whole is None else ResizeToInput(**view, mode=whole.mode),
        CropInstance(**view) if crop is None else _plain_crop(crop),
        AskKeypoints() if ask is None else AskKeypoints(wording=ask.wording),
    )


def _plain_crop(crop: CropInstance) -> CropInstance:
    return CropInstance(input_hw=crop.input_hw, padding=crop.padding, pad_value=crop.pad_value)


def _steps(dataset: Any) -> Iterator[Any]:
    """Yield the transforms of a data set and of those that it is made of."""
    if not isinstance(dataset, Mapping):
        return
    yield from dataset.get("pipeline", ())
    for inner in (dataset.get("dataset"), *dataset.get("datasets", ())):
        yield from _steps(inner)


def _first(steps: list[Any], kind: type, inputs: ModelInputs) -> Any:
    for step in steps:
        if isinstance(step, kind):
            return step
        if isinstance(step, Mapping) and _names(step["type"], kind):
            return TRANSFORMS.build(fill_step(step, inputs))
    return None


def _names(given: type | str, kind: type) -> bool:
    return given is kind or (isinstance(given, str) and given.rpartition(".")[2] == kind.__name__)

"""What the model of a config expects of its data, found without building it."""

from collections.abc import Mapping
from typing import Any

from mmengine import Config

from lumen.data.pipelines import ModelInputs
from lumen.lmm.meta import input_spec_of
from lumen.model import MAX_PIXELS
from lumen.registry import DECODERS


def inputs_of_config(config: Config | Mapping[str, Any]) -> ModelInputs:
    """Return the same as ``Lumen.inputs`` of the model that ``config`` describes.

    The LMM's own config is read where the size of its images is not written as ``model.input_hw``.

    Raises:
        ConfigError: The LMM does not take ``input_hw``.
        CheckpointError: The LMM's config is needed and cannot be read.
    """
    model = config["model"]
    kinds = [decoder["type"] for decoder in model["decoders"]]
    tasks = [(DECODERS.get(kind) if isinstance(kind, str) else kind).spec.name for kind in kinds]
    # As `Lumen` itself chooses: what is written, else what the LMM takes.
    size = model.get("input_hw")
    if size is None:
        size = input_spec_of(model["lmm"]).chosen_hw(None, model.get("max_pixels", MAX_PIXELS))
    return ModelInputs((int(size[0]), int(size[1])), tasks[0] if len(tasks) == 1 else None)

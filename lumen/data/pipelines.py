"""What a model decides about the pipelines of its data, filled in where a config leaves it out."""

import inspect
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

from lumen.errors import ConfigError
from lumen.registry import DATASETS, TRANSFORMS
from lumen.structures import Prompt


@dataclass(frozen=True, slots=True)
class ModelInputs:
    """What a model expects of its data.

    Args:
        input_hw: Height and width of its images; None where the model names none.
        task: Task of its only decoder; None where it has several.
        fit_text: Check of the texts that it is to learn, see ``lumen.lmm.tokens.limits.TextLimits``; None where it
            learns nothing.
    """

    input_hw: tuple[int, int] | None = None
    task: str | None = None
    fit_text: Callable[[Prompt], Prompt | None] | None = field(default=None, compare=False)


NO_INPUTS = ModelInputs()


@runtime_checkable
class FedModel(Protocol):
    """A model that says what it expects of its data; the runner fills the pipelines of its loaders."""

    @property
    def inputs(self) -> ModelInputs:
        """What it expects."""


def fill_pipelines(node: Any, inputs: ModelInputs) -> Any:
    """Return the config of a loader or data set with the size and the task that its pipelines leave out.

    Every transform that takes ``input_hw`` gets that of the model, every one that takes ``task`` the task of the
    model's only decoder, every one that takes ``fit_text`` the model's check. What the config names stays, and the
    config that was given stays as it is. So do the arguments that a data set names in ``foreign_settings``: they belong
    to another library.

    Args:
        node: A config; data sets inside data sets are filled too, built ones are not.
        inputs: What the model expects.

    Raises:
        ConfigError: A size is missing and the model names none.
    """
    if isinstance(node, Mapping):
        # Data sets may lie in data sets, such as mixtures; pipelines are filled wherever they are.
        foreign = _foreign_settings(node.get("type"))
        filled = {
            key: value if key in foreign else fill_pipelines(value, inputs)
            for key, value in node.items()
            if key != "pipeline"
        }
        if "pipeline" in node:
            filled["pipeline"] = [fill_step(step, inputs) for step in node["pipeline"]]
        return filled
    return type(node)(fill_pipelines(item, inputs) for item in node) if isinstance(node, list | tuple) else node


def _foreign_settings(kind: Any) -> Collection[str]:
    """Return the arguments of a data set that hold settings of another library."""
    found = DATASETS.get(kind) if isinstance(kind, str) else kind
    return getattr(found, "foreign_settings", ())


def fill_step(step: Any, inputs: ModelInputs) -> Any:
    """Return one transform of a pipeline as ``fill_pipelines`` does; a built one stays as it is."""
    if not isinstance(step, Mapping):
        return step
    # By the arguments of the class: a transform of a plug-in is filled in the same way.
    accepted = inspect.signature(_class_of(step)).parameters
    # A copy: the config is logged and stored as it was written.
    filled = dict(step)
    if "input_hw" in accepted and step.get("input_hw") is None:
        if inputs.input_hw is None:
            raise ConfigError(
                f"{_class_of(step).__name__} has no input_hw, and the model names none: set model.input_hw"
            )
        filled["input_hw"] = inputs.input_hw
    if "task" in accepted and step.get("task") is None and inputs.task is not None:
        filled["task"] = inputs.task
    if "fit_text" in accepted and step.get("fit_text") is None and inputs.fit_text is not None:
        filled["fit_text"] = inputs.fit_text
    return filled


def _class_of(step: Mapping[str, Any]) -> Callable:
    kind = step["type"]
    found = TRANSFORMS.get(kind) if isinstance(kind, str) else kind
    if found is None:
        raise ConfigError(f"there is no transform {kind!r}; import its module, or give the class itself")
    return found

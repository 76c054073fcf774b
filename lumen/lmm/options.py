"""Checks of an adapter's options, before anything is loaded."""

from collections.abc import Mapping, Sequence

from lumen.errors import ConfigError
from lumen.lmm.features import SOURCES
from lumen.prompts import TaskWording, Template

_CHOICES = {
    "position": ("loc", "before_loc"),
    "packing": ("packed", "separate"),
    "features": SOURCES,
    "answer_mode": ("forced", "generated"),
    "new_tokens": ("resize", "learn"),
}


def check_choices(**options: str) -> None:
    """Raise ConfigError where an option has no such value."""
    for name, value in options.items():
        if value not in _CHOICES[name]:
            raise ConfigError(f"{name} must be one of {_CHOICES[name]}, got {value!r}")


def check_answers(template: Template, answer_mode: str) -> None:
    """Raise ConfigError where answers are to be generated that the template does not have."""
    if answer_mode == "generated" and not template.has_answer:
        raise ConfigError(f"template {template.name!r} has no answer to generate: use 'paper', or answer_mode='forced'")


def check_layers(layers: Sequence[int], count: int) -> None:
    """Raise ConfigError where a layer is not among the states of an LLM with ``count`` layers."""
    if any(not -count - 1 <= layer <= count for layer in layers):
        raise ConfigError(
            f"the LLM has {count} layers; query_layer and feature_layer lie between 0, the embeddings, and {count}, or "
            f"count from -1, got {tuple(layers[1:])}"
        )


def wording(task: TaskWording | Mapping[str, str | bool]) -> TaskWording:
    """Return the wording of a task that a config may give as a dict of its fields."""
    return task if isinstance(task, TaskWording) else TaskWording(**task)

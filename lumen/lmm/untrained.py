"""Which parts of a base model hold random weights: a note in its config, so that others are not trained from scratch.

A downloaded model has no such note: all of it is trained.
"""

from collections.abc import Sequence

from torch import nn
from transformers import PretrainedConfig

UNTRAINED = "untrained_parts"


def note_untrained(config: PretrainedConfig, parts: Sequence[str]) -> None:
    """Note in the config of a base model which of its parts hold random weights.

    Args:
        config: Of the whole model.
        parts: Names of modules or parameters of the model, such as ``model.multi_modal_projector``; an empty name
            stands for the whole model.
    """
    setattr(config, UNTRAINED, list(parts))


def pretrained_names(lmm: nn.Module) -> list[str]:
    """Return the names of an adapter's parameters that came trained, as the adapter calls them.

    Low-rank adapters and rows of new tokens start anew; an adapter without a base model has none.
    """
    base = getattr(lmm, "base_model", None)
    if base is None:
        return []
    untrained = getattr(base.config, UNTRAINED, ())
    return [
        f"base_model.{name}"
        for name, _ in base.named_parameters()
        if ".lora_" not in name and not any(_lies_in(name, part) for part in untrained)
    ]


def _lies_in(name: str, part: str) -> bool:
    return part == "" or f"{name}.".startswith(f"{part}.")

"""Fields that a data set declares for its objects: checked once per sample, and moved with the image."""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from lumen.errors import ConfigError, DataError
from lumen.ops.fields import declaration, to_input
from lumen.ops.geometry import InputTransform
from lumen.structures import FIELD_KINDS, Field

_STANDARD = frozenset({"bboxes", "labels", "is_ignored", "ann_ids", "segmentations", "masks"})


def fields_to_input(instances: dict[str, Any], frame: InputTransform, fields: Mapping[str, Field]) -> dict[str, Any]:
    """Return the instances with their declared fields as tensors in the network input.

    Args:
        instances: Arrays with a row per object, in original pixels as far as ``fields`` are concerned.
        frame: Where the image lies in the network input.
        fields: What the data set declares, by name.

    Raises:
        ConfigError: There is an array that is not declared, or a declared one is missing.
        DataError: An array has another shape or type than its field.
    """
    # An array of unknown kind would stay where it was while the image moves.
    undeclared = sorted(instances.keys() - _STANDARD - fields.keys())
    if undeclared:
        raise ConfigError(
            f"instances hold {undeclared}, of which no kind is declared: it decides what resizing, flips and crops do "
            f"to them. Declare each in the class of the data set, such as {declaration(undeclared[0], 'numbers')}; "
            f"kinds are {FIELD_KINDS}"
        )
    lacking = sorted(fields.keys() - instances.keys())
    if lacking:
        raise ConfigError(
            f"the data set declares the fields {lacking}, its instances hold {sorted(instances)}. Add them in its "
            "load_data_list"
        )
    moved = {
        name: to_input(_checked(name, instances[name], declared), declared.kind, frame)
        for name, declared in fields.items()
    }
    return {**instances, **moved}


def field_rows(instances: Mapping[str, Any], objects: Int[Tensor, " rows"], fields: Iterable[str]) -> dict[str, Tensor]:
    """Return the declared fields of some objects, for a table of targets."""
    return {name: torch.as_tensor(instances[name])[objects] for name in fields}


def _checked(name: str, values: Any, declared: Field) -> Tensor:
    """Return the values of a field as a tensor of the declared type."""
    array = np.asarray(values)
    is_integer = np.issubdtype(array.dtype, np.integer)
    # Integers are taken where numbers are declared, not the reverse.
    if array.shape[1:] != declared.shape or not (is_integer or np.issubdtype(array.dtype, np.floating)):
        raise DataError(
            f"the field {name!r} is declared as {declared.kind} of shape {declared.shape} per object, its array has "
            f"shape {array.shape} (objects first) and type {array.dtype}"
        )
    if declared.kind == "classes" and not is_integer:
        raise DataError(f"the field {name!r} is declared as classes, which are integers, its array has {array.dtype}")
    return torch.from_numpy(array).to(declared.dtype)

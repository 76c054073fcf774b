"""The fields of objects between original pixels and input pixels, each by its kind. See ``lumen.structures.Field``."""

from collections.abc import Callable, Mapping

from mmengine.structures import InstanceData
from torch import Tensor

from lumen.errors import ConfigError
from lumen.ops.geometry import InputTransform
from lumen.ops.masks import codes_to_input, encode_masks, masks_to_original
from lumen.structures import MOVING_KINDS, STANDARD_KINDS, PerceptionSample, TaskSpec

_TO_INPUT: Mapping[str, Callable[[InputTransform, Tensor], Tensor]] = {
    "boxes": InputTransform.boxes_to_input,
    "points": InputTransform.points_to_input,
    "directions": InputTransform.directions_to_input,
    "angles": InputTransform.angles_to_input,
}
_TO_ORIGINAL: Mapping[str, Callable[[InputTransform, Tensor], Tensor]] = {
    "boxes": InputTransform.boxes_to_original,
    "points": InputTransform.points_to_original,
    "directions": InputTransform.directions_to_original,
    "angles": InputTransform.angles_to_original,
}


def to_input(values: Tensor, kind: str, frame: InputTransform) -> Tensor:
    """Return the values of a field, one row per object, as they are in the network input; classes and numbers stay."""
    return _TO_INPUT[kind](frame, values) if kind in _TO_INPUT else values


def answer_to_original(answer: InstanceData, frame: InputTransform, kinds: Mapping[str, str]) -> InstanceData:
    """Map an answer from input pixels to original pixels: the one place where that happens, by kind of field.

    Masks, probabilities over the whole input (n, rows, cols), become a list of COCO run-length codes.

    Args:
        answer: What a decoder wrote; it is changed.
        frame: Of the sample.
        kinds: Kind of each field that is not standard: ``TaskSpec.kinds``.
    """
    for name, kind in _kinds_of(answer, kinds).items():
        if kind == "masks":
            answer.masks = masks_to_original(answer.pop("masks"), frame)
        elif kind in _TO_ORIGINAL:
            answer[name] = _TO_ORIGINAL[kind](frame, answer[name])
    return answer


def answer_to_input(answer: InstanceData, frame: InputTransform, kinds: Mapping[str, str]) -> InstanceData:
    """Return an answer in original pixels as one in input pixels, on the CPU; masks stay run-length codes."""
    moved = InstanceData(**dict(answer.cpu().items()))
    for name, kind in _kinds_of(answer, kinds).items():
        if kind == "masks":
            moved.masks = encode_masks(codes_to_input(moved.pop("masks"), frame))
        else:
            moved[name] = to_input(moved[name], kind, frame)
    return moved


def check_fields(spec: TaskSpec, sample: PerceptionSample) -> None:
    """Refuse a sample whose data set does not declare the targets of a task as the task does.

    Raises:
        ConfigError: A target that moves with the image is not declared, or a target is declared as something else.
    """
    declared = sample.get("fields") or {}
    for name in sorted(spec.targets & spec.fields.keys()):
        kind, found = spec.fields[name].kind, declared.get(name)
        # A kind that does not move needs no declaration.
        if found == kind or (found is None and kind not in MOVING_KINDS):
            continue
        came = "does not declare it" if found is None else f"declares it as {found}"
        raise ConfigError(
            f"task {spec.name!r} reads the target {name!r} as {kind}, but the data set {came}, so resizing, flips and "
            f"crops would not treat it as {kind}. Write in the class of the data set: {declaration(name, kind)}"
        )


def declaration(name: str, kind: str) -> str:
    """Return the line that declares a field in the class of a data set."""
    return f'fields = {{"{name}": Field("{kind}")}}  # from lumen.structures'


def _kinds_of(table: InstanceData, kinds: Mapping[str, str]) -> dict[str, str]:
    return {name: kinds.get(name, STANDARD_KINDS.get(name, "numbers")) for name in table.keys()}  # noqa: SIM118

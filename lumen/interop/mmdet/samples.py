"""``PerceptionSample`` to and from mmdet's ``DetDataSample``, and answers drawn by mmdet's visualizer."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, UInt8
from mmengine.structures import InstanceData
from torch import Tensor

from lumen.errors import DataError
from lumen.interop.mmdet.library import mmdet_scope
from lumen.ops.geometry import InputTransform
from lumen.ops.masks import decode_masks, encode_masks
from lumen.structures import NO_LABEL, PerceptionSample, Prompt

_TABLES = ("gt_instances", "ignored_instances", "pred_instances")
_OF_MMDET = ("ori_shape", "img_shape", "scale_factor", "flip", "flip_direction")
"""Metainfo that the frame and the sizes of a sample of Lumen stand for."""


def to_det_data_sample(sample: PerceptionSample) -> Any:
    """Return a sample as mmdet's ``DetDataSample``.

    All tables and metainfo go along. Masks of targets become ``BitmapMasks`` in input pixels, masks of predictions bool
    tensors in original pixels; ``scale_factor``, ``flip`` and ``flip_direction`` are those of the frame.

    Raises:
        ConfigError: mmdet is not installed.
        DataError: The frame is a crop or padded in front, which mmdet's metainfo cannot state.
    """
    with mmdet_scope("to_det_data_sample"):
        from mmdet.structures import DetDataSample

    converted = DetDataSample(metainfo={**sample.metainfo, **_mmdet_frame(sample.frame)})
    for name in _TABLES:
        table = sample.get(name)
        if table is None:
            continue
        fields = dict(table.items())
        if "masks" in fields:
            is_answer = name == "pred_instances"
            fields["masks"] = (
                decode_masks(fields["masks"], sample.ori_shape) if is_answer else _bitmaps(fields["masks"])
            )
        setattr(converted, name, InstanceData(**fields))
    return converted


def from_det_data_sample(sample: Any, *, classes: Sequence[str] = (), task: str = "detection") -> PerceptionSample:
    """Return mmdet's ``DetDataSample`` as a sample of Lumen.

    Args:
        sample: Targets in input pixels, as mmdet's transforms pack them, predictions in original pixels. Metainfo with
            ``prompts`` and ``frame``, as ``to_det_data_sample`` gives it, stays; otherwise each of ``classes`` is one
            prompt, and ``img_shape``, ``ori_shape``, ``scale_factor`` and ``flip`` give the frame.
        classes: Names of the labels.
        task: Task of the prompts.

    Raises:
        ConfigError: mmdet is not installed.
        DataError: The sample lacks ``ori_shape`` or ``img_shape``, or a label has no name.
    """
    with mmdet_scope("from_det_data_sample"):
        pass
    meta = dict(sample.metainfo)
    names = tuple(classes or meta.get("classes") or ())
    lacking = [key for key in ("ori_shape", "img_shape") if key not in meta]
    if lacking:
        raise DataError(f"the sample has no {lacking} in its metainfo; add them to meta_keys of PackDetInputs")
    derived = {
        "prompts": tuple(Prompt(name, task=task, label=label) for label, name in enumerate(names)),
        "frame": _lumen_frame(meta),
    }
    sizes = {key: tuple(meta[key][:2]) for key in ("ori_shape", "img_shape")}
    kept = {key: value for key, value in meta.items() if key not in _OF_MMDET}
    converted = PerceptionSample()
    for key, value in {**derived, **kept, **sizes, "classes": names}.items():
        converted.set_field(value, key, field_type="metainfo")
    for name in _TABLES:
        if name in sample:
            setattr(converted, name, _lumen_table(sample.get(name), converted, is_answer=name == "pred_instances"))
    return converted


def draw_by_mmdet(
    image: UInt8[np.ndarray, "height width 3"],
    table: InstanceData,
    *,
    classes: Sequence[str],
    score_threshold: float | int = 0.3,
    out_file: Path | str | None = None,
) -> UInt8[np.ndarray, "height width 3"]:
    """Return an image with answers drawn into it by mmdet's ``DetLocalVisualizer``.

    Args:
        image: RGB.
        table: Answers of ``LumenPredictor``, or ``pred_instances`` of a sample, in original pixels: ``scores``,
            ``labels`` and ``bboxes``, ``masks`` or both.
        classes: Names of the labels: the phrases that were asked.
        score_threshold: Answers of this score or less are not drawn.
        out_file: Where to write the picture as well.

    Raises:
        ConfigError: mmdet is not installed.
        DataError: The table has neither boxes nor masks, or a label has no name.
    """
    if "bboxes" not in table and "masks" not in table:
        raise DataError(f"DetLocalVisualizer draws bboxes or masks, got a table of {sorted(table.keys())}")
    _check_labels(table.labels, classes)
    fields = {key: table[key] for key in ("bboxes", "labels", "scores") if key in table}
    if "masks" in table:
        fields["masks"] = decode_masks(table.masks, image.shape[:2])
    with mmdet_scope("draw_by_mmdet"):
        from mmdet.structures import DetDataSample
        from mmdet.visualization import DetLocalVisualizer

        visualizer = DetLocalVisualizer()
        visualizer.dataset_meta = {"classes": tuple(classes), "palette": "random"}
        drawn = DetDataSample(pred_instances=InstanceData(**fields))
        options = {"draw_gt": False, "pred_score_thr": score_threshold}
        visualizer.add_datasample(
            "answers", image, drawn, out_file=None if out_file is None else str(out_file), **options
        )
        return visualizer.get_image()


def _check_labels(labels: Tensor, classes: Sequence[str]) -> None:
    if len(labels) and not (int(labels.min()) >= 0 and int(labels.max()) < len(classes)):
        raise DataError(f"labels {int(labels.min())} to {int(labels.max())} do not fit {len(classes)} names")


def _mmdet_frame(frame: InputTransform) -> dict[str, Any]:
    (scale_x, scale_y), (height, width) = frame.scale_xy, frame.input_hw
    # Where mmdet flips an image, the corner of the original lies at the far end.
    expected = (width if scale_x < 0 else 0.0, height if scale_y < 0 else 0.0)
    if tuple(map(float, frame.shift_xy)) != tuple(map(float, expected)):
        raise DataError(f"mmdet's metainfo states scales and flips, and not a shift of {frame.shift_xy} pixels")
    direction = {(True, False): "horizontal", (False, True): "vertical", (True, True): "diagonal"}
    flipped = (scale_x < 0, scale_y < 0)
    scale = (abs(float(scale_x)), abs(float(scale_y)))
    return {"scale_factor": scale, "flip": any(flipped), "flip_direction": direction.get(flipped)}


def _lumen_frame(meta: Mapping[str, Any]) -> InputTransform:
    ori_hw, input_hw = tuple(meta["ori_shape"][:2]), tuple(meta["img_shape"][:2])
    scale = meta.get("scale_factor", (input_hw[1] / ori_hw[1], input_hw[0] / ori_hw[0]))
    frame = InputTransform(ori_hw, input_hw, (float(scale[0]), float(scale[1])), (0.0, 0.0))
    direction = meta.get("flip_direction") if meta.get("flip") else None
    if direction in ("horizontal", "diagonal"):
        frame = frame.flip_horizontal()
    return frame.flip_vertical() if direction in ("vertical", "diagonal") else frame


def _bitmaps(masks: Bool[Tensor, "n height width"]) -> Any:
    from mmdet.structures.mask import BitmapMasks

    return BitmapMasks(masks.cpu().numpy().astype(np.uint8), *masks.shape[1:])


def _lumen_table(table: InstanceData, sample: PerceptionSample, *, is_answer: bool) -> InstanceData:
    """Return a table with plain boxes, Lumen's masks, and the prompt that each row answers."""
    fields = dict(table.items())
    if hasattr(fields.get("bboxes"), "tensor"):  # boxes of mmdet know their kind
        fields["bboxes"] = fields["bboxes"].convert_to("hbox").tensor
    if "masks" in fields:
        masks = fields["masks"]
        bits = masks if isinstance(masks, Tensor) else torch.from_numpy(masks.to_ndarray().astype(bool))
        fields["masks"] = encode_masks(bits.bool()) if is_answer else bits.bool()
    if "prompt_index" not in fields:
        _check_labels(fields["labels"], sample.classes)
        prompt_of_label = torch.full((len(sample.classes),), NO_LABEL)
        for number, prompt in enumerate(sample.prompts):
            if prompt.label != NO_LABEL:
                prompt_of_label[prompt.label] = number
        fields["prompt_index"] = prompt_of_label[fields["labels"].cpu()]
    return InstanceData(**fields)

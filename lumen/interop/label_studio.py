"""Boxes and masks in the JSON of Label Studio, as predictions to correct.

Formats: https://labelstud.io/guide/tasks and https://labelstud.io/guide/predictions. Coordinates are percent of the
image. ``lumen.interop.label_studio_export`` reads what a person made of them.
"""

from collections.abc import Sequence
from typing import Any
from urllib.parse import quote
from xml.sax.saxutils import quoteattr

from mmengine.structures import InstanceData

from lumen.interop.brush import pack_mask
from lumen.ops.masks import decode_masks

LOCAL_FILES = "/data/local-files/"
IMAGE, BOXES, MASKS = "image", "boxes", "masks"
"""Names of the tags of ``labelling_config``."""


def labelling_config(labels: Sequence[str], *, has_masks: bool) -> str:
    """Return the labelling config of a project for the tasks of ``make_task``."""
    choices = "".join(f"    <Label value={quoteattr(label)}/>\n" for label in labels)
    kinds = (("RectangleLabels", BOXES), *((("BrushLabels", MASKS),) if has_masks else ()))
    tags = "".join(f'  <{kind} name="{name}" toName="{IMAGE}">\n{choices}  </{kind}>\n' for kind, name in kinds)
    return f'<View>\n  <Image name="{IMAGE}" value="${IMAGE}" zoom="true"/>\n{tags}</View>\n'


def make_task(file: str, folder: str, size_hw: tuple[int, int], table: InstanceData, version: str) -> dict[str, Any]:
    """Return a task of an import file: an image of the local storage, with an answer to correct.

    Args:
        file: Name of the image below ``folder``; it is kept as ``data["file"]`` for the way back.
        folder: Of the image, below the document root of Label Studio; may be empty.
        size_hw: Height and width of the image.
        table: With ``scores``, ``phrases`` and ``bboxes`` or ``masks``, in pixels of the image.
        version: What predicted it.
    """
    place = f"{folder}/{file}" if folder else file
    data = {IMAGE: f"{LOCAL_FILES}?d={quote(place)}", "file": file, "height": size_hw[0], "width": size_hw[1]}
    is_mask = "masks" in table
    names = {"from_name": MASKS if is_mask else BOXES, "to_name": IMAGE}
    regions = brushes(table, size_hw, **names) if is_mask else rectangles(table, size_hw, **names)
    return {"data": data, "predictions": [make_prediction(table, regions, version)]}


def make_prediction(table: InstanceData, regions: list[dict[str, Any]], version: str) -> dict[str, Any]:
    """Return regions as a prediction; its score is the mean of theirs."""
    scores = table.scores.tolist()
    return {"model_version": version, "score": sum(scores) / len(scores) if scores else 0.0, "result": regions}


def rectangles(table: InstanceData, size_hw: tuple[int, int], *, from_name: str, to_name: str) -> list[dict[str, Any]]:
    """Return boxes as regions, for the tags of these names."""
    height, width = size_hw
    values = [
        {
            "x": 100 * x1 / width,
            "y": 100 * y1 / height,
            "width": 100 * (x2 - x1) / width,
            "height": 100 * (y2 - y1) / height,
            "rotation": 0,
        }
        for x1, y1, x2, y2 in table.bboxes.tolist()
    ]
    return _regions("rectanglelabels", values, table, size_hw, {"from_name": from_name, "to_name": to_name})


def brushes(table: InstanceData, size_hw: tuple[int, int], *, from_name: str, to_name: str) -> list[dict[str, Any]]:
    """Return masks as regions, for the tags of these names."""
    values = [{"format": "rle", "rle": pack_mask(decode_masks([code], size_hw)[0].numpy())} for code in table.masks]
    return _regions("brushlabels", values, table, size_hw, {"from_name": from_name, "to_name": to_name})


def _regions(
    kind: str, values: list[dict[str, Any]], table: InstanceData, size_hw: tuple[int, int], names: dict[str, str]
) -> list[dict[str, Any]]:
    shape = {"original_width": size_hw[1], "original_height": size_hw[0], "image_rotation": 0}
    rows = zip(values, table.scores.tolist(), table.phrases, strict=True)
    return [
        {**names, "type": kind, **shape, "score": score, "value": {**value, kind: [phrase]}}
        for value, score, phrase in rows
    ]

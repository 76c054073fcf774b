"""Corrected annotations out of Label Studio: its JSON export becomes a COCO file to train on.

Format: https://labelstud.io/guide/export (JSON). Coordinates are percent of the image. Label Studio writes COCO files
itself, which hold no brush masks and name images by its own copies.
"""

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import torch

from lumen.errors import DataError, named_faults
from lumen.interop.brush import unpack_mask
from lumen.interop.label_studio import IMAGE, LOCAL_FILES
from lumen.ops.masks import Rle, encode_masks, mask_area, mask_boxes, segmentation_to_rle
from lumen.paths import IMAGE_SUFFIXES, is_unwritable

Box = tuple[float, float, float, float]
Shape = tuple[Box, float, Rle | list[list[float]] | None]
"""Box (x1, y1, x2, y2), area in pixels and COCO's ``segmentation``."""
NOT_ANNOTATED = "tasks without an annotation"


def to_coco(
    tasks: Any, names: Sequence[str] = (), *, read_size: Callable[[str], tuple[int, int]] | None = None
) -> tuple[dict[str, Any], Counter[str]]:
    """Return the annotations of an export as the content of a COCO file.

    Rectangles, polygons and brush masks become objects; a turned rectangle becomes the upright box around it. Of
    several annotations of a task the one that is marked as ground truth counts, else the newest. A task that nobody
    annotated is left out; one whose annotation is empty is a picture without objects.

    Args:
        tasks: The parsed export: a list of tasks.
        names: The categories, in this order; those that occur, by name, where none are given.
        read_size: Returns height and width of an image by its name, for tasks that do not tell.

    Returns:
        The content, and how much was left out, by reason.

    Raises:
        DataError: It is not such an export, a label is none of ``names``, or the size of an image is not known.
    """
    if not isinstance(tasks, list) or not all(isinstance(task, Mapping) and "data" in task for task in tasks):
        raise DataError("expected a list of tasks with 'data' and 'annotations': choose JSON as the export format")
    left_out: Counter[str] = Counter()
    images, found = [], []
    for task in tasks:
        place = f"task {task.get('id', len(images) + 1)}"
        with named_faults(f"{place} cannot be read", DataError, remedy="choose JSON as the export format"):
            annotation = _newest(task.get("annotations") or [])
            if annotation is None:
                left_out[NOT_ANNOTATED] += 1
                continue
            regions = annotation["result"]
            file = _file_of(task["data"], place)
            size_hw = _size_of(regions, task["data"], file, read_size)
            if is_unwritable(file) or not file or not all(type(side) is int and side > 0 for side in size_hw):
                raise ValueError(f"an image has a name and whole sides above 0, got {file!r} of {size_hw!r:.80}")
            image = {"id": len(images) + 1, "file_name": file, "height": size_hw[0], "width": size_hw[1]}
            images.append(image)
            found += [(image["id"], *shape) for shape in _shapes(regions, size_hw, left_out)]
    if len(set(names)) < len(names):
        raise DataError(f"name each category once, got {list(names)}")
    names = list(names) or sorted({label for _, label, _ in found})
    unknown = sorted({label for _, label, _ in found} - set(names))
    if unknown:
        raise DataError(f"the export holds labels {unknown}, which are none of the categories {names}")
    return _coco(images, found, names), left_out


def _coco(images: list[dict[str, Any]], found: list[tuple[int, str, Shape]], names: Sequence[str]) -> dict[str, Any]:
    annotations = []
    for image_id, label, ((x1, y1, x2, y2), area, segmentation) in found:
        annotation = {
            "id": len(annotations) + 1,
            "image_id": image_id,
            "category_id": names.index(label) + 1,
            "bbox": [round(value, 3) for value in (x1, y1, x2 - x1, y2 - y1)],
            "area": round(area, 3),
            "iscrowd": 0,
        }
        annotations.append(annotation | ({} if segmentation is None else {"segmentation": segmentation}))
    categories = [{"id": number, "name": name} for number, name in enumerate(names, start=1)]
    return {"images": images, "annotations": annotations, "categories": categories}


def _newest(annotations: Sequence[Mapping[str, Any]]) -> Mapping[str, Any] | None:
    """Return the annotation of a task that counts; None where there is none that was not cancelled."""
    kept = [each for each in annotations if not each.get("was_cancelled")]
    when = [each.get("updated_at") or each.get("created_at") or "" for each in kept]
    order = sorted(range(len(kept)), key=lambda place: (bool(kept[place].get("ground_truth")), when[place], place))
    return kept[order[-1]] if order else None


def _file_of(data: Mapping[str, Any], place: str) -> str:
    """Return the name of the image: the one that ``lumen label`` wrote, or the one at the end of its address."""
    if isinstance(data.get("file"), str):
        return data["file"]
    texts = [data.get(IMAGE), *data.values()]
    for address in (text for text in texts if isinstance(text, str) and not text.startswith("data:")):
        parts = urlsplit(address)
        path = parse_qs(parts.query).get("d", [""])[0] if parts.path.endswith(LOCAL_FILES) else unquote(parts.path)
        if path.lower().endswith(IMAGE_SUFFIXES):
            return path if parts.path.endswith(LOCAL_FILES) else PurePosixPath(path).name
    raise DataError(f"{place} names no image file: its data has {sorted(data)}")


def _size_of(
    regions: Sequence[Mapping[str, Any]],
    data: Mapping[str, Any],
    file: str,
    read_size: Callable[[str], tuple[int, int]] | None,
) -> tuple[int, int]:
    for region in regions:
        if "original_height" in region:
            return region["original_height"], region["original_width"]
    if "height" in data and "width" in data:
        return data["height"], data["width"]
    if read_size is None:
        raise DataError(f"{file} has no region, and so no size: name the folder of the images, by --images")
    return read_size(file)


def _shapes(
    regions: Sequence[Mapping[str, Any]], size_hw: tuple[int, int], left_out: Counter[str]
) -> Iterator[tuple[str, Shape]]:
    """Yield the objects of an annotation: label and shape."""
    for region in regions:
        kind, value = region.get("type"), region.get("value")
        if kind not in _READERS:
            left_out[f"regions of type {kind}"] += 1
            continue
        box, area, segmentation = _READERS[kind](value, size_hw)
        if not all(map(math.isfinite, (*box, area))):
            raise ValueError(f"a region has numbers that are not finite: {value!r:.80}")
        height, width = size_hw
        x1, y1, x2, y2 = max(box[0], 0.0), max(box[1], 0.0), min(box[2], float(width)), min(box[3], float(height))
        if x2 <= x1 or y2 <= y1:
            left_out["regions without area"] += 1
            continue
        area = (x2 - x1) * (y2 - y1) if segmentation is None else area
        labels = value.get(kind) or []
        if not isinstance(labels, list) or not all(map(_is_label, labels)):
            raise ValueError(f"labels are a list of texts, got {labels!r:.80}")
        left_out["regions without a label"] += not labels
        yield from ((label, ((x1, y1, x2, y2), area, segmentation)) for label in labels)


def _is_label(label: Any) -> bool:
    return isinstance(label, str) and label != "" and not is_unwritable(label)


def _rectangle(value: Mapping[str, Any], size_hw: tuple[int, int]) -> Shape:
    """Return the upright box around a rectangle, which is turned clockwise around its first corner."""
    height, width = size_hw
    x, y = value["x"] * width / 100, value["y"] * height / 100
    w, h = value["width"] * width / 100, value["height"] * height / 100
    angle = math.radians(value.get("rotation") or 0)
    cos, sin = math.cos(angle), math.sin(angle)
    xs = [x + a * cos - b * sin for a, b in ((0, 0), (w, 0), (w, h), (0, h))]
    ys = [y + a * sin + b * cos for a, b in ((0, 0), (w, 0), (w, h), (0, h))]
    return (min(xs), min(ys), max(xs), max(ys)), w * h, None


def _polygon(value: Mapping[str, Any], size_hw: tuple[int, int]) -> Shape:
    height, width = size_hw
    corners = [[x * width / 100, y * height / 100] for x, y in value["points"]]
    polygon = [round(number, 3) for corner in corners for number in corner]
    if len(corners) < 3:
        return (0.0, 0.0, 0.0, 0.0), 0.0, None
    xs, ys = zip(*corners, strict=True)
    area = mask_area(segmentation_to_rle([polygon], size_hw))
    return (min(xs), min(ys), max(xs), max(ys)), float(area), [polygon]


def _brush(value: Mapping[str, Any], size_hw: tuple[int, int]) -> Shape:
    mask = encode_masks(torch.from_numpy(unpack_mask(value["rle"], size_hw))[None])
    x1, y1, x2, y2 = mask_boxes(mask)[0].tolist()
    return (x1, y1, x2, y2), float(mask_area(mask[0])), mask[0]


_READERS: Mapping[str, Callable[[Mapping[str, Any], tuple[int, int]], Shape]] = {
    "rectanglelabels": _rectangle,
    "polygonlabels": _polygon,
    "brushlabels": _brush,
}

"""Labels of other tools as the content of a COCO file: YOLO's text files and Pascal VOC's XML, read by supervision."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any
from xml.etree.ElementTree import ParseError

import torch

from lumen.errors import ConfigError, DataError, named_faults
from lumen.ops.masks import encode_masks

_FOLDERS = frozenset({"images", "labels", "annotations", "jpegimages"})
_NAME_FILES = ("classes.txt", "obj.names")
_BOX_WORDS = 6  # class, centre, size, and the score that some tools add


@dataclass(frozen=True, slots=True)
class LabelledPicture:
    """An image with the file of its labels.

    Args:
        name: Path of the image below the folder of the images, with ``/``.
        size_hw: Height and width of the image in pixels.
        labels: The file.
    """

    name: str
    size_hw: tuple[int, int]
    labels: Path


def label_key(path: PurePath) -> str:
    """Return what the files of one picture have in common, of a path below the data set's folder.

    ``images/train/a.jpg``, ``labels/train/a.txt`` and ``train/images/a.jpg`` give ``train/a``.
    """
    parts = [part for part in path.with_suffix("").parts if part.lower() not in _FOLDERS]
    return "/".join(parts)


def read_yolo_names(folder: Path) -> list[str] | None:
    """Return the class names of a YOLO folder in the order of their numbers; None where no file lists them.

    Raises:
        DataError: The file that should list them does not.
    """
    for path in (*sorted((*folder.glob("*.yaml"), *folder.glob("*.yml"))), *(folder / name for name in _NAME_FILES)):
        if path.is_file():
            with named_faults(f"{path} cannot be read", DataError, remedy="list the class names in it"):
                return _names_in(path)
    return None


def _names_in(path: Path) -> list[str]:
    if path.name in _NAME_FILES:
        return [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    _require_supervision()
    from supervision.utils.file import read_yaml_file

    content = read_yaml_file(str(path))
    names = content.get("names") if isinstance(content, dict) else None
    if isinstance(names, dict):  # by class number
        names = [names[number] for number in sorted(names, key=int)]
    if not isinstance(names, list):
        raise DataError(f"{path}: 'names' must list the classes, got {names!r}")
    return [str(name) for name in names]


def yolo_to_coco(pictures: Sequence[LabelledPicture], names: Sequence[str]) -> dict[str, Any]:
    """Return YOLO labels as the content of a COCO file; category ids count from 1 in the order of ``names``.

    A line is a box or a polygon, both in shares of the image.

    Raises:
        DataError: A file is not YOLO's, or has a class number without a name.
        ConfigError: supervision is not installed.
    """
    _require_supervision()
    from supervision.dataset.formats.yolo import yolo_annotations_to_detections

    def read(picture: LabelledPicture) -> tuple[Any, list[str]]:
        lines = [line for line in picture.labels.read_text(encoding="utf-8").splitlines() if line.strip()]
        height, width = picture.size_hw
        has_polygons = any(len(line.split()) > _BOX_WORDS for line in lines)
        found = yolo_annotations_to_detections(lines, (width, height), with_masks=has_polygons)
        numbers = [] if found.class_id is None else found.class_id.tolist()
        if any(not 0 <= number < len(names) for number in numbers):
            raise ValueError(f"class numbers {sorted(set(numbers))} where there are {len(names)} names: {list(names)}")
        return found, [names[number] for number in numbers]

    return _to_coco(pictures, read, names)


def voc_to_coco(pictures: Sequence[LabelledPicture]) -> dict[str, Any]:
    """Return Pascal VOC labels as the content of a COCO file, with categories in alphabetical order.

    Raises:
        DataError: A file is not VOC's.
        ConfigError: supervision is not installed.
    """
    _require_supervision()
    from defusedxml.ElementTree import parse
    from supervision.dataset.formats.pascal_voc import detections_from_xml_obj

    def read(picture: LabelledPicture) -> tuple[Any, list[str]]:
        height, width = picture.size_hw
        found, names = detections_from_xml_obj(parse(picture.labels).getroot(), [], (width, height))
        return found, [names[number] for number in found.class_id.tolist()]

    return _to_coco(pictures, read, None)


def _to_coco(
    pictures: Sequence[LabelledPicture],
    read: Callable[[LabelledPicture], tuple[Any, list[str]]],
    names: Sequence[str] | None,
) -> dict[str, Any]:
    images, rows = [], []
    for number, picture in enumerate(pictures, start=1):
        height, width = picture.size_hw
        images.append({"id": number, "file_name": picture.name, "height": height, "width": width})
        try:
            found, named = read(picture)
        except (ValueError, OSError, ParseError) as error:
            raise DataError(f"{picture.labels}: {error}. Correct the file, or take it and its image away") from error
        rows += [{**row, "image_id": number, "name": name} for row, name in zip(_rows(found), named, strict=True)]
    listed = sorted({row["name"] for row in rows}) if names is None else list(names)
    # Of a name that is listed twice the first one is meant; the check of the data reports it.
    ids: Mapping[str, int] = {name: number for number, name in reversed(list(enumerate(listed, start=1)))}
    return {
        "images": images,
        "annotations": [
            {"id": number, "category_id": ids[row.pop("name")], **row} for number, row in enumerate(rows, start=1)
        ],
        "categories": [{"id": number, "name": name} for number, name in enumerate(listed, start=1)],
    }


def _rows(found: Any) -> list[dict[str, Any]]:
    """Return box, area and, where there is one, mask of each row of ``supervision.Detections``."""
    rows = []
    for row, (left, top, right, bottom) in enumerate(found.xyxy.tolist()):
        box = [left, top, right - left, bottom - top]
        rows.append({"bbox": box, "area": box[2] * box[3], "iscrowd": 0})
        if found.mask is not None:
            (rows[-1]["segmentation"],) = encode_masks(torch.from_numpy(found.mask[row : row + 1]))
    return rows


def _require_supervision() -> None:
    try:
        import supervision  # noqa: F401 - whether it is there
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"labels of YOLO and VOC are read by the package supervision ({error}): pip install "
            "'lumen-perception[label]'"
        ) from error

"""Read COCO-format annotation files: every fault is an error or a counted skip, never silent.

Class names, category ids and labels come from one list, so they cannot disagree. Boxes are xyxy in original pixels,
clipped to the image.
"""

import json
import os
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lumen.data.federated import federated_problem, file_name_of, verify
from lumen.data.image import MAX_PIXELS
from lumen.errors import DataError
from lumen.ops.masks import Rle, segmentation_to_rle
from lumen.paths import open_file

MAX_SIDE = 100_000
MAX_NAME_LENGTH = 512
MAX_ID = 2**53
CLIPPED = "box clipped to the image"


@dataclass(frozen=True, slots=True)
class CocoFile:
    """A checked annotation file.

    Args:
        classes: Name of each label.
        cat_ids: Category id of each label.
        records: One per usable image: ``img_path``, ``img_id``, ``ori_hw`` (height, width) and ``instances``, which
            holds the arrays ``bboxes`` (n, 4) float32, ``labels`` (n) int64, ``is_ignored`` (n) bool (crowd or ignored)
            and ``ann_ids`` (n) int64; with masks also ``segmentations`` (n), an object array of run-length codes.
            Records of federated files have ``absent_labels`` too, see ``federated.verify``.
        report: Reason -> ids of the images or annotations that were skipped (or, for ``CLIPPED``, changed). The
            position in the file stands for an id that is missing.
    """

    classes: tuple[str, ...]
    cat_ids: tuple[int, ...]
    records: list[dict]
    report: dict[str, list[int]]


def read_coco(
    ann_file: str | os.PathLike[str],
    *,
    image_root: str = "",
    classes: Sequence[str] | None = None,
    skip_budget: float = 0.001,
    with_masks: bool = False,
    federated: bool = False,
) -> CocoFile:
    """Read and check a COCO-format file.

    Args:
        ann_file: Path of the json file.
        image_root: Folder that the file names are relative to and may not leave.
        classes: Names to keep, in this order; ``None`` keeps the categories of the file in their order.
        skip_budget: Share of the images, and of the annotations, that may be skipped before it is an error.
        with_masks: Read ``segmentation`` too; an annotation without a sound one is skipped.
        federated: The file states per image which classes were verified, as LVIS does.

    Raises:
        DataError: The file is not a COCO file, lacks one of ``classes``, or the budget is exceeded.
    """
    content = load_json(ann_file)
    options = {"classes": classes, "skip_budget": skip_budget, "with_masks": with_masks, "federated": federated}
    return parse_coco(content, ann_file, image_root=image_root, **options)


def parse_coco(
    content: Mapping[str, Any],
    ann_file: str | os.PathLike[str],
    *,
    image_root: str,
    classes: Sequence[str] | None,
    skip_budget: float,
    with_masks: bool,
    federated: bool,
) -> CocoFile:
    """Check the content of a file as ``load_json`` returns it; ``ann_file`` names it in errors. See ``read_coco``."""
    # Categories first: an annotation cannot be judged without them.
    name_of_id = _check_categories(content["categories"], ann_file)
    classes, cat_ids = _select_classes(name_of_id, classes, ann_file)
    report: defaultdict[str, list[int]] = defaultdict(list)
    images = check_images(content["images"], report, name_of_id if federated else None)
    # Before the annotations, whose reasons would all be that their image was skipped.
    check_budget(report, len(content["images"]), skip_budget, f"{ann_file}: images")
    # A report of its own, so that annotations have a budget of their own.
    rows: defaultdict[str, list[int]] = defaultdict(list)
    annotations = _check_annotations(content["annotations"], images, name_of_id, rows)
    # Annotations are checked whatever `classes` are chosen; the choice is made here.
    records = _make_records(images, annotations, cat_ids, image_root, rows, with_masks)
    if federated:
        label_of_id = {cat_id: label for label, cat_id in enumerate(cat_ids)}
        # After the boxes: unknown classes are marked per image, by label.
        records = [verify(record, images[record["img_id"]], label_of_id) for record in records]
    check_budget(rows, len(content["annotations"]), skip_budget, f"{ann_file}: annotations")
    return CocoFile(classes=classes, cat_ids=cat_ids, records=records, report={**report, **rows})


def load_json(ann_file: str | os.PathLike[str]) -> dict[str, Any]:
    """Read a json file with the lists ``images``, ``annotations`` and ``categories``, or raise DataError."""
    return as_coco(parse_json(ann_file), ann_file)


def as_coco(content: Any, ann_file: str | os.PathLike[str]) -> dict[str, Any]:
    """Return the content of a json file where it holds the three lists of a COCO file, or raise DataError."""
    if not isinstance(content, dict):
        raise DataError(f"{ann_file}: a COCO file holds a dict, this one a {type(content).__name__}")
    for key in ("images", "annotations", "categories"):
        if not isinstance(content.get(key), list):
            raise DataError(f"{ann_file}: {key!r} must be a list, got {type(content.get(key)).__name__}")
    return content


def parse_json(path: str | os.PathLike[str]) -> Any:
    """Return the content of a json file, or raise DataError."""
    try:
        with open_file(path) as file:
            return json.load(file)
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path}: cannot be read as json ({type(error).__name__}: {error})") from error


def format_report(report: Mapping[str, Sequence[int | str]], *, num_shown: int = 5) -> str:
    """Return a table of reasons, counts and the first ids."""
    lines = [
        f"  {len(ids):7d}  {reason}: {', '.join(map(str, ids[:num_shown]))}{', ...' if len(ids) > num_shown else ''}"
        for reason, ids in sorted(report.items())
    ]
    return "\n".join(lines) or "  nothing skipped"


def _check_categories(categories: list, ann_file: str | os.PathLike[str]) -> dict[int, str]:
    """Return the name of each category id, in file order."""
    name_of_id: dict[int, str] = {}
    names: set[str] = set()
    for category in categories:
        problem = category_problem(category, name_of_id, names)
        if problem is not None:
            raise DataError(f"{ann_file}: {problem}, got {ascii(category)[:200]}")
        name_of_id[category["id"]] = category["name"]
        names.add(category["name"].strip())
    if not name_of_id:
        raise DataError(f"{ann_file}: 'categories' is empty")
    return name_of_id


def category_problem(category: Any, ids: Collection[int], names: Collection[str]) -> str | None:
    """Return what is wrong with a category entry; None if nothing is.

    Args:
        category: The entry.
        ids: Ids of the entries before it.
        names: Their names without white space around them: two classes that are asked in the same words would be
            present and absent at once.
    """
    cat_id = category.get("id") if isinstance(category, dict) else None
    name = category.get("name") if isinstance(category, dict) else None
    if not is_id(cat_id) or not is_printable(name) or len(name) > MAX_NAME_LENGTH:
        return f"a category needs an integer id and a name of 1 to {MAX_NAME_LENGTH} printable characters"
    if cat_id in ids or name.strip() in names:
        return "a category id or name occurs twice; merge or rename them"
    return None


def _select_classes(
    name_of_id: Mapping[int, str], classes: Sequence[str] | None, ann_file: str | os.PathLike[str]
) -> tuple[tuple[str, ...], tuple[int, ...]]:
    # Names, ids and labels come from this one table.
    id_of_name = {name: cat_id for cat_id, name in name_of_id.items()}
    names = tuple(id_of_name) if classes is None else tuple(classes)
    missing = [name for name in names if name not in id_of_name]
    if missing or not names or len(set(names)) < len(names):
        raise DataError(
            f"{ann_file}: classes must be different names of its categories; not among them: {missing}; "
            f"asked for: {list(names)}; the file has: {list(id_of_name)}"
        )
    return names, tuple(id_of_name[name] for name in names)


def check_images(
    entries: list, report: defaultdict[str, list[int]], verifiable: Collection[int] | None = None
) -> dict[int, dict]:
    """Return the usable image entries by id, in file order; in federated files classes must be ``verifiable``."""
    images: dict[int, dict] = {}
    for position, entry in enumerate(entries):
        problem = _image_problem(entry, images)
        if problem is None and verifiable is not None:
            problem = federated_problem(entry, verifiable)
        if problem is None:
            images[entry["id"]] = entry
        else:
            report[problem].append(_id_or_position(entry, position))
    return images


def _image_problem(entry: Any, images: Mapping[int, dict]) -> str | None:
    if not isinstance(entry, dict):
        return "image entry is not a dict"
    if not is_id(entry.get("id")):
        return "image id is missing or not an integer"
    if entry["id"] in images:
        return "image id occurs twice"
    name = file_name_of(entry)
    if not is_printable(name):
        return "file_name is missing or not a file name"
    # A file from elsewhere must not name files outside of its folder.
    if os.path.isabs(name) or ".." in name.replace("\\", "/").split("/"):
        return "file_name leaves the image folder"
    sides = (entry.get("height"), entry.get("width"))
    if not all(_is_number(side) and side == int(side) and 1 <= side <= MAX_SIDE for side in sides):
        return f"image width or height is missing or not a whole number in 1..{MAX_SIDE}"
    if sides[0] * sides[1] >= 2**31:  # run-length codes count pixels in 32 bits
        return "image has 2^31 pixels or more"
    return None


def _check_annotations(
    entries: list, images: Mapping[int, dict], name_of_id: Mapping[int, str], report: defaultdict[str, list[int]]
) -> dict[int, dict]:
    """Return the usable annotations by id, in file order."""
    annotations: dict[int, dict] = {}
    for position, entry in enumerate(entries):
        problem = _annotation_problem(entry, images, name_of_id, annotations)
        if problem is None:
            annotations[entry["id"]] = entry
        else:
            report[problem].append(_id_or_position(entry, position))
    return annotations


def _annotation_problem(
    entry: Any, images: Mapping[int, dict], name_of_id: Mapping[int, str], annotations: Mapping[int, dict]
) -> str | None:
    if not isinstance(entry, dict):
        return "annotation is not a dict"
    if not is_id(entry.get("id")):
        return "annotation id is missing or not an integer"
    if entry["id"] in annotations:
        return "annotation id occurs twice"
    if not is_id(entry.get("image_id")) or entry["image_id"] not in images:
        return "annotation of an unknown or skipped image"
    if not is_id(entry.get("category_id")) or entry["category_id"] not in name_of_id:
        return "annotation of an unknown category"
    box = entry.get("bbox")
    if not isinstance(box, list) or len(box) != 4 or not all(map(_is_number, box)):
        return "bbox is not four finite numbers"
    if box[2] <= 0 or box[3] <= 0:
        return "box without area"
    # `in (0, 1)` would call True and 1.0 equal to 1, which is what is wanted here.
    if entry.get("iscrowd", 0) not in (0, 1) or entry.get("ignore", 0) not in (0, 1):
        return "iscrowd or ignore is neither 0 nor 1"
    return None


def _make_records(
    images: Mapping[int, dict],
    annotations: Mapping[int, dict],
    cat_ids: Sequence[int],
    image_root: str,
    report: defaultdict[str, list[int]],
    with_masks: bool,
) -> list[dict]:
    """Build one record per image; boxes are clipped, those outside their image and unselected classes are left out."""
    label_of_id = {cat_id: label for label, cat_id in enumerate(cat_ids)}
    chosen = [entry for entry in annotations.values() if entry["category_id"] in label_of_id]
    # From here on all annotations are rows of arrays, which is fast for millions of them.
    slot_of_image = {img_id: slot for slot, img_id in enumerate(images)}
    slots = np.array([slot_of_image[entry["image_id"]] for entry in chosen], dtype=np.int64)
    sizes_hw = np.array([(int(e["height"]), int(e["width"])) for e in images.values()], dtype=np.int64).reshape(-1, 2)
    boxes = np.array([entry["bbox"] for entry in chosen], dtype=np.float64).reshape(-1, 4)
    # From corner and size to two corners, in float64; clipped, they fit float32.
    boxes[:, 2:] += boxes[:, :2]
    clipped = np.clip(boxes, 0.0, sizes_hw[slots][:, [1, 0, 1, 0]]).astype(np.float32)
    ann_ids = np.array([entry["id"] for entry in chosen], dtype=np.int64)
    # Checked after the cast: a thin box far from the origin may lose its extent in float32.
    is_kept = (clipped[:, 2:] > clipped[:, :2]).all(axis=1)
    _report_rows(report, "box outside its image, or too small for float32", ann_ids[~is_kept])
    # Annotation tools round: less than a pixel over the border is not reported.
    _report_rows(report, CLIPPED, ann_ids[is_kept & (np.abs(clipped - boxes) > 1).any(axis=1)])
    table = {
        "bboxes": clipped,
        "labels": np.array([label_of_id[entry["category_id"]] for entry in chosen], dtype=np.int64),
        "is_ignored": np.array([bool(e.get("iscrowd", 0) or e.get("ignore", 0)) for e in chosen], dtype=bool),
        "ann_ids": ann_ids,
    }
    if with_masks:
        table["segmentations"] = _segmentations(chosen, sizes_hw[slots])
        is_sound = np.array([code is not None for code in table["segmentations"]], dtype=bool)
        _report_rows(report, "segmentation is missing, broken or of another size", ann_ids[is_kept & ~is_sound])
        is_kept &= is_sound
    kept = np.flatnonzero(is_kept)
    # Sorted by image, in file order within it, so that an image is a slice of each array.
    kept = kept[np.argsort(slots[kept], kind="stable")]
    # Slice of image number s: ends[s] to ends[s + 1]; empty where it has no annotation.
    ends = np.searchsorted(slots[kept], np.arange(len(images) + 1))
    return [
        {
            "img_path": os.path.join(image_root, file_name_of(entry)),
            "img_id": img_id,
            "ori_hw": (int(entry["height"]), int(entry["width"])),
            "instances": {key: column[kept[ends[slot] : ends[slot + 1]]] for key, column in table.items()},
        }
        for slot, (img_id, entry) in enumerate(images.items())
    ]


def _segmentations(entries: Sequence[dict], sizes_hw: np.ndarray) -> np.ndarray:
    """Return the run-length code of each annotation, None where there is no sound one."""
    codes = np.empty(len(entries), dtype=object)
    for row, (entry, size_hw) in enumerate(zip(entries, sizes_hw.tolist(), strict=True)):
        codes[row] = find_segmentation(entry, size_hw)
    return codes


def find_segmentation(entry: Mapping[str, Any], size_hw: Sequence[int]) -> Rle | None:
    """Return the mask of an annotation in an image of ``size_hw``, None if it has no sound one."""
    # A mask takes memory of the size of its image, whatever the file claims that to be.
    if size_hw[0] * size_hw[1] > MAX_PIXELS:
        return None
    try:
        return segmentation_to_rle(entry.get("segmentation"), size_hw)
    except DataError:
        return None


def _report_rows(report: defaultdict[str, list[int]], reason: str, ids: np.ndarray) -> None:
    if len(ids):
        report[reason].extend(ids.tolist())


def check_budget(report: Mapping[str, Sequence[Any]], num_entries: int, skip_budget: float, what: str) -> None:
    """Raise DataError if more than a share ``skip_budget`` of the entries is in ``report``; clipped ones are not."""
    # A clipped box is still used.
    num_skipped = sum(len(ids) for reason, ids in report.items() if reason != CLIPPED)
    if num_skipped > skip_budget * num_entries:
        raise DataError(
            f"{what}: {num_skipped} of {num_entries} would be skipped, the budget is {skip_budget:.3%}; correct the "
            f"file or raise skip_budget\n{format_report(report)}"
        )


def _id_or_position(entry: Any, position: int) -> int:
    return entry["id"] if isinstance(entry, dict) and is_id(entry.get("id")) else position


def is_id(value: Any) -> bool:
    """Whether a value can be an id: an integer, not a bool, that json and float64 hold."""
    return type(value) is int and -MAX_ID < value < MAX_ID


def is_printable(value: Any) -> bool:
    """Whether a value is a text of one line that shows something."""
    return isinstance(value, str) and value.isprintable() and value.strip() != ""


def _is_number(value: Any) -> bool:
    # The comparison is false for nan and inf, and works for integers that no float can hold.
    return type(value) in (int, float) and -1e9 < value < 1e9

"""Check a whole COCO-format data set and list all problems, in one pass."""

import os
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from lumen.data.annotations import as_coco, category_problem, find_segmentation, load_json, parse_coco
from lumen.data.image import check_inside, read_header, read_image_file
from lumen.errors import DataError, PromptError
from lumen.prompts import Wordings, check_phrase
from lumen.structures import LVIS_ABSENT

Report = dict[str, list[Any]]
_NUM_NAMES = 10
_BRACKETED = re.compile(r"<[^<>\s]+>")
Progress = Callable[[Sequence[dict]], Iterable[dict]]
UNREADABLE = "image file cannot be read"
CUT = "image file lacks its end; what is missing is read as grey"


def check_coco(
    ann_file: str | os.PathLike[str],
    image_root: str | os.PathLike[str] | None = None,
    *,
    content: Any = None,
    decode: bool = False,
    progress: Progress = iter,
) -> Report:
    """Return reason -> ids of the images, annotations or categories that it concerns; empty for a sound data set.

    An entry is reported by the first thing that makes it unusable; masks, keypoints and image files are checked for
    all entries that are usable otherwise. The position in the list stands for an id that is missing. Files that state
    which classes are absent from an image are read like LVIS.

    Args:
        ann_file: Instances, person keypoints, or both.
        image_root: Folder of the images, whose headers are read. ``None`` leaves images out.
        content: Content of the file, where it has been parsed.
        decode: Decode all images, too.
        progress: Wraps the list of images, to show how far the check is.

    Raises:
        DataError: The file is not a COCO file at all, or has no usable category.
    """
    content = load_json(ann_file) if content is None else as_coco(content, ann_file)
    report: defaultdict[str, list[Any]] = defaultdict(list)
    categories = _check_categories(content["categories"], report)
    if not categories:
        raise DataError(f"{ann_file}: no usable category\n{dict(report)}")
    # LVIS-like files are known by their lists of absent classes.
    federated = any(isinstance(entry, dict) and LVIS_ABSENT in entry for entry in content["images"])
    options = {"image_root": str(image_root or ""), "classes": None, "with_masks": False, "federated": federated}
    # The reader of training itself, with a budget without end: what it skips is what is reported.
    parsed = parse_coco({**content, "categories": categories}, ann_file, skip_budget=float("inf"), **options)
    for reason, ids in parsed.report.items():
        report[reason] += ids
    _check_annotations(content["annotations"], categories, parsed.records, report)
    _check_names(parsed.records, report)
    if image_root is not None:
        for record in progress(parsed.records):
            problem = image_problem(record["img_path"], image_root, record["ori_hw"], decode=decode)
            if problem is not None:
                report[problem].append(record["img_id"])
    return dict(report)


def _check_categories(entries: list, report: defaultdict[str, list[Any]]) -> list[dict]:
    """Return the usable categories."""
    ids: set[int] = set()
    names: set[str] = set()
    special_tokens = Wordings().special_tokens
    usable = []
    for position, entry in enumerate(entries):
        problem = category_problem(entry, ids, names)
        if problem is not None:
            report[problem].append(position)
            continue
        ids.add(entry["id"])
        names.add(entry["name"].strip())
        usable.append(entry)
        try:
            check_phrase(entry["name"], special_tokens)
        except PromptError:
            report["name of a category cannot be asked for: it is empty or holds a special token"].append(entry["id"])
        # Which tokens an LMM has is not known here; all of them write at least some in angle brackets.
        if _BRACKETED.search(entry["name"]):
            report["name of a category holds a word in angle brackets, a special token of many LMMs"].append(
                entry["id"]
            )
    return usable


def _check_annotations(
    entries: list, categories: list[dict], records: list[dict], report: defaultdict[str, list[Any]]
) -> None:
    """Check masks and keypoints of the annotations in use, and whether every category has one."""
    image_of_row = {
        row: (record["img_id"], record["ori_hw"])
        for record in records
        for row in record["instances"]["ann_ids"].tolist()
    }
    # None for categories without keypoints, whose annotations must have none.
    num_keypoints = {entry["id"]: _count_keypoints(entry) for entry in categories}
    used = set()
    for entry in entries:
        if not _is_in_use(entry, image_of_row, num_keypoints):
            continue
        # Taken out, so that a second annotation of this id is not checked in its place.
        _, size_hw = image_of_row.pop(entry["id"])
        used.add(entry["category_id"])
        # Sets of boxes alone often hold an empty list.
        if entry.get("segmentation") and find_segmentation(entry, size_hw) is None:
            report["segmentation is broken or of another size than its image"].append(entry["id"])
        problem = _keypoint_problem(entry, num_keypoints[entry["category_id"]])
        if problem is not None:
            report[problem].append(entry["id"])
    for entry in categories:
        if entry["id"] not in used:
            report["class without any usable annotation"].append(entry["name"])


def _is_in_use(entry: Any, image_of_row: Mapping[int, tuple[int, Any]], categories: Mapping[int, Any]) -> bool:
    """Return whether this is the annotation that was taken for its id; others of this id are reported already."""
    if not isinstance(entry, dict) or not all(type(entry.get(key)) is int for key in ("id", "image_id", "category_id")):
        return False
    is_taken = entry["id"] in image_of_row and image_of_row[entry["id"]][0] == entry["image_id"]
    return is_taken and entry["category_id"] in categories


def _count_keypoints(category: Mapping[str, Any]) -> int | None:
    names = category.get("keypoints")
    return len(names) if isinstance(names, list) else None


def _keypoint_problem(entry: Mapping[str, Any], num_expected: int | None) -> str | None:
    values = entry.get("keypoints")
    if values is None:
        return None
    if num_expected is None:
        return "keypoints of a category that names none"
    if not isinstance(values, list) or len(values) != 3 * num_expected:
        return "keypoints are not three numbers for each keypoint of the category"
    if not all(type(value) in (int, float) and abs(value) < 1e9 for value in values):
        return "keypoints are not finite numbers"
    if any(flag not in (0, 1, 2) for flag in values[2::3]):
        return "visibility of a keypoint is none of 0, 1, 2"
    if entry.get("num_keypoints", num := sum(flag > 0 for flag in values[2::3])) != num:
        return "num_keypoints is not the number of labelled keypoints"
    return None


def _check_names(records: list[dict], report: defaultdict[str, list[Any]]) -> None:
    first_of_path: dict[str, int] = {}
    for record in records:
        # Two entries for one file would count its objects in one and learn their absence in the other.
        if first_of_path.setdefault(record["img_path"], record["img_id"]) != record["img_id"]:
            report["image file named by an earlier image too"].append(record["img_id"])


def image_problem(
    path: str | os.PathLike[str],
    root: str | os.PathLike[str],
    size_hw: tuple[int, int] | None,
    *,
    decode: bool = False,
) -> str | None:
    """Return what is wrong with an image file, or None.

    The header is always read. A file that does not end as one of its format is decoded, to see how much is missing.

    Args:
        path: The file.
        root: Folder that it must lie in.
        size_hw: Height and width that it should have; ``None`` where it is unknown.
        decode: Decode every file.
    """
    try:
        check_inside(path, root)
    except DataError:
        return "image file leaves the image folder"
    if not os.path.isfile(path):
        return "image file is missing"
    try:
        found_hw, is_whole = read_header(path)
        is_cut = read_image_file(path).is_cut if decode or not is_whole else False
    except DataError:
        return UNREADABLE
    if size_hw is not None and found_hw != tuple(size_hw):
        return "image file has another size than its entry"
    return CUT if is_cut else None


def class_difference(train: Any, val: Any) -> str | None:
    """Return how the class names of a training set and a validation set differ; None where they do not.

    Of a mixture, the names of all its sets count, and what validation does not ask for is no difference. A set
    without class names differs from none.

    Args:
        train: A data set, or one that wraps others, such as ``MixedDataset``.
        val: Another one.
    """
    parts = [_class_names(train), _class_names(val)]
    if not all(parts):
        return None
    trained, asked = (list(dict.fromkeys(name for names in part for name in names)) for part in parts)
    lines = {
        "in validation alone": [name for name in asked if name not in trained],
        "in training alone": [name for name in trained if name not in asked] if len(parts[0]) == 1 else [],
    }
    found = [f"{where}: {names[:_NUM_NAMES]} ({len(names)})" for where, names in lines.items() if names]
    return f"class names of training and validation differ; {'; '.join(found)}" if found else None


def _class_names(dataset: Any) -> list[tuple[str, ...]]:
    """Return the class names of each data set in a data set."""
    if hasattr(dataset, "datasets"):
        return [names for part in dataset.datasets for names in _class_names(part)]
    inner = getattr(dataset, "dataset", getattr(dataset, "base", None))
    if inner is not None:
        return _class_names(inner)
    names = tuple(getattr(dataset, "metainfo", {}).get("classes") or ())
    return [names] if names else []

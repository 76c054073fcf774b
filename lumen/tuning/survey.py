"""Look at the splits of a data set before a training: what they hold, what is wrong, what cannot be trained on."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from lumen.data.annotations import format_report, parse_coco
from lumen.data.check import CUT, Progress, Report, check_coco
from lumen.errors import ConfigError, DataError
from lumen.structures import LVIS_ABSENT
from lumen.tuning.splits import Split, Splits

TASKS = ("detection", "segmentation", "pose", "counting")
"""Tasks that ``lumen train`` has a recipe for."""
_ELSEWHERE = {
    "grounding": "configs/finetune/grounding.py",
    "referring_segmentation": "configs/referring_segmentation",
    "semantic_segmentation": "configs/semantic_segmentation",
    "vqa": "configs/multitask",
    "caption": "configs/text/caption_nano_coco.py",
    "chat": "configs/text/chat_nano_llava.py",
}
_MIN_IMAGES = 2
_NO_OBJECT = "class without any usable annotation"
_CANNOT_TRAIN = (
    "a category id or name occurs twice; merge or rename them",
    "name of a category cannot be asked for: it is empty or holds a special token",
)


@dataclass(frozen=True, slots=True)
class Survey:
    """What a data set holds.

    Args:
        names: Class names, in the order of the labels.
        num_train: Usable training images.
        size_hw: Median height and width of the training images, in pixels.
        text: All that was found, for the user.
    """

    names: tuple[str, ...]
    num_train: int
    size_hw: tuple[int, int]
    text: str


def check_task(task: str) -> None:
    """Raise ConfigError for a task without a recipe; the message says what to do."""
    if task in TASKS:
        return
    remedy = f"start from {_ELSEWHERE[task]} and tools/train.py" if task in _ELSEWHERE else "correct --task"
    raise ConfigError(f"lumen train has no recipe for --task {task}: {remedy}. It knows {', '.join(TASKS)}")


def survey(splits: Splits, task: str, *, skip_budget: float, progress: Progress = iter) -> Survey:
    """Return what the splits hold.

    Args:
        splits: The data set.
        task: What is to be trained; see ``check_task``.
        skip_budget: Share of the images, and of the annotations, that may be unusable.
        progress: Wraps the images of a split while their files are looked at.

    Raises:
        DataError: The data cannot be trained on: no objects, one image, names that occur twice, too many faults.
    """
    _require_objects(splits.train, "train", len(splits.train.content["annotations"]))
    names = _names(splits.train, task)
    lines, sizes = [], np.zeros((0, 2))
    parts = {"train": splits.train, "val": splits.val, "test": splits.test}
    for part, split in parts.items():
        if split is None:
            continue
        report = check_coco(split.ann_file, split.images, content=split.content, progress=progress)
        report.pop(_NO_OBJECT, None)  # told by the count of each class
        _refuse_faults(split, report, skip_budget)
        parsed = parse_coco(
            split.content,
            split.name,
            image_root=str(split.images),
            classes=names,
            skip_budget=skip_budget,
            with_masks=task == "segmentation",
            federated=False,
        )
        counts = Counter(label for record in parsed.records for label in record["instances"]["labels"].tolist())
        with_objects = sum(len(record["instances"]["labels"]) > 0 for record in parsed.records)
        _require_objects(split, part, with_objects)
        lines.append(f"{part}: {len(parsed.records)} images, {with_objects} with objects, {counts.total()} objects")
        lines += [f"  {name}: {counts[label]}" for label, name in enumerate(names)]
        lines += [f"  faults, which are left out:\n{format_report(report)}"] if report else []
        if part == "train":
            sizes = np.array([record["ori_hw"] for record in parsed.records])
    height, width = (round(side) for side in np.median(sizes, axis=0).tolist())
    low, high = sizes.min(axis=0), sizes.max(axis=0)
    lines.append(f"pixels (height x width): {height} x {width} (median), {low[0]} to {high[0]} x {low[1]} to {high[1]}")
    return Survey(names, len(sizes), (height, width), "\n".join([*lines, *splits.notes]))


def _names(split: Split, task: str) -> tuple[str, ...]:
    """Return the class names to train; for pose those with keypoints."""
    if any(isinstance(image, dict) and LVIS_ABSENT in image for image in split.content["images"]):
        raise DataError(
            f"{split.name} states per image what was looked for, as LVIS does: start from "
            "configs/detection/detection_nano_lvis.py and tools/train.py"
        )
    categories = [entry for entry in split.content["categories"] if isinstance(entry, dict)]
    names = [entry.get("name") for entry in categories if task != "pose" or entry.get("keypoints")]
    if task == "pose" and not names:
        raise DataError(f"{split.name} has no category with keypoints: --task pose needs a file of person_keypoints")
    _refuse_same_names(split, names)
    return tuple(names)


def _refuse_same_names(split: Split, names: list[Any]) -> None:
    """Raise DataError where two classes would be asked for by the same words."""
    count = Counter(str(name).casefold().strip() for name in names)
    twice = [str(name) for name in names if count[str(name).casefold().strip()] > 1]
    if twice:
        raise DataError(f"{split.name}: class names occur twice: {twice}; merge or rename them, for they are asked for")


def _refuse_faults(split: Split, report: Report, skip_budget: float) -> None:
    """Raise DataError for faults that no training can pass over, or too many image files with faults."""
    fatal = {reason: report[reason] for reason in _CANNOT_TRAIN if reason in report}
    if fatal:
        raise DataError(f"{split.name}: categories cannot be asked for\n{format_report(fatal)}")
    files: Mapping[str, Any] = {why: ids for why, ids in report.items() if why.startswith("image file") and why != CUT}
    num_faulty, num_images = sum(map(len, files.values())), len(split.content["images"])
    if num_faulty > skip_budget * num_images:
        raise DataError(
            f"{split.name}: {num_faulty} of {num_images} image files cannot be used, the budget is {skip_budget:.1%}; "
            f"correct them, name the right folder with --images, or raise --skip-budget\n{format_report(files)}"
        )


def _require_objects(split: Split, part: str, with_objects: int) -> None:
    if not with_objects:
        raise DataError(
            f"{split.name}: no image has a box ({part}): there is nothing to learn or to judge by. Label some first, "
            "with a labelling tool, or with lumen label"
        )
    if part == "train" and with_objects < _MIN_IMAGES:
        raise DataError(
            f"{split.name}: one image with objects is too few to train on; {_MIN_IMAGES} are the least, 50 a beginning"
        )

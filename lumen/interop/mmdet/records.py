"""From mmdet's record of an image to one of Lumen's, as ``lumen.data.annotations.CocoFile`` describes them."""

from collections.abc import Mapping, Sequence
from itertools import count
from typing import Any

import numpy as np

from lumen.data.annotations import find_segmentation
from lumen.data.federated import verify
from lumen.errors import DataError
from lumen.structures import NO_LABEL

NO_BOX = "box outside its image, or without area"
NO_MASK = "mask is missing, broken or of another size"
_KEYS = ("img_path", "height", "width", "instances")
_ABSENT = 0.0  # OpenImages: confidence of a label that people verified to be absent
_GROUP = ("is_group_of", "is_group_ofs")  # two spellings of mmdet


class RecordReader:
    """Turns the records of a data set into Lumen's; annotations are numbered from 1.

    Args:
        classes: Names of the labels.
        with_masks: Read masks too; an object without a sound one is left out.
        federated: A class without a box is absent only where it is verified to be.
    """

    def __init__(self, classes: Sequence[str], *, with_masks: bool, federated: bool) -> None:
        self.classes = tuple(classes)
        self.with_masks = with_masks
        self.federated = federated
        self.report: dict[str, list[int]] = {}
        self.num_objects = 0
        self._numbers = count(1)

    def read(self, info: Mapping[str, Any], place: int) -> dict[str, Any]:
        """Return the record of an image; sets of phrases, as ODVG's, have ``refs`` as ``ReferDataset`` gives them.

        Args:
            info: mmdet's record; of LVIS with ``verified``, see ``lumen.interop.mmdet.sources``.
            place: Stands for the id of an image that has none.

        Raises:
            DataError: The record lacks something, or its boxes or labels are not what Lumen takes.
        """
        lacking = [key for key in _KEYS if info.get(key) is None]
        if lacking:
            raise DataError(f"a record of mmdet has no {lacking}, but {sorted(info)}; Lumen reads sets of boxes")
        size_hw = (int(info["height"]), int(info["width"]))
        table = self._table(info["instances"], info["img_path"], size_hw)
        record = {"img_path": info["img_path"], "img_id": info.get("img_id", place), "ori_hw": size_hw}
        if "phrases" in info:
            record["refs"] = _sentences(info["phrases"], table, info["img_path"])
            table["labels"] = np.full_like(table["labels"], NO_LABEL)
        else:
            self._check_labels(table, info["img_path"])
            table = _ignored_for_all(table, len(self.classes))
        record["instances"] = table
        if "verified" in info:
            return verify(record, info["verified"], {label: label for label in range(len(self.classes))})
        return {**record, "absent_labels": _verified_absent(info)} if self.federated else record

    def _table(
        self, instances: Sequence[Mapping[str, Any]], path: str, size_hw: tuple[int, int]
    ) -> dict[str, np.ndarray]:
        """Return the objects as columns; boxes are clipped, those without area left out."""
        boxes = _boxes(instances, path)
        self.num_objects += len(instances)
        numbers = np.array([next(self._numbers) for _ in instances], dtype=np.int64)
        clipped = np.clip(boxes, 0, [size_hw[1], size_hw[0]] * 2).astype(np.float32)
        is_kept = (clipped[:, 2:] > clipped[:, :2]).all(axis=1)
        self._note(NO_BOX, numbers[~is_kept])
        table = {
            "bboxes": clipped,
            "labels": np.array([entry["bbox_label"] for entry in instances], dtype=np.int64),
            "is_ignored": np.array([_is_ignored(entry) for entry in instances], dtype=bool),
            "ann_ids": numbers,
        }
        if self.with_masks:
            table["segmentations"] = _masks(instances, size_hw)
            is_sound = np.array([code is not None for code in table["segmentations"]], dtype=bool)
            self._note(NO_MASK, numbers[is_kept & ~is_sound])
            is_kept &= is_sound
        return {key: column[is_kept] for key, column in table.items()}

    def _check_labels(self, table: Mapping[str, np.ndarray], path: str) -> None:
        labels = table["labels"]
        # CrowdHuman gives ignored regions the label -1.
        is_known = ((labels >= 0) & (labels < len(self.classes))) | ((labels == NO_LABEL) & table["is_ignored"])
        if not is_known.all():
            wrong = sorted(set(labels[~is_known].tolist()))
            raise DataError(f"{path}: labels {wrong} of boxes do not fit the {len(self.classes)} classes")

    def _note(self, reason: str, numbers: np.ndarray) -> None:
        if len(numbers):
            self.report.setdefault(reason, []).extend(numbers.tolist())


def _boxes(instances: Sequence[Mapping[str, Any]], path: str) -> np.ndarray:
    for entry in instances:
        box = entry.get("bbox")
        if box is None or np.shape(box) != (4,) or not np.isfinite(np.asarray(box, dtype=np.float64)).all():
            raise DataError(f"{path}: Lumen takes boxes of four finite numbers (x1, y1, x2, y2), got {box}")
    return np.array([entry["bbox"] for entry in instances], dtype=np.float64).reshape(-1, 4)


def _is_ignored(entry: Mapping[str, Any]) -> bool:
    """Return whether an object is a crowd, ignored, difficult (VOC), or a group (OpenImages)."""
    return bool(entry.get("ignore_flag", 0)) or any(entry.get(key, False) for key in _GROUP)


def _masks(instances: Sequence[Mapping[str, Any]], size_hw: tuple[int, int]) -> np.ndarray:
    codes = np.empty(len(instances), dtype=object)
    for row, entry in enumerate(instances):
        codes[row] = find_segmentation({"segmentation": entry.get("mask")}, size_hw)
    return codes


def _ignored_for_all(table: dict[str, np.ndarray], num_classes: int) -> dict[str, np.ndarray]:
    """Return the table with each region that belongs to no class ignored for every class."""
    is_free = table["labels"] == NO_LABEL
    if not is_free.any():
        return table
    rows = np.repeat(np.arange(len(is_free)), np.where(is_free, num_classes, 1))
    spread = {key: column[rows] for key, column in table.items()}
    spread["labels"][is_free[rows]] = np.tile(np.arange(num_classes), int(is_free.sum()))
    return spread


def _sentences(phrases: Mapping[int, Mapping[str, Any]], table: Mapping[str, np.ndarray], path: str) -> list[dict]:
    """Return the phrases that have a box, as ``AskSentences`` reads them."""
    refs = []
    for number, entry in phrases.items():
        # A phrase of several words of a caption is a list of its parts.
        parts = [entry["phrase"]] if isinstance(entry["phrase"], str) else entry["phrase"]
        if not parts or not all(isinstance(part, str) and part.strip() for part in parts):
            raise DataError(f"{path}: a phrase is a text or a list of texts, got {entry['phrase']!r}")
        answers = table["ann_ids"][table["labels"] == number]
        if len(answers):
            sentence = " ".join(part.strip() for part in parts)
            refs.append({"sentence": sentence, "ann_ids": answers, "kind": "", "ref_id": number})
    return refs


def _verified_absent(info: Mapping[str, Any]) -> list[int]:
    """Return the labels that people found to be absent; none where the file of image labels was not given."""
    pairs = zip(info.get("image_level_labels", ()), info.get("confidences", ()), strict=True)
    return sorted({int(label) for label, confidence in pairs if confidence == _ABSENT})

"""Data sets of keypoints in COCO format: a sample is one object, seen through its box."""

import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from mmengine.logging import print_log

from lumen.data.annotations import check_budget, format_report, load_json, parse_json
from lumen.data.coco import CocoDataset
from lumen.errors import ConfigError, DataError
from lumen.paths import find_path
from lumen.registry import DATASETS

ANNOTATED = "annotated"
_DETECTION_KEYS = ("image_id", "category_id", "bbox", "score")


@dataclass(frozen=True, slots=True)
class Skeleton:
    """The keypoints of a category.

    Args:
        names: Names of the keypoints, in order.
        bones: Pairs of places in ``names``.
    """

    names: tuple[str, ...]
    bones: tuple[tuple[int, int], ...] = ()


def read_skeleton(ann_file: str | os.PathLike[str], category: str) -> Skeleton:
    """Return the keypoints that a COCO file names for one of its categories.

    Raises:
        DataError: The file is not a COCO file, or lacks the category or its keypoints.
    """
    entries = [entry for entry in load_json(ann_file)["categories"] if isinstance(entry, dict)]
    found = next((entry for entry in entries if entry.get("name") == category), None)
    if found is None:
        known = [entry.get("name") for entry in entries]
        raise DataError(f"{ann_file}: there is no category {category!r}; known are {known}")
    return Skeleton(*_skeleton(category, found.get("keypoints"), found.get("skeleton")))


@DATASETS.register_module()
class CocoKeypointsDataset(CocoDataset):
    """Objects with named keypoints; categories may have different ones.

    A record is one of ``CocoDataset`` with a single object in ``instances``, and

    - ``keypoints`` (k, 3) float32: x, y in original pixels and visibility (0 not labelled, 1 covered, 2 visible), and
      ``keypoint_names``, those of the object's category,
    - ``box`` (xyxy, original pixels), ``box_label``, ``box_score`` and ``instance_id``, which metrics read.

    Boxes are the annotated ones, of all objects with a labelled keypoint that are not crowd or ignored. Or they come
    from a detection file; then no keypoint is known, and the place in that file is the ``instance_id``.

    ``metainfo`` holds ``keypoint_names`` and ``skeletons`` (pairs of places in the names) by label, in test mode also
    ``boxes``: ``annotated`` or the detection file.

    Args:
        ann_file: COCO-format json, relative to ``data_root``.
        data_root: Folder of the data set.
        data_prefix: ``img`` is the image folder, relative to ``data_root``.
        pipeline: Transforms applied to each record.
        classes: Names to keep, in this order; ``None`` keeps the categories of the file in their order.
        keypoint_names: Names by class, in place of those of the file.
        detections: Results file in COCO format, a list of ``image_id``, ``category_id``, ``bbox`` (xywh), ``score``;
            for testing only. Its path is not relative to ``data_root``.
        min_box_score: Detections below this score are left out.
        skip_budget: Share of the images, and of the annotations or detections, that may be skipped before it is an
            error.
        test_mode: Give a grey image with a ``fault`` in place of an unusable one, instead of taking the next object.

    Raises:
        DataError: A file is not a COCO file, lacks a class or its keypoints, holds nothing usable, or the budget is
            exceeded.
        ConfigError: Detections are given for training.
    """

    def __init__(
        self,
        *,
        ann_file: str,
        data_root: str = "",
        data_prefix: Mapping[str, str] | None = None,
        pipeline: Sequence[dict | Callable[[dict], dict]] = (),
        classes: Sequence[str] | None = None,
        keypoint_names: Mapping[str, Sequence[str]] | None = None,
        detections: str | None = None,
        min_box_score: float = 0.0,
        skip_budget: float = 0.001,
        test_mode: bool = False,
    ) -> None:
        if detections is not None and not test_mode:
            raise ConfigError("detected boxes have no keypoints to train on; leave detections out, or set test_mode")
        self._asked_names = dict(keypoint_names or {})
        self._detections = None if detections is None else find_path(detections)
        self.min_box_score = min_box_score
        super().__init__(
            ann_file=ann_file,
            data_root=data_root,
            data_prefix=data_prefix,
            pipeline=pipeline,
            classes=classes,
            skip_budget=skip_budget,
            test_mode=test_mode,
        )

    def load_data_list(self) -> list[dict]:
        """Read and check the files; MMEngine calls this once."""
        # Images, boxes and categories are checked as for detection.
        images = super().load_data_list()
        content = load_json(self.ann_file)
        # By label, in the order of `classes`, whatever the order of the file.
        names, skeletons = self._read_skeletons(content["categories"])
        self._metainfo.update(keypoint_names=names, skeletons=skeletons)
        if self.test_mode:
            self._metainfo["boxes"] = self._detections or ANNOTATED
        report: defaultdict[str, list[int]] = defaultdict(list)
        if self._detections is None:
            num_entries = len(content["annotations"])
            # Only annotations whose box was kept; the others are in the report already.
            points_of_id = read_keypoints(content["annotations"], _num_keypoints(images, names), report)
            records = _annotated_records(images, points_of_id)
        else:
            entries = _load_detections(self._detections)
            num_entries = len(entries)
            records = self._detected_records(images, entries, report)
        check_budget(report, num_entries, self.skip_budget, f"{self._detections or self.ann_file}: objects")
        self.report |= report
        if report:
            print_log(f"{self._detections or self.ann_file}: skipped\n{format_report(report)}", logger="current")
        for record in records:
            record["keypoint_names"] = names[record["box_label"]]
        return records

    def _read_skeletons(self, categories: list[dict]) -> tuple[tuple, tuple]:
        """Return names and bones of each label."""
        of_name = {category["name"]: category for category in categories}
        unknown = sorted(set(self._asked_names) - set(self._metainfo["classes"]))
        if unknown:
            raise ConfigError(f"keypoint_names for {unknown}, which are not among {list(self._metainfo['classes'])}")
        read = [
            _skeleton(name, self._asked_names.get(name, of_name[name].get("keypoints")), of_name[name].get("skeleton"))
            for name in self._metainfo["classes"]
        ]
        return tuple(names for names, _ in read), tuple(bones for _, bones in read)

    def _detected_records(
        self, images: Sequence[dict], entries: Sequence[Any], report: defaultdict[str, list[int]]
    ) -> list[dict]:
        """Build one record per detection of a kept class, clipped to its image."""
        of_id = {record["img_id"]: record for record in images}
        label_of_id = {cat_id: label for label, cat_id in enumerate(self._metainfo["cat_ids"])}
        records = []
        for place, entry in enumerate(entries):
            problem = _detection_problem(entry, of_id)
            if problem is not None:
                report[problem].append(place)
            elif entry["category_id"] in label_of_id and entry["score"] >= self.min_box_score:
                label = label_of_id[entry["category_id"]]
                box = _clipped(entry["bbox"], of_id[entry["image_id"]]["ori_hw"])
                # Nothing is known of the keypoints of a detected box; visibility 0 marks that.
                points = np.zeros((len(self._metainfo["keypoint_names"][label]), 3), dtype=np.float32)
                records.append(_record(of_id[entry["image_id"]], box, label, place, float(entry["score"]), points))
        return records


def read_keypoints(
    annotations: Iterable[Any], num_keypoints: Mapping[int, int], report: defaultdict[str, list[int]]
) -> dict[int, np.ndarray]:
    """Return x, y and visibility (k, 3) by annotation id, of those with a labelled keypoint.

    Args:
        annotations: Entries of the file.
        num_keypoints: Number of keypoints of each annotation that is wanted, by id.
        report: Gets the ids of faulty annotations by reason.
    """
    points_of_id: dict[int, np.ndarray] = {}
    for entry in annotations:
        ann_id = entry.get("id") if isinstance(entry, dict) else None
        # Not in use, or without keypoints: no fault of this file.
        if type(ann_id) is not int or ann_id not in num_keypoints or "keypoints" not in entry:
            continue
        points = _points(entry["keypoints"], num_keypoints[ann_id])
        if points is None:
            report["keypoints are not x, y, 0 or 1 or 2 for each name"].append(ann_id)
            continue
        # A wrong count is a sign of keypoints that were cut or shifted.
        num_labelled = int((points[:, 2] > 0).sum())
        if entry.get("num_keypoints", num_labelled) != num_labelled:
            report["num_keypoints is not the number of labelled keypoints"].append(ann_id)
        # The first of equal ids, as for boxes.
        elif num_labelled:
            points_of_id.setdefault(ann_id, points)
    return points_of_id


def _points(flat: Any, num_keypoints: int) -> np.ndarray | None:
    if not isinstance(flat, list) or len(flat) != 3 * num_keypoints:
        return None
    if not all(type(value) in (int, float) and abs(value) < 1e9 for value in flat):
        return None
    points = np.array(flat, dtype=np.float64).reshape(-1, 3)
    return points.astype(np.float32) if np.isin(points[:, 2], (0, 1, 2)).all() else None


def _skeleton(name: str, keypoints: Any, bones: Any) -> tuple[tuple[str, ...], tuple[tuple[int, int], ...]]:
    """Check and return the names and the bones, counted from 0, of one category."""
    is_list = isinstance(keypoints, list | tuple) and len(keypoints) > 0
    if not is_list or not all(isinstance(k, str) and k.strip() for k in keypoints):
        raise DataError(
            f"category {name!r} needs a list of keypoint names, got {keypoints!r}; name its keypoints by "
            "keypoint_names, or choose other classes"
        )
    if len(set(keypoints)) < len(keypoints):
        raise DataError(f"category {name!r} names a keypoint twice: {list(keypoints)}")
    places = range(1, len(keypoints) + 1)
    if not isinstance(bones or [], list | tuple):
        raise DataError(f"category {name!r}: skeleton must be a list of bones, got {bones!r}")
    for bone in bones or ():
        if not isinstance(bone, list) or len(bone) != 2 or not all(type(end) is int and end in places for end in bone):
            raise DataError(
                f"category {name!r}: a bone joins two of the keypoints 1 ... {len(keypoints)}, got {bone!r}"
            )
    # COCO counts bones from 1.
    return tuple(keypoints), tuple((first - 1, last - 1) for first, last in bones or ())


def _num_keypoints(images: Iterable[dict], names: Sequence[Sequence[str]]) -> dict[int, int]:
    return {
        ann_id: len(names[label])
        for record in images
        for ann_id, label in zip(
            record["instances"]["ann_ids"].tolist(), record["instances"]["labels"].tolist(), strict=True
        )
    }


def _annotated_records(images: Iterable[dict], points_of_id: Mapping[int, np.ndarray]) -> list[dict]:
    records = []
    for image in images:
        table = image["instances"]
        for row, ann_id in enumerate(table["ann_ids"].tolist()):
            if ann_id in points_of_id and not table["is_ignored"][row]:
                box, label = table["bboxes"][row], int(table["labels"][row])
                records.append(_record(image, box, label, ann_id, 1.0, points_of_id[ann_id]))
    return records


def _record(
    image: Mapping[str, Any], box: np.ndarray, label: int, instance_id: int, score: float, points: np.ndarray
) -> dict[str, Any]:
    instances = {
        "bboxes": np.asarray(box, dtype=np.float32)[None],
        "labels": np.array([label], dtype=np.int64),
        "is_ignored": np.zeros(1, dtype=bool),
        "ann_ids": np.array([instance_id], dtype=np.int64),
    }
    # The image's own table holds all its objects; a record has one.
    place = {key: image[key] for key in ("img_path", "img_id", "ori_hw")}
    about = {"instance_id": instance_id, "box": tuple(map(float, box)), "box_label": label, "box_score": score}
    return {**place, "instances": instances, **about, "keypoints": points}


def _load_detections(path: str | os.PathLike[str]) -> list:
    content = parse_json(path)
    if not isinstance(content, list):
        raise DataError(f"{path}: a COCO results file holds a list, this one a {type(content).__name__}")
    return content


def _detection_problem(entry: Any, images: Mapping[int, dict]) -> str | None:
    if not isinstance(entry, dict) or not all(key in entry for key in _DETECTION_KEYS):
        return f"detection without one of {_DETECTION_KEYS}"
    if type(entry["image_id"]) is not int or entry["image_id"] not in images:
        return "detection in an unknown or skipped image"
    if type(entry["category_id"]) is not int:
        return "category_id of a detection is not an integer"
    box = entry["bbox"]
    if not isinstance(box, list) or len(box) != 4:
        return "bbox is not four finite numbers"
    if not all(type(value) in (int, float) and abs(value) < 1e9 for value in (*box, entry["score"])):
        return "bbox or score is not finite"
    x1, y1, x2, y2 = _clipped(box, images[entry["image_id"]]["ori_hw"])
    return None if x2 > x1 and y2 > y1 else "detection without area in its image"


def _clipped(box_xywh: Sequence[float | int], ori_hw: tuple[int, int]) -> np.ndarray:
    x, y, width, height = box_xywh
    corners = np.clip((x, y, x + width, y + height), 0, (ori_hw[1], ori_hw[0]) * 2)
    return corners.astype(np.float32)

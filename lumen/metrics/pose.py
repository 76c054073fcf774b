"""Figures of pose: COCO's keypoint AP, and the percentage of correct keypoints."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float
from mmengine.evaluator import BaseMetric
from mmengine.logging import print_log

from lumen.errors import ConfigError, DataError
from lumen.metrics.coco.backends import choose_backend, evaluate_by_library
from lumen.metrics.pose_ground_truth import PoseAnswer, PoseEvaluation, PoseTruth, read_answer, read_evaluation
from lumen.metrics.tables import mean_of_measured, share
from lumen.paths import find_path
from lumen.registry import METRICS

_PAIRS = {
    "eye": 0.025,
    "ear": 0.035,
    "shoulder": 0.079,
    "elbow": 0.072,
    "wrist": 0.062,
    "hip": 0.107,
    "knee": 0.087,
    "ankle": 0.089,
}
COCO_SIGMAS = {"nose": 0.026} | {f"{side}_{part}": s for part, s in _PAIRS.items() for side in ("left", "right")}
"""COCO's keypoints, in order, with the standard deviation of annotators as a share of the root of the object's area."""

_BACKENDS = ("pycocotools", "faster-coco-eval")
_AREAS = {"": 0, "_m": 1, "_l": 2}
_ANNOTATED = "annotated"


@METRICS.register_module()
class KeypointAP(BaseMetric):
    """Keypoint AP and AR of COCO: objects matched by object keypoint similarity (OKS), ground truth unfiltered.

    Each category is evaluated with its own skeleton and sigmas; the figures are means over categories. Objects that
    were not answered count as missed. ``protocol`` tells whether the objects were cropped by annotated or by
    detected boxes: the former give higher figures.

    Args:
        ann_file: COCO-format json with the ground truth; the evaluated data set's own when left out.
        sigmas: One value for all keypoints, or one per keypoint, the same for each category. When left out, those that
            the file declares as ``sigmas`` of a category, or COCO's for COCO's 17 keypoints.
        backend: ``pycocotools`` is the reference, ``faster-coco-eval`` gives the same figures sooner, ``auto`` takes it
            where it is installed.
        max_dets: Number of answers per image and class that count, best first; COCO has 20.
        classwise: Report the AP of each class as well.
        is_partial: Evaluate on images with an answer only. Such figures are not COCO figures.
        prefix: First part of the metric names.
        collect_device: ``cpu`` or ``gpu``, see MMEngine.

    Raises:
        ConfigError: The backend is unknown or not installed, or no sigmas are known.
        DataError: The annotation file is broken, or does not fit the data set.
    """

    default_prefix = "pose"
    needs = frozenset({"keypoints", "scores"})

    def __init__(
        self,
        *,
        ann_file: str | None = None,
        sigmas: float | int | Sequence[float | int] | None = None,
        backend: str = "auto",
        max_dets: int = 20,
        classwise: bool = False,
        is_partial: bool = False,
        prefix: str | None = None,
        collect_device: str = "cpu",
    ) -> None:
        super().__init__(collect_device=collect_device, prefix=prefix)
        self._ann_file = None if ann_file is None else find_path(ann_file)
        self.sigmas = sigmas
        self.backend = choose_backend(backend, known=_BACKENDS, auto=_BACKENDS[::-1])
        self.max_dets = max_dets
        self.classwise = classwise
        self.is_partial = is_partial
        self.protocol: dict[str, Any] = {}

    @property
    def headline(self) -> str:
        """Name of the figure that ranks models."""
        return f"{self.prefix}/AP"

    def process(self, data_batch: Any, data_samples: Sequence[Mapping[str, Any]]) -> None:
        """Store the answers of some samples, in original pixels.

        Raises:
            DataError: A sample lacks a field, or a number is not finite.
        """
        self.results += [read_answer(sample) for sample in data_samples]

    def compute_metrics(self, results: list[PoseAnswer | None]) -> dict[str, float]:
        """Return the figures, in [0, 1]; -1 where no ground truth exists.

        Raises:
            DataError: An object was answered twice, or not for all its keypoints.
            ConfigError: No sigmas are known for a category.
        """
        meta = self.dataset_meta or {}
        compared = read_evaluation(results, self._ann_file, meta)
        truth, answers = compared.truth, compared.answers
        img_ids = sorted({answer.img_id for answer in answers} if self.is_partial else truth.img_ids)
        sigmas = [
            self._sigmas(truth.categories[cat_id], names)
            for cat_id, names in zip(compared.cat_ids, meta["keypoint_names"], strict=True)
        ]
        curves = [self._evaluate(compared, label, img_ids, sigmas[label]) for label in range(len(sigmas))]
        precision = np.stack([curve[0] for curve in curves])
        figures = {f"AP{name}": mean_of_measured(precision[:, :, :, area]) for name, area in _AREAS.items()}
        figures |= {"AP_50": mean_of_measured(precision[:, 0, :, 0]), "AP_75": mean_of_measured(precision[:, 5, :, 0])}
        figures["AR"] = mean_of_measured(np.stack([curve[1] for curve in curves])[:, :, 0])
        if self.classwise:
            figures |= {
                f"AP_{n}": mean_of_measured(c[0][:, :, 0]) for n, c in zip(meta["classes"], curves, strict=True)
            }
        self.protocol = {
            "boxes": meta["boxes"],
            "objects_answered": len(answers),
            "images": len(img_ids),
            "ground_truth": "answered images only" if self.is_partial else "all images, unfiltered",
            "sigmas": {name: list(map(float, values)) for name, values in zip(meta["classes"], sigmas, strict=True)},
            "max_dets": self.max_dets,
            "backend": self.backend,
        }
        print_log(f"{self.prefix}: {self.protocol}", logger="current")
        return figures

    def _sigmas(self, category: Mapping[str, Any], names: Sequence[str]) -> Float[np.ndarray, " k"]:
        given = self.sigmas if self.sigmas is not None else category["sigmas"]
        if given is None and tuple(category["keypoints"]) == tuple(COCO_SIGMAS):
            given = tuple(COCO_SIGMAS.values())
        # One value for all keypoints, or one per keypoint.
        sigmas = np.full(len(names), given) if isinstance(given, int | float) else np.array(given or (), dtype=float)
        if len(sigmas) != len(names) or not (sigmas > 0).all():
            raise ConfigError(
                f"category {category['name']!r} needs {len(names)} positive sigmas, one per keypoint, got {given}; "
                "name them in the metric, or as 'sigmas' of the category in the annotation file"
            )
        return sigmas

    def _evaluate(
        self, compared: PoseEvaluation, label: int, img_ids: Sequence[int], sigmas: Float[np.ndarray, " k"]
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return precision over (OKS threshold, recall, area) and recall over (OKS threshold, area) of one category."""
        truth, cat_id = compared.truth, compared.cat_ids[label]
        answers = [answer for answer in compared.answers if answer.label == label]
        without_keypoints = {"keypoints": [0.0] * 3 * len(sigmas)}
        content = {
            "images": [{"id": img_id} for img_id in truth.img_ids],
            "categories": [{"id": cat_id, "name": truth.categories[cat_id]["name"]}],
            "annotations": [
                entry if entry["keypoints"] else entry | without_keypoints
                for entry in truth.annotations.values()
                if entry["category_id"] == cat_id
            ],
        }
        curves = evaluate_by_library(
            self.backend,
            content,
            [_detection(answer, number, cat_id, len(sigmas)) for number, answer in enumerate(answers, start=1)],
            iou_type="keypoints",
            img_ids=img_ids,
            cat_ids=[cat_id],
            max_dets=self.max_dets,
            sigmas=sigmas,
        )
        return curves["precision"][:, :, 0, :, -1], curves["recall"][:, 0, :, -1]


@METRICS.register_module()
class PCK(BaseMetric):
    """Percentage of correct keypoints: predicted within a share of a reference length of the annotated place.

    A keypoint counts if it was asked for and is labelled, covered or not, in the crop or not. The figure is the mean
    over kinds of keypoints (of each category) of the share that is correct.

    Args:
        ann_file: COCO-format json with the ground truth; the evaluated data set's own when left out.
        threshold: Largest distance, as a share of the reference.
        reference: ``box``, the longer side of the annotated box; or two names, the distance between these keypoints
            (a head or torso length). An object that lacks one of them is left out and counted in ``protocol``.
        per_keypoint: Report each keypoint as well.
        prefix: First part of the metric names.
        collect_device: ``cpu`` or ``gpu``, see MMEngine.

    Raises:
        ConfigError: The threshold is not positive, or the reference is neither.

    Source:
        Yang and Ramanan, "Articulated Human Detection with Flexible Mixtures of Parts" (2013), section 6.2, for the
        longer side of the box; Andriluka et al., "2D Human Pose Estimation" (2014), for lengths of the body.
    """

    default_prefix = "pose"
    needs = frozenset({"keypoints"})

    def __init__(
        self,
        *,
        ann_file: str | None = None,
        threshold: float = 0.1,
        reference: str | Sequence[str] = "box",
        per_keypoint: bool = True,
        prefix: str | None = None,
        collect_device: str = "cpu",
    ) -> None:
        super().__init__(collect_device=collect_device, prefix=prefix)
        if threshold <= 0 or (reference != "box" and (isinstance(reference, str) or len(reference) != 2)):
            raise ConfigError(
                f"PCK needs a positive threshold and the reference 'box' or two names of keypoints, got {threshold} "
                f"and {reference!r}"
            )
        self._ann_file = None if ann_file is None else find_path(ann_file)
        self.threshold = threshold
        self.reference = reference
        self.per_keypoint = per_keypoint
        self.protocol: dict[str, Any] = {}

    @property
    def headline(self) -> str:
        """Name of the figure that ranks models."""
        return f"{self.prefix}/PCK@{self.threshold:g}"

    def process(self, data_batch: Any, data_samples: Sequence[Mapping[str, Any]]) -> None:
        """Store the answers of some samples, in original pixels.

        Raises:
            DataError: A sample lacks a field, or a number is not finite.
        """
        self.results += [read_answer(sample) for sample in data_samples]

    def compute_metrics(self, results: list[PoseAnswer | None]) -> dict[str, float]:
        """Return the figures, in [0, 1]; -1 where no keypoint counts.

        Raises:
            DataError: The boxes are not annotated ones, or an object is unknown or answered twice.
        """
        meta = self.dataset_meta or {}
        compared = read_evaluation(results, self._ann_file, meta)
        truth, answers = compared.truth, compared.answers
        if meta["boxes"] != _ANNOTATED:
            raise DataError(f"PCK compares with the annotation of each box, but the boxes are from {meta['boxes']}")
        lengths = [self._length(_find(compared, a), meta["keypoint_names"][a.label]) for a in answers]
        judged = [(a, length) for a, length in zip(answers, lengths, strict=True) if length > 0]
        shares = {
            f"{name}_{keypoint}": self._share(truth, [pair for pair in judged if pair[0].label == label], place)
            for label, name in enumerate(meta["classes"])
            for place, keypoint in enumerate(meta["keypoint_names"][label])
        }
        key = f"PCK@{self.threshold:g}"
        self.protocol = {
            "boxes": meta["boxes"],
            "objects": len(judged),
            "objects_without_reference": len(answers) - len(judged),
            "reference": self.reference,
            "threshold": self.threshold,
        }
        print_log(f"{self.prefix}: {self.protocol}", logger="current")
        figures = {key: mean_of_measured(np.array([*shares.values()]))}
        return figures | ({f"{key}_{name}": share for name, share in shares.items()} if self.per_keypoint else {})

    def _length(self, entry: Mapping[str, Any], names: Sequence[str]) -> float:
        """Return the reference length of an object in original pixels, 0 where it has none."""
        if self.reference == "box":
            return max(entry["bbox"][2:])
        lacking = [name for name in self.reference if name not in names]
        if lacking:
            raise ConfigError(f"the reference {list(self.reference)} is not among the keypoints {list(names)}")
        first, last = (entry["keypoints"][3 * place :][:3] for place in map(list(names).index, self.reference))
        is_known = first[2] > 0 and last[2] > 0
        return float(np.hypot(first[0] - last[0], first[1] - last[1])) if is_known else 0.0

    def _share(self, truth: PoseTruth, judged: Sequence[tuple[PoseAnswer, float]], place: int) -> float:
        """Return the correct share of one kind of keypoint, -1 if there is none."""
        is_correct = []
        for answer, length in judged:
            x, y, visibility = truth.annotations[answer.instance_id]["keypoints"][3 * place :][:3]
            points = answer.points[answer.places == place]
            if len(points) and visibility > 0:
                is_correct.append(np.hypot(*(points[0] - (x, y))) <= self.threshold * length)
        return share(np.array(is_correct))


def _find(compared: PoseEvaluation, answer: PoseAnswer) -> dict[str, Any]:
    entry = compared.truth.annotations.get(answer.instance_id)
    if entry is None or entry["image_id"] != answer.img_id:
        raise DataError(f"{compared.ann_file}: no annotation {answer.instance_id} in image {answer.img_id}")
    return entry


def _detection(answer: PoseAnswer, number: int, cat_id: int, num_keypoints: int) -> dict[str, Any]:
    """Return an answer as an annotation, with the box and area that the libraries' ``loadRes`` gives it."""
    if sorted(answer.places.tolist()) != list(range(num_keypoints)):
        raise DataError(
            f"object {answer.instance_id}: keypoint AP needs all {num_keypoints} keypoints, each once, got places "
            f"{answer.places.tolist()}; leave num_prompts of AskKeypoints out"
        )
    flat = np.ones((num_keypoints, 3))
    flat[answer.places, :2] = answer.points
    low, high = flat[:, :2].min(0), flat[:, :2].max(0)
    ids = {"id": number, "image_id": answer.img_id, "category_id": cat_id}
    area = {"bbox": [*low.tolist(), *(high - low).tolist()], "area": float((high - low).prod())}
    return {**ids, **area, "keypoints": flat.ravel().tolist(), "score": answer.score}

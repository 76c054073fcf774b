"""Referring expressions: is the box, or the mask, that of the object that a sentence means?

Every prompt of every sample counts once; a prompt without a prediction is answered with "none". All figures lie in
[0, 1], or are -1 where no prompt is of their kind.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from mmengine.evaluator import BaseMetric

from lumen.errors import ConfigError, DataError
from lumen.metrics.tables import NOT_MEASURED, require_fields, require_once, share, to_array
from lumen.ops.geometry import box_iou
from lumen.ops.masks import Rle, mask_area, merge_masks
from lumen.registry import METRICS

_RIGHT = 0.5
_LEAST_T_ACC = 0.9


@METRICS.register_module()
class GroundingMetric(BaseMetric):
    """Accuracy of visual grounding. Reads predictions in original pixels; targets are those of ``gt_instances``.

    Over prompts with exactly one target:
        ``accuracy``: Share whose best-scored box overlaps the target with an IoU of at least 0.5, whatever its score;
            ``accuracy_60`` and so on for further thresholds; ``accuracy_KIND`` by kind of sentence, where it is known.

    Where a prompt has no target or several, also, over all prompts (gRefCOCO):
        ``n_acc``: Share of the prompts without target that no box of at least ``score_threshold`` answers.
        ``t_acc``: Share of the prompts with targets that such a box answers, wherever it lies.
        ``pr_f1``: Share of all prompts answered exactly: each target has its own box with an IoU of at least 0.5 and
            no box of at least ``score_threshold`` is left over; none at all where there is no target.
        ``n_acc_at_t_acc_90``: The best ``n_acc`` of any threshold with a ``t_acc`` of at least 0.9; 0 when none
            reaches it. The threshold is found on the evaluated prompts
            themselves, so this is an upper bound: for a figure to report, measure it on a validation split.
        ``threshold_at_t_acc_90``: That threshold; -1 when there is none.
        ``n_acc_at_threshold``, ``t_acc_at_threshold``: With ``threshold``, in place of these two, the shares at it.

    Args:
        further_thresholds: Overlaps besides 0.5 for which the accuracy is reported.
        score_threshold: Smallest score of a box that is an answer in the generalised figures.
        threshold: The ``threshold_at_t_acc_90`` of another split, at which ``n_acc_at_threshold`` is reported.
        prefix: First part of the metric names.
        collect_device: ``cpu`` or ``gpu``, see MMEngine.

    Raises:
        ConfigError: A threshold lies outside (0, 1].

    Source:
        Accuracy: Yu et al., "Modeling Context in Referring Expressions" (2016). Generalised figures: He et al., "GREC:
        Generalized Referring Expression Comprehension" (2023). The code published with it (henghuiding/gRefCOCO)
        thresholds the generalised IoU, which is never above the IoU that the paper names and that is used here.
    """

    default_prefix = "grounding"
    needs = frozenset({"bboxes", "scores", "prompt_index"})

    def __init__(
        self,
        *,
        further_thresholds: Sequence[float | int] = (),
        score_threshold: float = 0.5,
        threshold: float | None = None,
        prefix: str | None = None,
        collect_device: str = "cpu",
    ) -> None:
        super().__init__(collect_device=collect_device, prefix=prefix)
        self.further_thresholds = _check_thresholds(further_thresholds)
        self.score_threshold = score_threshold
        self.threshold = threshold
        self.protocol = {} if threshold is None else {"threshold": threshold}

    @property
    def headline(self) -> str:
        """Name of the figure that ranks models."""
        return f"{self.prefix}/accuracy"

    def process(self, data_batch: Any, data_samples: Sequence[Mapping[str, Any]]) -> None:
        """Compare the answers of some samples with their targets.

        Args:
            data_batch: Not used.
            data_samples: Dicts with ``img_id``, ``prompts``, ``frame``, ``gt_instances`` and ``pred_instances``;
                ``kinds``, one per prompt, if known.

        Raises:
            DataError: A prediction lacks a field, is not finite, or names no prompt.
        """
        self.results.extend(_compare_boxes(sample, self.score_threshold) for sample in data_samples)

    def compute_metrics(self, results: list[dict[str, Any]]) -> dict[str, float]:
        """Return the figures.

        Raises:
            DataError: An image was answered twice.
        """
        table = _join(results)
        is_single, iou = table["num_targets"] == 1, table["iou"]
        figures = {"accuracy": share((iou >= _RIGHT)[is_single])}
        figures |= {f"accuracy_{_percent(t)}": share((iou >= t)[is_single]) for t in self.further_thresholds}
        for kind in sorted(set(table["kinds"]) - {""}):
            figures[f"accuracy_{kind}"] = share((iou >= _RIGHT)[is_single & (table["kinds"] == kind)])
        if is_single.all():
            return figures
        is_absent, score = table["num_targets"] == 0, table["score"]
        return figures | {
            "n_acc": share((score < self.score_threshold)[is_absent]),
            "t_acc": share((score >= self.score_threshold)[~is_absent]),
            "pr_f1": share(table["is_exact"]),
            **self._at_threshold(score, is_absent),
        }

    def _at_threshold(self, score: np.ndarray, is_absent: np.ndarray) -> dict[str, float]:
        """Return the figures at the threshold that was given, or else at the best one of these prompts."""
        if self.threshold is not None:
            is_answered = score >= self.threshold
            return {
                "n_acc_at_threshold": share(~is_answered[is_absent]),
                "t_acc_at_threshold": share(is_answered[~is_absent]),
            }
        best, threshold = _best_n_acc(score, is_absent)
        return {"n_acc_at_t_acc_90": best, "threshold_at_t_acc_90": threshold}


@METRICS.register_module()
class ReferringMaskMetric(BaseMetric):
    """Overlap of predicted masks with the union of the targets of each sentence. Reads RLEs in original pixels.

    A prompt's answer is its best-scored mask or, with ``score_threshold``, the union of all masks that reach it; an
    answer without a pixel is none.

    ``ciou``: Sum of intersections by sum of unions, over all prompts; also called overall IoU.
    ``giou``: Mean IoU over all prompts; without target 1 for no answer and 0 for any.
    ``precision_50`` and so on: Share of the prompts with targets whose IoU is at least 0.5.
    ``n_acc``, ``t_acc``: Where a prompt has no target, share of the prompts without target that are not answered, and
        of those with targets that are.

    Args:
        iou_thresholds: Overlaps that count as right.
        score_threshold: Smallest score of a mask that is part of the answer; ``None`` takes the best one whatever its
            score, which is right where every sentence has one target.
        prefix: First part of the metric names.
        collect_device: ``cpu`` or ``gpu``, see MMEngine.

    Raises:
        ConfigError: A threshold lies outside (0, 1].

    Source:
        Liu et al., "GRES: Generalized Referring Expression Segmentation" (2023). In the code published with it
        (henghuiding/ReLA) a flag of the network means that there is no target; here an answer without a pixel does.
    """

    default_prefix = "referring_segmentation"
    needs = frozenset({"masks", "scores", "prompt_index"})

    def __init__(
        self,
        *,
        iou_thresholds: Sequence[float | int] = (0.5, 0.6, 0.7, 0.8, 0.9),
        score_threshold: float | None = None,
        prefix: str | None = None,
        collect_device: str = "cpu",
    ) -> None:
        super().__init__(collect_device=collect_device, prefix=prefix)
        self.iou_thresholds = _check_thresholds(iou_thresholds)
        self.score_threshold = score_threshold

    @property
    def headline(self) -> str:
        """Name of the figure that ranks models."""
        return f"{self.prefix}/ciou"

    def process(self, data_batch: Any, data_samples: Sequence[Mapping[str, Any]]) -> None:
        """Compare the answers of some samples with their targets.

        Args:
            data_batch: Not used.
            data_samples: Dicts with ``img_id``, ``prompts``, ``target_rles`` and ``pred_instances``.

        Raises:
            DataError: A prediction lacks a field or names no prompt, or the sample has no ``target_rles``.
        """
        asked = [sample for sample in data_samples if len(sample["prompts"])]
        self.results.extend(_compare_masks(sample, self.score_threshold) for sample in asked)

    def compute_metrics(self, results: list[dict[str, Any]]) -> dict[str, float]:
        """Return the figures.

        Raises:
            DataError: An image was answered twice.
        """
        table = _join(results)
        shared, union, is_target = table["intersection"], table["union"], table["is_target"]
        # Neither target nor answer: right. A target without a pixel cannot be hit.
        iou = np.where(union > 0, shared / np.maximum(union, 1), ~is_target)
        figures = {
            "ciou": float(shared.sum() / union.sum()) if union.sum() else -1.0,
            "giou": share(iou),
            **{f"precision_{_percent(t)}": share((iou >= t)[is_target]) for t in self.iou_thresholds},
        }
        if is_target.all():
            return figures
        is_answered = table["is_answered"]
        return figures | {"n_acc": share(~is_answered[~is_target]), "t_acc": share(is_answered[is_target])}


def _compare_boxes(sample: Mapping[str, Any], score_threshold: float) -> dict[str, Any]:
    """Return, per prompt, the best box's score and IoU, the number of targets, and whether all is answered exactly."""
    predictions, scores, index = read_predictions(sample, "bboxes")
    truth, num_prompts = sample["gt_instances"], len(sample["prompts"])
    target_index = to_array(truth["prompt_index"]).astype(np.int64)
    boxes = torch.as_tensor(predictions["bboxes"]).cpu().float().reshape(-1, 4)
    if not bool(boxes.isfinite().all()):
        raise DataError(f"image {sample['img_id']}: predicted boxes are not finite")
    overlaps = box_iou(boxes, sample["frame"].boxes_to_original(truth["bboxes"].cpu().float()))
    overlaps = np.where(index[:, None] == target_index, overlaps.numpy(), 0.0)
    answered, best = best_rows(scores, index)
    iou, score = np.zeros(num_prompts), np.full(num_prompts, -np.inf)
    iou[answered] = overlaps[best].max(1, initial=0.0)
    score[answered] = scores[best]
    is_exact = [
        _is_matched(overlaps[(index == prompt) & (scores >= score_threshold)][:, target_index == prompt])
        for prompt in range(num_prompts)
    ]
    return {
        "img_id": sample["img_id"],
        "kinds": np.array(sample.get("kinds", ("",) * num_prompts), dtype=object),
        "num_targets": np.bincount(target_index, minlength=num_prompts),
        "iou": iou,
        "score": score,
        "is_exact": np.array(is_exact, dtype=bool),
    }


def _compare_masks(sample: Mapping[str, Any], score_threshold: float | None) -> dict[str, Any]:
    """Return, per prompt, intersection and union in pixels, and whether there are targets and answers."""
    answers, targets = _answers_and_targets(sample, score_threshold)
    pairs = [_overlap(answer, target, sample) for answer, target in zip(answers, targets, strict=True)]
    numbers = np.array(pairs, dtype=np.int64).reshape(-1, 3)
    return {
        "img_id": sample["img_id"],
        "intersection": numbers[:, 0],
        "union": numbers[:, 1],
        "is_answered": numbers[:, 2] > 0,
        "is_target": np.array([target is not None for target in targets], dtype=bool),
    }


def mask_ious(sample: Mapping[str, Any], prompts: Sequence[int]) -> np.ndarray:
    """Return, for each of some prompts, the IoU of its best-scored mask with its target; 0 where both are empty.

    Raises:
        DataError: The sample has no masks of its targets, or a prediction lacks a field.
    """
    answers, targets = _answers_and_targets(sample, None)
    pairs = [_overlap(answers[prompt], targets[prompt], sample) for prompt in prompts]
    return np.array([both / max(either, 1) for both, either, _ in pairs], dtype=np.float32)


def _answers_and_targets(
    sample: Mapping[str, Any], score_threshold: float | None
) -> tuple[list[list[Rle]], Sequence[Rle | None]]:
    """Return, per prompt, the best mask, or those from a threshold on, and the target."""
    predictions, scores, index = read_predictions(sample, "masks")
    targets = sample.get("target_rles")
    if targets is None or len(targets) != len(sample["prompts"]):
        raise DataError(
            f"image {sample['img_id']}: expected one of target_rles per prompt; build ReferDataset with "
            "with_masks=True and ask with AskSentences"
        )
    rows = best_rows(scores, index)[1] if score_threshold is None else np.flatnonzero(scores >= score_threshold)
    answers: list[list[Rle]] = [[] for _ in targets]
    for row in rows.tolist():
        answers[index[row]].append(predictions["masks"][row])
    return answers, targets


def _overlap(answer: Sequence[Rle], target: Rle | None, sample: Mapping[str, Any]) -> tuple[int, int, int]:
    """Return the pixels in both, in either, and in the answer."""
    for code in (*answer, *([target] if target else [])):
        if tuple(code["size"]) != tuple(sample["ori_shape"]):
            raise DataError(
                f"image {sample['img_id']}: a mask has size {code['size']}, the image {sample['ori_shape']} (h, w)"
            )
    given = merge_masks(answer) if answer else None
    area = mask_area(given) if given else 0
    wanted = mask_area(target) if target else 0
    both = mask_area(merge_masks([given, target], intersect=True)) if given and target else 0
    return both, area + wanted - both, area


def read_predictions(sample: Mapping[str, Any], name: str) -> tuple[Mapping[str, Any], np.ndarray, np.ndarray]:
    """Return the predictions, their scores and the prompts that they answer, checked."""
    if not sample["prompts"]:  # an image that was asked nothing, whose empty table may be that of another task
        return {name: ()}, np.zeros(0), np.zeros(0, dtype=np.int64)
    predictions = require_fields(sample, "pred_instances", (name, "scores", "prompt_index"))
    num_prompts = len(sample["prompts"])
    scores = to_array(predictions["scores"]).astype(np.float64)
    index = to_array(predictions["prompt_index"]).astype(np.int64)
    if not (len(scores) == len(index) == len(predictions[name])) or not np.isfinite(scores).all():
        raise DataError(f"image {sample['img_id']}: scores are not finite, or not one per prediction")
    if len(index) and (index.min() < 0 or index.max() >= num_prompts):
        raise DataError(f"image {sample['img_id']}: prompt_index {index.min()}..{index.max()} of {num_prompts} prompts")
    return predictions, scores, index


def best_rows(scores: np.ndarray, index: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the prompts that have predictions, and the best row of each; of equal ones the first."""
    order = np.lexsort((-scores, index))
    answered, first = np.unique(index[order], return_index=True)
    return answered, order[first]


def _is_matched(overlaps: np.ndarray, threshold: float = _RIGHT) -> bool:
    """Return whether every row has its own column: the largest overlap pairs up first, as in gRefCOCO."""
    if overlaps.shape[0] != overlaps.shape[1]:
        return False
    left = overlaps.copy()
    for _ in range(len(left)):
        row, column = np.unravel_index(left.argmax(), left.shape)
        if left[row, column] < threshold:
            return False
        left[row], left[:, column] = -1.0, -1.0
    return True


def _best_n_acc(score: np.ndarray, is_absent: np.ndarray) -> tuple[float, float]:
    """Return the highest threshold that keeps 9 of 10 prompts with targets, after the share below it of those without.

    Without such a threshold it is -1.
    """
    # Scores of prompts with targets, best first: the threshold is the last one that is needed for the share.
    present = np.sort(score[~is_absent])[::-1]
    if not len(present) or not is_absent.any():
        return NOT_MEASURED, NOT_MEASURED
    threshold = present[math.ceil(_LEAST_T_ACC * len(present)) - 1]
    if threshold == -np.inf:
        return 0.0, NOT_MEASURED
    return float((score[is_absent] < threshold).mean()), float(threshold)


def _join(results: Sequence[Mapping[str, Any]]) -> dict[str, np.ndarray]:
    """Return the columns of all samples, one row per prompt."""
    if not results:
        raise DataError("no image was answered; evaluate a data set with sentences")
    require_once([result["img_id"] for result in results], "images")
    columns = [key for key in results[0] if key != "img_id"]
    return {key: np.concatenate([result[key] for result in results]) for key in columns}


def _percent(threshold: float) -> int:
    return round(100 * threshold)


def _check_thresholds(thresholds: Sequence[float | int]) -> tuple[float | int, ...]:
    if not all(0 < threshold <= 1 for threshold in thresholds):
        raise ConfigError(f"overlaps that count as right must be numbers in (0, 1], got {thresholds}")
    return tuple(thresholds)

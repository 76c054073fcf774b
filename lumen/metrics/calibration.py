"""How far scores can be trusted: presence of prompts, false alarms, calibration of detections."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int
from mmengine.evaluator import BaseMetric
from mmengine.logging import print_log

from lumen.errors import ConfigError, DataError
from lumen.metrics.coco.matching import HIT, IGNORED, MISS, Answers, Objects, match
from lumen.metrics.tables import NOT_MEASURED, require_fields, share, to_array
from lumen.ops.geometry import InputTransform
from lumen.registry import METRICS

_PRESENCE_THRESHOLD = 0.5


@METRICS.register_module()
class CalibrationMetric(BaseMetric):
    """Whether the score of a prompt tells if its object is there, and that of a detection how likely it is right.

    All figures are in [0, 1], or -1 where nothing can be counted; ground truth is ``gt_instances`` of the samples, so
    they are about the prompts that the data pipeline asked. A prompt is *present* with at least one object, *absent*
    with none at all; prompts with nothing but crowd or ignored regions are neither, and do not count. Ask each class
    once: where two prompts of an image mean one class, decoders give its detections to one of them.

    - ``presence_accuracy``: share of prompts with the right presence, at 0.5. ``presence_recall`` is that of the
      present ones alone, ``presence_specificity`` that of the absent ones: with 80 prompts per image nearly all are
      absent. The presence of a prompt is ``scores / peak_scores`` of its best detection where there are
      ``peak_scores``, else its best score; 0 without a detection.
    - ``false_alarms``: share of absent prompts with a detection of at least ``alarm_score``.
    - ``d_ece``: detection expected calibration error over ``num_bins`` equal bins of the score alone. Detections are
      right or wrong as in COCO's matching at ``iou_threshold``, per prompt; those on crowd or ignored regions do not
      count.

    Args:
        iou_threshold: Minimum IoU of a correct detection.
        num_bins: Bins of the score between 0 and 1.
        min_score: Detections below this score do not enter ``d_ece``: the many that are never shown are calibrated
            easily.
        alarm_score: Score from which on a detection is an alarm.
        prefix: First part of the metric names.
        collect_device: ``cpu`` or ``gpu``, see MMEngine.

    Raises:
        ConfigError: A threshold is not in [0, 1], or ``num_bins`` is below 1.

    Source:
        Kueppers et al., "Multivariate Confidence Calibration for Object Detection" (CVPR workshops 2020), D-ECE with
        bins of the confidence alone.
    """

    default_prefix = "calibration"
    needs = frozenset({"bboxes", "scores", "prompt_index"})

    def __init__(
        self,
        *,
        iou_threshold: float = 0.5,
        num_bins: int = 20,
        min_score: float = 0.05,
        alarm_score: float = 0.5,
        prefix: str | None = None,
        collect_device: str = "cpu",
    ) -> None:
        super().__init__(collect_device=collect_device, prefix=prefix)
        if not all(0 <= value <= 1 for value in (iou_threshold, min_score, alarm_score)) or num_bins < 1:
            raise ConfigError(
                f"iou_threshold, min_score and alarm_score lie in [0, 1] and num_bins is at least 1, got "
                f"{iou_threshold}, {min_score}, {alarm_score} and {num_bins}"
            )
        self.iou_threshold = iou_threshold
        self.num_bins = num_bins
        self.min_score = min_score
        self.alarm_score = alarm_score
        self.protocol: dict[str, Any] = {}

    @property
    def headline(self) -> str:
        """Name of the figure that ranks models; lower is better."""
        return f"{self.prefix}/d_ece"

    def process(self, data_batch: Any, data_samples: Sequence[Mapping[str, Any]]) -> None:
        """Store what is counted.

        Args:
            data_batch: Not used.
            data_samples: Dicts with ``img_id``, ``prompts``, ``frame``, ``gt_instances`` and perhaps
                ``ignored_instances`` in input pixels, and ``pred_instances`` in original pixels.

        Raises:
            DataError: A sample lacks a field, or a score is not in [0, 1].
        """
        self.results.extend(_judge(sample, self.iou_threshold) for sample in data_samples)

    def compute_metrics(self, results: list[dict[str, np.ndarray]]) -> dict[str, float]:
        """Return the figures."""
        joined = {name: np.concatenate([result[name] for result in results]) for name in results[0]} if results else {}
        columns = {name: joined.get(name, np.zeros(0)) for name in ("presence", "best", "state", "scores", "is_right")}
        is_present, is_absent = columns["state"] > 0, columns["state"] == 0
        is_told_present = columns["presence"] >= _PRESENCE_THRESHOLD
        shown = columns["scores"] >= self.min_score
        self.protocol = {
            "prompts": int((is_present | is_absent).sum()),
            "absent_prompts": int(is_absent.sum()),
            "detections": int(shown.sum()),
            "iou_threshold": self.iou_threshold,
            "num_bins": self.num_bins,
            "min_score": self.min_score,
            "alarm_score": self.alarm_score,
        }
        print_log(f"{self.prefix}: {self.protocol}", logger="current")
        return {
            "presence_accuracy": share((is_told_present == is_present)[is_present | is_absent]),
            "presence_recall": share(is_told_present[is_present]),
            "presence_specificity": share(~is_told_present[is_absent]),
            "false_alarms": share((columns["best"] >= self.alarm_score)[is_absent]),
            "d_ece": detection_calibration_error(
                columns["scores"][shown], columns["is_right"][shown].astype(bool), num_bins=self.num_bins
            ),
        }


def detection_calibration_error(
    scores: Float[np.ndarray, " n"], is_right: Bool[np.ndarray, " n"], *, num_bins: int
) -> float:
    """Return the mean difference of precision and mean score over equal bins, weighted by detections; -1 without any.

    A score on the edge of two bins is in the upper one, 1 in the last.

    Source:
        Kueppers et al. (2020), equation of D-ECE, with the confidence as the only dimension.
    """
    if not len(scores):
        return NOT_MEASURED
    bins = np.minimum((scores.astype(np.float64) * num_bins).astype(np.int64), num_bins - 1)
    # |precision - mean score| * share of a bin is |sum of (right - score)| / all detections.
    return float(np.abs(np.bincount(bins, is_right - scores.astype(np.float64))).sum() / len(scores))


def _judge(sample: Mapping[str, Any], iou_threshold: float) -> dict[str, np.ndarray]:
    """Return presence, best score, state (1 present, 0 absent, -1 neither) per prompt; which detections are right."""
    answer = require_fields(sample, "pred_instances", CalibrationMetric.needs)
    wanted = require_fields(sample, "gt_instances", {"bboxes", "prompt_index"})
    ignored = (
        require_fields(sample, "ignored_instances", {"bboxes", "prompt_index"})
        if "ignored_instances" in sample
        else None
    )
    scores = to_array(answer["scores"]).astype(np.float64)
    if len(scores) and not (scores.min() >= 0 and scores.max() <= 1):
        raise DataError(f"image {sample['img_id']}: scores must lie in [0, 1], got {scores.min()}..{scores.max()}")
    num_prompts, prompt = len(sample["prompts"]), to_array(answer["prompt_index"])
    best, presence = np.zeros(num_prompts), np.zeros(num_prompts)
    np.maximum.at(best, prompt, scores)  # unbuffered: several detections of one prompt
    at_best = scores == best[prompt]
    peaks = to_array(answer["peak_scores"]).astype(np.float64) if "peak_scores" in answer else np.ones(len(scores))
    # A score is presence times peak.
    presence[prompt[at_best]] = scores[at_best] / np.maximum(peaks[at_best], np.finfo(np.float32).tiny)
    # Wanted objects are set last: a prompt with both is present.
    state = np.zeros(num_prompts, dtype=np.int64)
    if ignored is not None:
        state[to_array(ignored["prompt_index"])] = -1
    state[to_array(wanted["prompt_index"])] = 1
    status = _match(answer, scores, _objects(wanted, ignored, sample["frame"]), iou_threshold)
    counts = status != IGNORED
    return {
        "presence": presence,
        "best": best,
        "state": state,
        "scores": scores[counts],
        "is_right": (status == HIT)[counts],
    }


def _match(
    answer: Mapping[str, Any], scores: Float[np.ndarray, " n"], objects: Objects, iou_threshold: float
) -> Int[np.ndarray, " n"]:
    boxes = _xywh(to_array(answer["bboxes"]))
    answers = Answers(to_array(answer["prompt_index"]), boxes, boxes[:, 2] * boxes[:, 3], scores)
    everything = [(-np.inf, np.inf)]
    found = match(objects, answers, thresholds=[iou_threshold], areas=everything, max_dets=max(len(scores), 1))
    status = np.full(len(scores), MISS)
    status[found.rows[found.reaching]] = found.status[0]
    return status


def _objects(wanted: Mapping[str, Any], ignored: Mapping[str, Any] | None, frame: InputTransform) -> Objects:
    """Return counted and ignored instances in original pixels; a group is a prompt."""
    tables = [wanted] if ignored is None else [wanted, ignored]
    boxes = [_xywh(to_array(frame.boxes_to_original(table["bboxes"].detach().float().cpu()))) for table in tables]
    counts = [len(part) for part in boxes]
    # Ignored regions are matched as crowds are: by any number of detections, without gain or harm.
    return Objects(
        groups=np.concatenate([to_array(table["prompt_index"]) for table in tables]),
        boxes=np.concatenate(boxes),
        areas=np.zeros(sum(counts)),
        is_crowd=np.repeat([False, True][: len(counts)], counts),
    )


def _xywh(boxes: np.ndarray) -> Float[np.ndarray, "n 4"]:
    boxes = boxes.reshape(-1, 4).astype(np.float64)
    boxes[:, 2:] -= boxes[:, :2]
    return boxes

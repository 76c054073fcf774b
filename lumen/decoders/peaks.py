"""What box decoders share: peaks with scores, and the choice of the best boxes of an image or of a phrase."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from types import NoneType
from typing import Any, TypeVar

import torch
from jaxtyping import Float, Int
from mmengine.structures import InstanceData
from torch import Tensor

from lumen.decoders.boxes import boxes_at
from lumen.errors import ConfigError
from lumen.ops.geometry import nms
from lumen.ops.grouping import place_in_image
from lumen.ops.heatmap import find_peaks
from lumen.structures import NO_LABEL, PerceptionSample, SharedRepresentation, gather_pairs

_CANDIDATES_PER_BOX = 4
_Limits = TypeVar("_Limits", "BoxLimits", "SentenceLimits")
_COPIES = 10
MAX_CHUNK_BYTES = 64 * 2**20
"""Bound on the copies of heatmaps held in memory during the search for peaks."""


@dataclass(frozen=True, slots=True)
class BoxLimits:
    """Which boxes of an image are kept, for decoders that find all objects of each phrase.

    Args:
        num_peaks: Peaks per phrase.
        min_score: Peaks below this score are dropped before anything else.
        iou_threshold: IoU above which the lower-scored box of a class is suppressed.
        max_per_image: Boxes kept per image over all phrases; only these get masks.
    """

    num_peaks: int = 100
    min_score: float = 0.001
    iou_threshold: float = 0.6
    max_per_image: int = 100

    def __post_init__(self) -> None:
        counts = {"num_peaks": self.num_peaks, "max_per_image": self.max_per_image}
        require_bounds(counts, {"min_score": self.min_score, "iou_threshold": self.iou_threshold})


@dataclass(frozen=True, slots=True)
class SentenceLimits:
    """Which boxes of a sentence are answers.

    With ``min_score`` at 0 every sentence gets an answer, as RefCOCO expects; above 0 a sentence whose best box scores
    less has no target, as in gRefCOCO.

    Args:
        num_boxes: Boxes per sentence at most.
        min_score: Boxes below this score are dropped.
        iou_threshold: IoU above which the lower-scored box of a sentence is suppressed.
        with_presence: Score a box by presence times peak; otherwise by the peak alone.
    """

    num_boxes: int = 1
    min_score: float = 0.0
    iou_threshold: float = 0.6
    with_presence: bool = True

    def __post_init__(self) -> None:
        bounds = {"min_score": self.min_score, "iou_threshold": self.iou_threshold}
        require_bounds({"num_boxes": self.num_boxes}, bounds)


def require_bounds(counts: Mapping[str, Any], reals: Mapping[str, Any]) -> None:
    """Raise ConfigError unless counts are whole and at least 1, and reals finite and at least 0.

    With NaN in place of a score a decoder would find nothing, without an error.
    """
    for name, value in counts.items():
        if type(value) is not int or value < 1:
            raise ConfigError(f"{name} must be a whole number of at least 1, got {value!r}")
    for name, value in reals.items():
        if type(value) not in (int, float) or not 0 <= value < math.inf:
            raise ConfigError(f"{name} must be a finite number of at least 0, got {value!r}")


def read_limits(kind: type[_Limits], given: Mapping[str, Any] | _Limits | None) -> _Limits:
    """Return the limits that a config gives as a dict; defaults for the keys that it leaves out.

    Raises:
        ConfigError: It is not a dict, or has an unknown key or a value that is not accepted.
    """
    if isinstance(given, kind):
        return given
    if not isinstance(given, Mapping | NoneType):
        raise ConfigError(f"limits must be a dict of bounds, got {given!r}")
    known = [field.name for field in fields(kind)]
    unknown = sorted(set(given or {}) - set(known))
    if unknown:
        raise ConfigError(f"limits takes no {unknown}; known are {known}")
    return kind(**(given or {}))


def pick_peaks(
    shared: SharedRepresentation, *, num_peaks: int, min_score: float, with_presence: bool = True
) -> tuple[Int[Tensor, " n"], Int[Tensor, "n 2"], Float[Tensor, " n"], Float[Tensor, " n"]]:
    """Find the peaks of every pair's heatmap that score at least ``min_score``.

    Returns:
        Pair of each peak, its cell (x, y), its score (presence times peak, or the peak alone without
        ``with_presence``), and the peak's height.
    """
    step = max(1, MAX_CHUNK_BYTES // (_COPIES * 4 * max(1, shared.heat_logits[0:1].numel())))
    starts = range(0, max(1, shared.num_pairs), step)
    found = [
        _pick(shared, slice(start, start + step), num_peaks=num_peaks, min_score=min_score, with_presence=with_presence)
        for start in starts
    ]
    pair, cells_xy, scores, heights = (torch.cat(parts) for parts in zip(*found, strict=True))
    return pair, cells_xy, scores, heights


def _pick(
    shared: SharedRepresentation, part: slice, *, num_peaks: int, min_score: float, with_presence: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    peaks = find_peaks(shared.heat_logits[part, 0].float().sigmoid(), num_peaks)
    presence = shared.presence_logits[part].float().sigmoid()[:, None]
    scores = peaks.scores * presence if with_presence else peaks.scores
    pair, rank = (peaks.is_peak & (scores >= min_score)).nonzero(as_tuple=True)
    return pair + part.start, peaks.cells_xy[pair, rank], scores[pair, rank], peaks.scores[pair, rank]


def best_boxes(
    per_pair: InstanceData,
    samples: Sequence[PerceptionSample],
    shared: SharedRepresentation,
    limits: BoxLimits,
) -> list[InstanceData]:
    """Suppress duplicate boxes and keep the best of each image over all its prompts.

    Boxes compete within a label, so that two wordings of one class give its boxes once; free phrases compete within
    their prompt.

    Args:
        per_pair: ``bboxes``, ``scores`` and ``pair_index`` of all candidates.
        samples: The samples of ``shared``.
        shared: Names the pairs.
        limits: Their overlap and their number per image.
    """
    return [_best(answer, limits) for answer in gather_pairs(per_pair, samples, shared)]


def best_of_pairs(
    shared: SharedRepresentation, distances: Float[Tensor, "images 4 height width"], limits: SentenceLimits
) -> InstanceData:
    """Return the best boxes of each pair: by pair, the best first.

    Args:
        shared: The pairs.
        distances: Output of ``BoxHead``.
        limits: Their number, score and overlap; a pair may end up without any.

    Returns:
        ``bboxes``, ``scores`` and ``pair_index``.
    """
    num_peaks = 1 if limits.num_boxes == 1 else limits.num_boxes * _CANDIDATES_PER_BOX
    pair, cells_xy, scores, _ = pick_peaks(
        shared, num_peaks=num_peaks, min_score=limits.min_score, with_presence=limits.with_presence
    )
    boxes = boxes_at(distances, shared.image_index[pair], cells_xy, shared.stride)
    kept = nms(boxes, scores, pair, limits.iou_threshold)
    kept = kept[pair[kept].argsort(stable=True)]
    kept = kept[place_in_image(pair[kept]) < limits.num_boxes]
    return InstanceData(bboxes=boxes[kept], scores=scores[kept], pair_index=pair[kept])


def _best(answer: InstanceData, limits: BoxLimits) -> InstanceData:
    is_free = answer.labels == NO_LABEL
    groups = torch.where(is_free, -1 - answer.prompt_index, answer.labels)
    kept = nms(answer.bboxes, answer.scores, groups, limits.iou_threshold)
    return answer[kept[: limits.max_per_image]]

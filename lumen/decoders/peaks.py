"""What box decoders share: peaks with scores, and the choice of the best boxes of an image or of a phrase."""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from mmengine.structures import InstanceData
from torch import Tensor

from lumen.decoders.boxes import boxes_at
from lumen.ops.geometry import nms
from lumen.ops.heatmap import find_peaks
from lumen.structures import NO_LABEL, PerceptionSample, SharedRepresentation, gather_pairs, place_in_image

_CANDIDATES_PER_BOX = 4
_COPIES = 10
MAX_CHUNK_BYTES = 64 * 2**20
"""Bound on the copies of heatmaps that are held while their peaks are looked for."""


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
        _pick(shared, slice(at, at + step), num_peaks=num_peaks, min_score=min_score, with_presence=with_presence)
        for at in starts
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
    *,
    iou_threshold: float,
    max_per_image: int,
) -> list[InstanceData]:
    """Suppress double boxes and keep the best of each image over all its prompts.

    Boxes compete within a label, so that two wordings of one class give its boxes once; free phrases compete within
    their prompt.

    Args:
        per_pair: ``bboxes``, ``scores`` and ``pair_index`` of all candidates.
        samples: The samples of ``shared``.
        shared: Names the pairs.
        iou_threshold: Boxes that overlap a better one by more than this go.
        max_per_image: Number of boxes kept per image.
    """
    answers = gather_pairs(per_pair, samples, shared)
    return [_best(answer, iou_threshold, max_per_image) for answer in answers]


def best_of_pairs(
    shared: SharedRepresentation,
    distances: Float[Tensor, "images 4 height width"],
    *,
    num_boxes: int,
    min_score: float,
    iou_threshold: float,
    with_presence: bool,
) -> InstanceData:
    """Return the best boxes of each pair: by pair, the best first.

    Args:
        shared: The pairs.
        distances: Output of ``BoxHead``.
        num_boxes: Boxes per pair at most.
        min_score: Boxes below this score are dropped; a pair may end up without any.
        iou_threshold: Boxes that overlap a better one of their pair by more than this go.
        with_presence: Score a box by presence times peak; otherwise by the peak alone.

    Returns:
        ``bboxes``, ``scores`` and ``pair_index``.
    """
    num_peaks = num_boxes if num_boxes == 1 else num_boxes * _CANDIDATES_PER_BOX
    pair, cells_xy, scores, _ = pick_peaks(
        shared, num_peaks=num_peaks, min_score=min_score, with_presence=with_presence
    )
    boxes = boxes_at(distances, shared.image_index[pair], cells_xy, shared.stride)
    kept = nms(boxes, scores, pair, iou_threshold)
    kept = kept[pair[kept].argsort(stable=True)]
    kept = kept[place_in_image(pair[kept]) < num_boxes]
    return InstanceData(bboxes=boxes[kept], scores=scores[kept], pair_index=pair[kept])


def _best(answer: InstanceData, iou_threshold: float, max_per_image: int) -> InstanceData:
    is_free = answer.labels == NO_LABEL
    groups = torch.where(is_free, -1 - answer.prompt_index, answer.labels)
    kept = nms(answer.bboxes, answer.scores, groups, iou_threshold)
    return answer[kept[:max_per_image]]

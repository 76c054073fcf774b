"""What box decoders share: peaks with scores, and the choice of the best boxes of an image."""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from mmengine.structures import InstanceData
from torch import Tensor

from lumen.geometry import nms
from lumen.heatmap import find_peaks
from lumen.structures import NO_LABEL, PerceptionSample, SharedRepresentation, gather_pairs


def pick_peaks(
    shared: SharedRepresentation, *, num_peaks: int, min_score: float, with_presence: bool = True
) -> tuple[Int[Tensor, " n"], Int[Tensor, "n 2"], Float[Tensor, " n"], Float[Tensor, " n"]]:
    """Find the peaks of every pair's heatmap that score at least ``min_score``.

    Returns:
        Pair of each peak, its cell (x, y), its score (presence times peak, or the peak alone without
        ``with_presence``), and the peak's height.
    """
    peaks = find_peaks(shared.heat_logits[:, 0].float().sigmoid(), num_peaks)
    presence = shared.presence_logits.float().sigmoid()[:, None]
    scores = peaks.scores * presence if with_presence else peaks.scores
    pair, rank = (peaks.is_peak & (scores >= min_score)).nonzero(as_tuple=True)
    return pair, peaks.cells_xy[pair, rank], scores[pair, rank], peaks.scores[pair, rank]


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


def _best(answer: InstanceData, iou_threshold: float, max_per_image: int) -> InstanceData:
    is_free = answer.labels == NO_LABEL
    groups = torch.where(is_free, -1 - answer.prompt_index, answer.labels)
    kept = nms(answer.bboxes, answer.scores, groups, iou_threshold)
    return answer[kept[:max_per_image]]

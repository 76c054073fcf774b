"""COCO's greedy matching of predictions with objects, for all thresholds, area ranges and images at once.

A *group* is what is matched on its own: one class of one image, or one prompt. A *case* is one IoU threshold with one
area range; case ``t * num_areas + a`` has threshold ``t`` and area range ``a``.
"""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int, Int8
from pycocotools import mask as codec

from lumen.ops.masks import Rle

MISS, HIT, IGNORED = 0, 1, 2
_PAIRS_AT_ONCE = 2**22


@dataclass(frozen=True, slots=True)
class Objects:
    """Ground truth, one row per object.

    Args:
        groups: Number of the group of each row.
        boxes: x, y, width, height.
        areas: What area ranges are about; COCO's file gives it.
        is_crowd: Regions that any number of predictions may match, without gain or harm.
        masks: RLEs, where masks are matched instead of boxes.
    """

    groups: Int[np.ndarray, " n"]
    boxes: Float[np.ndarray, "n 4"]
    areas: Float[np.ndarray, " n"]
    is_crowd: Bool[np.ndarray, " n"]
    masks: Sequence[Rle] | None = None


@dataclass(frozen=True, slots=True)
class Answers:
    """Predictions, one row each; the fields are those of ``Objects``.

    Args:
        scores: Better ones choose first; of equal ones the earlier row.
    """

    groups: Int[np.ndarray, " m"]
    boxes: Float[np.ndarray, "m 4"]
    areas: Float[np.ndarray, " m"]
    scores: Float[np.ndarray, " m"]
    masks: Sequence[Rle] | None = None


@dataclass(frozen=True, slots=True)
class Matches:
    """The outcome of the matching for each prediction.

    Args:
        rows: The predictions that count, as rows of ``Answers``, by group and falling score.
        reaching: Those that reach an object at the lowest threshold, as indices into ``rows``. All others miss.
        status: ``MISS``, ``HIT`` or ``IGNORED`` of these, for each case.
    """

    rows: Int[np.ndarray, " kept"]
    reaching: Int[np.ndarray, " reaching"]
    status: Int8[np.ndarray, "cases reaching"]


@dataclass(frozen=True, slots=True)
class _Pairs:
    """Predictions (indices into ``Matches.rows``) with objects (rows) whose IoU is high enough for some case."""

    answer: Int[np.ndarray, " pairs"]
    object: Int[np.ndarray, " pairs"]
    iou: Float[np.ndarray, " pairs"]

    def take(self, index: Int[np.ndarray, " chosen"] | Bool[np.ndarray, " pairs"]) -> "_Pairs":
        return _Pairs(self.answer[index], self.object[index], self.iou[index])


def match(
    objects: Objects,
    answers: Answers,
    *,
    thresholds: Sequence[float],
    areas: Sequence[tuple[float, float]],
    max_dets: int,
) -> Matches:
    """Match as COCO does: the best prediction first, each with the free object of its group it overlaps most.

    Objects outside the area range of a case are taken only when no other is left, and then ignore the prediction.

    Args:
        objects: Ground truth.
        answers: Predictions; masks are compared where both sides have them.
        thresholds: Minimum IoU of a match.
        areas: Minimum and maximum area of objects that count.
        max_dets: Predictions of a group that count, best first.

    Source:
        ``COCOeval.evaluateImg`` of pycocotools (Lin et al., BSD licence); every image takes its next step at once.
    """
    # The best predictions of each group, by falling score; a stable sort, so that of equal ones the earlier is first.
    order = np.lexsort((-answers.scores, answers.groups))
    kept = order[_place_in_run(answers.groups[order]) < max_dets]
    # As COCO: a threshold of 1 must be reachable in floating point.
    least = np.minimum(np.asarray(thresholds, dtype=np.float64), 1 - 1e-10)
    # Most predictions overlap nothing; only the few pairs that reach the lowest threshold go through the greedy part.
    found = list(_overlapping(objects, answers, kept, least.min()))
    pairs = _Pairs(*(np.concatenate([getattr(part, name) for part in found]) for name in _Pairs.__slots__))
    # Step s of the greedy part: in every group at once, the s-th of its reaching predictions chooses.
    reaching, place = np.unique(pairs.answer, return_inverse=True)
    steps = _place_in_run(answers.groups[kept[reaching]])
    # Within a prediction the wanted pair comes last: the largest IoU, and of equal ones the later object.
    by_step = np.lexsort((pairs.object, pairs.iou, pairs.answer, steps[place]))
    status = _choose(objects, pairs.take(by_step), place[by_step], steps[place[by_step]], least, areas)
    return Matches(rows=kept, reaching=reaching, status=status)


def box_ious(
    ours: Float[np.ndarray, "pairs 4"], theirs: Float[np.ndarray, "pairs 4"], is_crowd: Bool[np.ndarray, " pairs"]
) -> Float[np.ndarray, " pairs"]:
    """Return the IoU of each pair of boxes (x, y, width, height), to the last bit that of pycocotools.

    With a crowd region it is the share of our box that lies inside the region.
    """
    low = np.maximum(ours[:, :2], theirs[:, :2])
    sides = np.minimum(ours[:, 2:] + ours[:, :2], theirs[:, 2:] + theirs[:, :2]) - low
    shared = np.where((sides > 0).all(1), sides[:, 0] * sides[:, 1], 0.0)
    our_areas = ours[:, 2] * ours[:, 3]
    union = np.where(is_crowd, our_areas, our_areas + theirs[:, 2] * theirs[:, 3] - shared)
    return np.divide(shared, union, out=np.zeros_like(shared), where=shared > 0)


def _place_in_run(values: Int[np.ndarray, " n"]) -> Int[np.ndarray, " n"]:
    """Return how many equal values come right before each."""
    index = np.arange(len(values))
    is_first = np.ones(len(values), dtype=bool)
    is_first[1:] = values[1:] != values[:-1]
    # The running maximum carries the index of a run's first element through the run.
    return index - np.maximum.accumulate(np.where(is_first, index, 0))


def _overlapping(objects: Objects, answers: Answers, kept: Int[np.ndarray, " kept"], least: float) -> Iterator[_Pairs]:
    """Yield the pairs of one group that overlap enough, a bounded number of candidates at a time."""
    by_group = np.argsort(objects.groups, kind="stable")
    sorted_groups, groups = objects.groups[by_group], answers.groups[kept]
    first = np.searchsorted(sorted_groups, groups, side="left")
    counts = np.searchsorted(sorted_groups, groups, side="right") - first
    for start, stop in _blocks(groups, counts):
        answer = np.repeat(np.arange(start, stop), counts[start:stop])
        theirs = by_group[first[answer] + _place_in_run(answer)]
        iou = _ious(objects, answers, kept[answer], theirs)
        yield _Pairs(answer, theirs, iou).take(iou >= least)


def _blocks(groups: Int[np.ndarray, " kept"], counts: Int[np.ndarray, " kept"]) -> Iterator[tuple[int, int]]:
    """Yield slices of whole groups with a bounded number of pairs; at least one slice, with at least one group each."""
    total = np.cumsum(np.append(0, counts))
    ends = np.append(np.flatnonzero(groups[1:] != groups[:-1]) + 1, len(groups))
    start = last = 0
    while True:
        fitting = np.searchsorted(total[ends], total[start] + _PAIRS_AT_ONCE, side="right")
        last = max(last, int(fitting) - 1)
        yield start, int(ends[last])
        start, last = int(ends[last]), last + 1
        if last >= len(ends):
            return


def _ious(
    objects: Objects, answers: Answers, ours: Int[np.ndarray, " pairs"], theirs: Int[np.ndarray, " pairs"]
) -> Float[np.ndarray, " pairs"]:
    if answers.masks is None or objects.masks is None:
        return box_ious(answers.boxes[ours], objects.boxes[theirs], objects.is_crowd[theirs])
    groups = answers.groups[ours]
    cuts = [0, *(np.flatnonzero(groups[1:] != groups[:-1]) + 1).tolist(), len(ours)]
    parts = [
        _mask_ious(objects, answers, ours[start:stop], theirs[start:stop])
        for start, stop in itertools.pairwise(cuts)
        if stop > start
    ]
    return np.concatenate([np.zeros(0), *parts])


def _mask_ious(
    objects: Objects, answers: Answers, ours: Int[np.ndarray, " pairs"], theirs: Int[np.ndarray, " pairs"]
) -> Float[np.ndarray, " pairs"]:
    """Return the IoUs of one group, whose pairs are all predictions times all objects."""
    # Predictions in the outer loop, objects in the inner one: the first row lists all objects.
    columns = theirs[: len(theirs) // len(np.unique(ours))]
    rows = ours[:: len(columns)]
    crowd = objects.is_crowd[columns].astype(np.uint8).tolist()
    table = codec.iou([answers.masks[row] for row in rows], [objects.masks[row] for row in columns], crowd)
    return np.asarray(table).ravel()


def _choose(
    objects: Objects,
    pairs: _Pairs,
    place: Int[np.ndarray, " pairs"],
    step: Int[np.ndarray, " pairs"],
    thresholds: Float[np.ndarray, " thresholds"],
    areas: Sequence[tuple[float, float]],
) -> Int8[np.ndarray, "cases reaching"]:
    """Let the first reaching prediction of every group choose, then the second, and so on."""
    bounds = np.asarray(areas, dtype=np.float64)
    is_outside = (objects.areas < bounds[:, :1]) | (objects.areas > bounds[:, 1:])
    # Which objects count as wanted in each case; the others may be matched, and then the prediction is ignored.
    counts = np.tile(~(is_outside | objects.is_crowd), (len(thresholds), 1))  # cases, objects
    least = np.repeat(thresholds, len(areas))[:, None]
    taken = np.zeros(counts.shape, dtype=bool)
    status = np.zeros((len(counts), int(place.max(initial=-1)) + 1), dtype=np.int8)
    num = len(pairs.iou)
    cuts = np.searchsorted(step, np.arange(int(step.max(initial=-1)) + 2))
    for start, stop in itertools.pairwise(cuts):
        candidates, rows = pairs.object[start:stop], place[start:stop]
        is_free = ~taken[:, candidates] | objects.is_crowd[candidates]  # a crowd may be taken again and again
        is_able = is_free & (pairs.iou[start:stop] >= least)
        # One number per pair decides: 0 is unable, more is better. The later pair wins, having the larger IoU, and any
        # object that counts (num is added) wins over any that does not.
        rank = np.where(is_able, np.arange(start + 1, stop + 1) + num * counts[:, candidates], 0)
        # The best pair of each prediction, in all cases at once.
        firsts = np.flatnonzero(_place_in_run(rows) == 0)
        best = np.maximum.reduceat(rank, firsts, axis=1)
        # Take the chosen objects, and note whether they were wanted.
        case, column = np.nonzero(best)
        chosen = best[case, column]
        taken[case, pairs.object[(chosen - 1) % num]] = True
        status[case, rows[firsts[column]]] = np.where(chosen > num, HIT, IGNORED)
    return status

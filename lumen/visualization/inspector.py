"""Why was it missed? One picture per image and phrase, and the reason as text for each object.

An object counts as found when a box that is kept, scores at least a threshold, and overlaps it enough, answers it and
no other object. Everything is in input pixels.
"""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from PIL import Image, ImageDraw
from torch import Tensor

from lumen.ops.geometry import box_iou
from lumen.visualization.canvas import (
    RgbImage,
    contact_sheet,
    magnification,
    readable_on,
    text_block,
    text_font,
)
from lumen.visualization.heat import draw_heatmap, spread_heat
from lumen.visualization.instances import draw_boxes

REASONS = {
    "found": "found",
    "presence": "the phrase is predicted absent",
    "no_peak": "no peak within the box",
    "weak": "peak within the box, but too weak",
    "box": "peak within the box, but its box does not fit",
    "suppressed": "suppressed by a better box",
    "limit": "below the best boxes of the image",
    "shared": "its box answers another object",
}
NOISE = 0.05
_NUM_SHOWN = 8
_MARK = (80, 255, 255)
_TRUE = (255, 255, 255)


@dataclass(frozen=True, slots=True)
class Candidates:
    """All boxes that one phrase gives on one image, before any is dropped.

    Args:
        bboxes: Boxes.
        points: The peak of each box, (x, y).
        scores: Presence times peak.
        peak_scores: Height of the peak.
        is_kept: Whether the box is among the answers.
    """

    bboxes: Float[Tensor, "n 4"]
    points: Float[Tensor, "n 2"]
    scores: Float[Tensor, " n"]
    peak_scores: Float[Tensor, " n"]
    is_kept: Bool[Tensor, " n"]


@dataclass(frozen=True, slots=True)
class Verdict:
    """The outcome for one object.

    Args:
        reason: One of ``REASONS``.
        text: The reason with its numbers, in one line.
        score: Score of the best box that fits, kept or not; 0 where none does.
    """

    reason: str
    text: str
    score: float


def verdict(
    box: Float[Tensor, " 4"],
    candidates: Candidates,
    *,
    presence: float,
    is_taken: Bool[Tensor, " n"],
    is_full: bool,
    threshold: float = 0.3,
    min_iou: float = 0.5,
) -> Verdict:
    """Return why an object was missed: the first step from phrase to box at which it was lost.

    Peaks below 0.05 are noise.

    Args:
        box: The object.
        candidates: What its phrase gave.
        presence: How probable the phrase is in the image at all; no score is above it.
        is_taken: Candidates that answer another object.
        is_full: Whether the image has as many answers as it may have.
        threshold: Least score of an answer.
        min_iou: Least overlap of an answer.
    """
    overlaps = box_iou(box[None], candidates.bboxes)[0]
    is_peak = candidates.peak_scores >= NOISE
    fits = is_peak & (overlaps >= min_iou)
    score = float(candidates.scores[fits].max()) if bool(fits.any()) else 0.0
    if presence < threshold:
        return Verdict("presence", f"presence {presence:.2f} is low", score)
    strong = fits & (candidates.scores >= threshold)
    if bool(strong.any()):
        return Verdict(*_lost_late(candidates, overlaps, strong, is_taken, is_full), score)
    if bool(fits.any()):
        peak = float(candidates.peak_scores[fits].max())
        product = f"presence {presence:.2f} x peak {peak:.2f}"
        return Verdict("weak", f"box fits, but {product} = {score:.2f} is below {threshold:.2f}", score)
    return Verdict(*_lost_early(box, candidates, overlaps, is_peak, threshold), score)


def match(
    truth: Float[Tensor, "m 4"], bboxes: Float[Tensor, "n 4"], scores: Float[Tensor, " n"], *, min_iou: float = 0.5
) -> Int[Tensor, " n"]:
    """Give each box, the best score first, the free object that it overlaps most, as COCO does; -1 where none is left.

    Returns:
        Place of the object in ``truth`` for each box.
    """
    owner = torch.full((len(bboxes),), -1, dtype=torch.long)
    free = box_iou(bboxes, truth)
    for row in scores.argsort(descending=True, stable=True).tolist() if len(truth) else []:
        overlap, place = free[row].max(0)
        if overlap >= min_iou:
            owner[row] = place
            free[:, place] = -1
    return owner


def inspect(
    image: RgbImage,
    phrase: str,
    truth: Float[Tensor, "m 4"],
    candidates: Candidates,
    *,
    heat: Float[Tensor, "height width"],
    target: Float[Tensor, "height width"],
    stride: int,
    presence: float,
    is_full: bool = False,
    threshold: float = 0.3,
    min_iou: float = 0.5,
) -> tuple[RgbImage, list[Verdict]]:
    """Judge all objects of one phrase on one image, and draw what there is to see.

    Args:
        image: The network input.
        phrase: What was asked.
        truth: The objects that answer it.
        candidates: What the phrase gave.
        heat: The predicted heatmap, after the sigmoid.
        target: The heatmap it is trained towards.
        stride: Input pixels per cell of both.
        presence: See ``verdict``.
        is_full: See ``verdict``.
        threshold: See ``verdict``.
        min_iou: See ``verdict``.

    Returns:
        Input with true and predicted boxes, target, heatmap with its peaks, and the verdicts, side by side; and one
        verdict per object.
    """
    verdicts = judge(truth, candidates, presence=presence, is_full=is_full, threshold=threshold, min_iou=min_iou)
    factor = magnification(image.shape[:2])
    maps = [spread_heat(cells.numpy(), stride, image.shape[:2]) for cells in (target, heat)]
    best = float(candidates.scores.max()) if len(candidates.scores) else 0.0
    lines = [phrase, "", f"presence {presence:.2f}", f"best score {best:.2f}", f"threshold {threshold:.2f}", ""]
    lines += [f"{_name(place, len(truth))}: {entry.text}" for place, entry in enumerate(verdicts)]
    panels = [
        _mark_truth(_draw_answers(image, candidates, threshold), truth, factor),
        draw_heatmap(image, maps[0]),
        _mark_peaks(_mark_truth(draw_heatmap(image, maps[1]), truth, factor), candidates, factor),
        text_block(lines),
    ]
    titles = ["true and answered boxes", "target heatmap", f"heatmap, max {float(heat.max()):.2f}", "verdict"]
    return contact_sheet(panels, titles, columns=4, cell_wh=(480, 480)), verdicts


def judge(
    truth: Float[Tensor, "m 4"],
    candidates: Candidates,
    *,
    presence: float,
    is_full: bool = False,
    threshold: float = 0.3,
    min_iou: float = 0.5,
) -> list[Verdict]:
    """Return the verdict on each object of one phrase; for the arguments see ``verdict``."""
    is_answer = candidates.is_kept & (candidates.scores >= threshold)
    owner = torch.full((len(is_answer),), -1, dtype=torch.long)
    owner[is_answer] = match(truth, candidates.bboxes[is_answer], candidates.scores[is_answer], min_iou=min_iou)
    return [
        verdict(
            box,
            candidates,
            presence=presence,
            is_taken=(owner >= 0) & (owner != place),
            is_full=is_full,
            threshold=threshold,
            min_iou=min_iou,
        )
        for place, box in enumerate(truth)
    ]


def _lost_late(
    candidates: Candidates, overlaps: Tensor, strong: Tensor, is_taken: Tensor, is_full: bool
) -> tuple[str, str]:
    """Return reason and text for an object with a box that fits and scores enough."""
    best = int(candidates.scores.masked_fill(~strong, -1).argmax())
    what = f"box with score {float(candidates.scores[best]):.2f} and IoU {float(overlaps[best]):.2f}"
    if bool((strong & candidates.is_kept & ~is_taken).any()):
        return "found", f"found: {what}"
    if bool((strong & candidates.is_kept).any()):
        return "shared", f"{what} answers another object that it fits better"
    if is_full:
        return "limit", f"{what} is below the best of the image"
    rival = box_iou(candidates.bboxes[best][None], candidates.bboxes)[0].masked_fill(~candidates.is_kept, -1)
    if bool((rival > 0).any()):
        return "suppressed", f"{what} suppressed by a better box: {float(candidates.scores[rival.argmax()]):.2f}"
    return "suppressed", f"{what} suppressed by a box of another prompt"


def _lost_early(
    box: Tensor, candidates: Candidates, overlaps: Tensor, is_peak: Tensor, threshold: float
) -> tuple[str, str]:
    """Return reason and text for an object without any box that fits."""
    gap = torch.maximum(box[:2] - candidates.points, candidates.points - box[2:]).clamp(min=0).norm(dim=1)
    inside = is_peak & (gap == 0)
    if bool(inside.any()):
        best = int(candidates.scores.masked_fill(~inside, -1).argmax())
        score, overlap = float(candidates.scores[best]), float(overlaps[best])
        if score >= threshold:
            return "box", f"peak found {score:.2f} but box IoU {overlap:.2f}"
        return "weak", f"peak within the box is weak: {score:.2f}, box IoU {overlap:.2f}"
    if not bool(is_peak.any()):
        highest = float(candidates.peak_scores.max()) if len(candidates.peak_scores) else 0.0
        return "no_peak", f"no peak in the whole image: the highest is {highest:.2f}"
    nearest = float(gap[is_peak].min())
    return "no_peak", f"no peak within the box: nearest peak {nearest:.0f} px away"


def _draw_answers(image: RgbImage, candidates: Candidates, threshold: float) -> RgbImage:
    """Draw the best kept boxes; those below the threshold in another colour."""
    kept = candidates.is_kept & (candidates.scores >= NOISE)
    order = candidates.scores.masked_fill(~kept, -1).argsort(descending=True, stable=True)
    rows = order[: min(_NUM_SHOWN, int(kept.sum()))]
    scores = candidates.scores[rows].tolist()
    labels = [int(score < threshold) for score in scores]
    return draw_boxes(image, candidates.bboxes[rows].numpy(), labels, ["answer", "too weak"], scores)


def _mark_truth(picture: RgbImage, truth: Float[Tensor, "m 4"], factor: int) -> RgbImage:
    """Draw true boxes in white, over everything, with their names below, where no other box has its text."""
    canvas = Image.fromarray(picture)
    draw, font = ImageDraw.Draw(canvas), text_font(canvas)
    for place, box in enumerate((truth * factor).tolist()):
        left, top, right, bottom = box
        draw.rectangle([left - 1, top - 1, right + 1, bottom + 1], outline=(0, 0, 0), width=4)
        draw.rectangle([left, top, right, bottom], outline=_TRUE, width=2)
        name = _name(place, len(truth))
        x = max(0, min(left, canvas.width - font.getlength(name) - 4))
        y = min(bottom + 2, canvas.height - font.size - 4)
        draw.rectangle([x, y, x + font.getlength(name) + 4, y + font.size + 3], fill=_TRUE)
        draw.text((x + 2, y), name, readable_on(_TRUE), font)
    return np.array(canvas)


def _mark_peaks(picture: RgbImage, candidates: Candidates, factor: int) -> RgbImage:
    """Put a ring around the best peaks, with their heights beside them."""
    canvas = Image.fromarray(picture)
    draw, font, radius = ImageDraw.Draw(canvas), text_font(canvas), max(4, max(canvas.size) // 80)
    rows = candidates.peak_scores.argsort(descending=True, stable=True)[:_NUM_SHOWN]
    for row in rows[candidates.peak_scores[rows] >= NOISE].tolist():
        x, y = (candidates.points[row] * factor).tolist()
        draw.ellipse([x - radius, y - radius, x + radius, y + radius], outline=_MARK, width=2)
        text = f"{float(candidates.peak_scores[row]):.2f}"
        width = font.getlength(text) + 4
        left = x + radius if x + radius + width < canvas.width else x - radius - width
        draw.rectangle([left, y - font.size / 2, left + width, y + font.size / 2 + 2], fill=_MARK)
        draw.text((left + 2, y - font.size / 2), text, readable_on(_MARK), font)
    return np.array(canvas)


def _name(place: int, total: int) -> str:
    return "true" if total == 1 else f"true {place + 1}"

"""A whole sample on its image: its prompts with their targets, or with the answer of a decoder of any task.

Everything is in pixels of the image that is given. Colours name prompts.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from mmengine.structures import InstanceData
from torch import Tensor

from lumen.ops.masks import encode_masks
from lumen.structures import Prompt
from lumen.visualization.canvas import RgbImage, enlarged, legend, stacked, text_block
from lumen.visualization.instances import (
    draw_arrows,
    draw_boxes,
    draw_counts,
    draw_masks,
    draw_points,
    draw_skeletons,
)

_WRITTEN = frozenset({"classes", "numbers"})
_NUM_SHOWN = 4


def draw_truth(
    image: RgbImage, prompts: Sequence[Prompt], targets: InstanceData, kinds: Mapping[str, str] | None = None
) -> RgbImage:
    """Draw ``gt_instances`` with boxes, masks and points, and below them the answers that prompts are to learn.

    Args:
        image: The image.
        prompts: The prompts of the sample.
        targets: Its ``gt_instances``; a box without extent is a point.
        kinds: Its ``fields``, the kinds of those that the data set declares: points and directions are drawn, classes
            and numbers are written beside the phrase.
    """
    kinds, phrases, picture = kinds or {}, [prompt.text for prompt in prompts], image
    if "masks" in targets:
        picture = draw_masks(image, encode_masks(targets.masks), targets.prompt_index.tolist())
    has_extent = (targets.bboxes[:, 2:] > targets.bboxes[:, :2]).any(1)
    picture = _draw_boxes(picture, image, targets[has_extent], phrases, kinds)
    dots = targets[~has_extent]
    if len(dots):
        picture = draw_points(picture, _scaled(dots.bboxes[:, :2], picture, image), dots.prompt_index.tolist())
    picture = _draw_fields(picture, image, targets, kinds)
    answered = [prompt for prompt in prompts if prompt.answer]
    return draw_texts(picture, answered, [prompt.answer for prompt in answered]) if answered else picture


def draw_answer(
    image: RgbImage,
    prompts: Sequence[Prompt],
    answer: InstanceData,
    *,
    edges: Sequence[Sequence[int]] = (),
    min_score: float = 0.3,
    kinds: Mapping[str, str] | None = None,
) -> RgbImage:
    """Draw ``pred_instances`` of any task: boxes, masks, keypoints, counts or texts, by the fields that it has.

    Args:
        image: The image.
        prompts: The prompts of the sample.
        answer: Its ``pred_instances``, with masks as run-length codes.
        edges: Bones, for keypoints.
        min_score: What scores below this is left out.
        kinds: ``TaskSpec.kinds`` of the task; see ``draw_truth``. Without boxes, all values are written below.
    """
    kinds, phrases, picture = kinds or {}, [prompt.text for prompt in prompts], image
    if "texts" in answer:
        return draw_texts(image, [prompts[place] for place in answer.prompt_index.tolist()], answer.texts)
    if "counts" in answer:
        return draw_counts(image, [phrases[place] for place in answer.prompt_index.tolist()], answer.counts.tolist())
    if "keypoints" in answer:
        return draw_skeletons(image, answer.keypoints.numpy(), answer.keypoint_scores.numpy(), edges)
    answer = answer[answer.scores >= min_score] if "scores" in answer else answer
    numbers = answer.prompt_index.tolist()
    if "masks" in answer:
        picture = draw_masks(image, answer.masks, numbers)
    if "points" in answer:
        picture = draw_points(picture, _scaled(answer.points, picture, image), numbers)
    if "bboxes" in answer:
        return _draw_fields(_draw_boxes(picture, image, answer, phrases, kinds), image, answer, kinds)
    if "masks" in answer:
        return stacked(picture, legend(phrases, width=picture.shape[1]))
    picture = enlarged(_draw_fields(picture, image, answer, kinds))
    notes = [f"{phrases[number]}: {note}" for number, note in zip(numbers, _notes(answer, kinds, None), strict=True)]
    return stacked(picture, text_block(notes, width=picture.shape[1])) if any(kinds) else picture


def draw_texts(image: RgbImage, prompts: Sequence[Prompt], texts: Sequence[str]) -> RgbImage:
    """Write questions and answers below an image, with the earlier turns of a conversation.

    Args:
        image: The image.
        prompts: The questions; one without words is called by its task.
        texts: An answer per question.

    Raises:
        ValueError: If the numbers of questions and answers differ.
    """
    if len(prompts) != len(texts):
        raise ValueError(f"each question has an answer; got {len(prompts)} questions, {len(texts)} answers")
    lines = []
    for prompt, text in zip(prompts, texts, strict=True):
        for question, answer in (*prompt.history, (prompt.text or f"({prompt.task})", text)):
            lines += [f"Q: {question}", f"A: {answer}"]
    picture = enlarged(image)
    return stacked(picture, text_block(lines, width=picture.shape[1]))


def _draw_boxes(
    picture: RgbImage, image: RgbImage, table: InstanceData, phrases: Sequence[str], kinds: Mapping[str, str]
) -> RgbImage:
    scores = table.scores.tolist() if "scores" in table else None
    notes = _notes(table, kinds, _WRITTEN)
    boxes = _scaled(table.bboxes, picture, image)
    return draw_boxes(picture, boxes, table.prompt_index.tolist(), phrases, scores, notes=notes)


def _draw_fields(picture: RgbImage, image: RgbImage, table: InstanceData, kinds: Mapping[str, str]) -> RgbImage:
    """Draw the points, directions and angles of a table; arrows start in the middle of their box, or at its point."""
    start = (table.bboxes[:, :2] + table.bboxes[:, 2:]) / 2 if "bboxes" in table else table.get("points")
    for name, kind in kinds.items():
        if name not in table or kind in _WRITTEN or not len(table):
            continue
        values = table[name].float()
        if kind == "angles":
            values = torch.stack([values.cos(), values.sin()], -1)
        values = values.reshape(len(table), -1, 2)
        labels = table.prompt_index.repeat_interleave(values.shape[1]).tolist()
        if kind == "points":
            picture = draw_points(picture, _scaled(values.reshape(-1, 2), picture, image), labels)
        elif start is not None:
            starts = start.repeat_interleave(values.shape[1], 0)
            picture = draw_arrows(picture, _scaled(starts, picture, image), values.reshape(-1, 2).numpy(), labels)
    return picture


def _notes(table: InstanceData, kinds: Mapping[str, str], written: frozenset[str] | None) -> list[str]:
    """Return the values of each row as text, of the kinds in ``written``, or of all."""
    names = [name for name, kind in kinds.items() if name in table and (written is None or kind in written)]
    return [", ".join(f"{name} {_shown(table[name][row])}" for name in names) for row in range(len(table))]


def _shown(value: Tensor) -> str:
    numbers = value.reshape(-1).tolist()
    shown = " ".join(f"{number:.3g}" for number in numbers[:_NUM_SHOWN])
    return f"{shown} ..." if len(numbers) > _NUM_SHOWN else shown


def _scaled(values: Tensor, picture: RgbImage, image: RgbImage) -> np.ndarray:
    """Return coordinates of the image as coordinates of a picture that may be magnified."""
    return values.numpy() * (picture.shape[1] / image.shape[1])

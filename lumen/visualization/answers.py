"""A whole sample on its image: what is asked with its targets, or with what a decoder of any task answered.

Everything is in pixels of the image that is given. Colours name prompts.
"""

from collections.abc import Sequence

import torch
from mmengine.structures import InstanceData

from lumen.ops.geometry import InputTransform
from lumen.ops.masks import decode_masks, encode_masks, masks_to_input
from lumen.structures import Prompt
from lumen.visualization.canvas import RgbImage, enlarged, legend, magnification, stacked, text_block
from lumen.visualization.instances import draw_boxes, draw_counts, draw_masks, draw_skeletons


def draw_truth(image: RgbImage, prompts: Sequence[Prompt], targets: InstanceData) -> RgbImage:
    """Draw ``gt_instances`` with boxes, masks and points, and below them the answers that prompts are to learn.

    Args:
        image: The image.
        prompts: The prompts of the sample.
        targets: Its ``gt_instances``; a box without extent is a point.
    """
    factor, numbers = magnification(image.shape[:2]), targets.prompt_index.tolist()
    phrases = [prompt.text for prompt in prompts]
    picture = image
    if "masks" in targets:
        picture = draw_masks(image, encode_masks(targets.masks), numbers)
    has_extent = (targets.bboxes[:, 2:] > targets.bboxes[:, :2]).any(1)
    boxes = targets.bboxes[has_extent] * (picture.shape[1] / image.shape[1])
    picture = draw_boxes(picture, boxes.numpy(), targets.prompt_index[has_extent].tolist(), phrases)
    points = targets[~has_extent]
    if len(points):
        # One row per point: prompts may have several.
        places = (points.bboxes[:, None, :2] * factor).repeat(1, len(prompts), 1)
        shown = (points.prompt_index[:, None] == torch.arange(len(prompts))).float()
        picture = draw_skeletons(picture, places.numpy(), shown.numpy(), ())
    told = [prompt for prompt in prompts if prompt.answer]
    return draw_texts(picture, told, [prompt.answer for prompt in told]) if told else picture


def draw_answer(
    image: RgbImage,
    prompts: Sequence[Prompt],
    answer: InstanceData,
    *,
    edges: Sequence[Sequence[int]] = (),
    min_score: float = 0.3,
) -> RgbImage:
    """Draw ``pred_instances`` of whatever task: boxes, masks, keypoints, counts or texts, by the fields that it has.

    Args:
        image: The image.
        prompts: The prompts of the sample.
        answer: Its ``pred_instances``, with masks as run-length codes.
        edges: Bones, for keypoints.
        min_score: Boxes and masks below this score are left out.
    """
    phrases = [prompt.text for prompt in prompts]
    if "texts" in answer:
        return draw_texts(image, [prompts[at] for at in answer.prompt_index.tolist()], answer.texts)
    if "counts" in answer:
        return draw_counts(image, [phrases[at] for at in answer.prompt_index.tolist()], answer.counts.tolist())
    if "keypoints" in answer:
        return draw_skeletons(image, answer.keypoints.numpy(), answer.keypoint_scores.numpy(), edges)
    answer = answer[answer.scores >= min_score]
    numbers, picture = answer.prompt_index.tolist(), image
    if "masks" in answer:
        picture = draw_masks(image, answer.masks, numbers)
        if "bboxes" not in answer:
            return stacked(picture, legend(phrases, width=picture.shape[1]))
    boxes = answer.bboxes * (picture.shape[1] / image.shape[1])
    return draw_boxes(picture, boxes.numpy(), numbers, phrases, answer.scores.tolist())


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


def answer_in_input(answer: InstanceData, frame: InputTransform) -> InstanceData:
    """Return an answer in original pixels as one in input pixels, by kind of field; the other way is ``Lumen``'s."""
    moved = InstanceData(**dict(answer.cpu().items()))
    if "bboxes" in moved:
        moved.bboxes = frame.boxes_to_input(moved.bboxes)
    for name in ("points", "keypoints"):
        if name in moved:
            moved[name] = frame.points_to_input(moved[name])
    if "masks" in moved:
        codes = encode_masks(masks_to_input(decode_masks(moved.pop("masks"), frame.ori_hw), frame))
        moved.masks = codes
    return moved

"""Objects one at a time: boxes to crops of an image, and the answers about crops to one table."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from mmengine.structures import InstanceData
from torch import Tensor

from lumen.data.image import render_image
from lumen.data.keypoint_transforms import CropInstance
from lumen.errors import DataError
from lumen.inference.questions import Question
from lumen.ops.geometry import InputTransform, box_area, clip_boxes
from lumen.structures import PerceptionSample


def check_boxes(boxes: Any, size_hw: tuple[int, int]) -> Float[Tensor, "n 4"]:
    """Return boxes, xyxy in original pixels, as a tensor.

    Raises:
        DataError: They are not (n, 4) finite numbers, or one shows no part of an image of this size.
    """
    try:
        table = torch.as_tensor(boxes, dtype=torch.float32).cpu().to_dense()
    except (TypeError, ValueError, OverflowError, RuntimeError) as error:
        raise DataError(f"boxes must be (n, 4) numbers, x1 y1 x2 y2 in pixels of the image ({error})") from error
    table = table.reshape(0, 4) if table.numel() == 0 else table
    if table.ndim != 2 or table.shape[1] != 4 or not bool(table.isfinite().all()):
        raise DataError(f"boxes must be (n, 4) finite numbers, x1 y1 x2 y2, got {tuple(table.shape)}: {table.tolist()}")
    unseen = (box_area(clip_boxes(table, size_hw)) <= 0).nonzero()[:, 0].tolist()
    if unseen:
        raise DataError(
            f"boxes {unseen} show no part of the {size_hw} (height, width) image, such as {table[unseen[0]].tolist()}; "
            "boxes are x1 y1 x2 y2 in its pixels"
        )
    return table


def crop_samples(
    question: Question,
    image: UInt8[np.ndarray, "height width 3"],
    objects: InstanceData,
    crop: CropInstance,
) -> tuple[list[PerceptionSample], UInt8[Tensor, "n 3 rows cols"]]:
    """Return a sample and a drawn crop per object.

    Args:
        question: What each object is asked.
        image: In original pixels.
        objects: ``bboxes`` in original pixels and ``scores``; at least one.
        crop: Chooses the crops.
    """
    frames = [crop.draw_frame(image.shape[:2], box) for box in objects.bboxes.tolist()]
    drawn = [render_image(image, frame, pad_value=crop.pad_value) for frame in frames]
    samples = [_crop_sample(question, frame, objects, row) for row, frame in enumerate(frames)]
    return samples, torch.from_numpy(np.stack(drawn)).permute(0, 3, 1, 2)


def pose_table(
    answers: Sequence[InstanceData], question: Question, objects: InstanceData, category: str
) -> InstanceData:
    """Join the answers about crops into one row per object; see ``LumenPredictor.pose``."""
    num_prompts = len(question.prompts)
    none = InstanceData(
        keypoints=torch.zeros(0, num_prompts, 2),
        keypoint_scores=torch.zeros(0, num_prompts),
        scores=torch.zeros(0),
    )
    rows = InstanceData.cat([none, *answers])
    return InstanceData(
        keypoints=rows.keypoints[:, question.unique_of],
        keypoint_scores=rows.keypoint_scores[:, question.unique_of],
        scores=rows.scores,
        bboxes=objects.bboxes,
        box_scores=objects.scores,
        labels=torch.zeros(len(objects), dtype=torch.long),
        phrases=[category] * len(objects),
    )


def _crop_sample(question: Question, frame: InputTransform, objects: InstanceData, at: int) -> PerceptionSample:
    sample = question.sample(frame)
    box, score = tuple(objects.bboxes[at].tolist()), float(objects.scores[at])
    sample.set_metainfo({"instance_id": at, "box": box, "box_label": 0, "box_score": score})
    return sample

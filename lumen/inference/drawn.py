"""Images at the size of the network input, and the answers about some of them at once."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import UInt8
from mmengine.structures import InstanceData
from torch import Tensor

from lumen.data.image import render_image
from lumen.data.transforms import ResizeToInput
from lumen.inference.compute import SharedModel
from lumen.inference.questions import Question
from lumen.ops.geometry import InputTransform


@dataclass(frozen=True, slots=True)
class DrawnImage:
    """An image at the size of the network input; ``LumenPredictor.draw`` makes one.

    Args:
        frame: From original pixels to the network input.
        pixels: RGB.
    """

    frame: InputTransform
    pixels: UInt8[Tensor, "3 height width"]


def draw_image(pixels: UInt8[np.ndarray, "height width 3"], whole: ResizeToInput) -> DrawnImage:
    """Resample an image to the network input, framed as ``whole`` frames it."""
    frame = whole.draw_frame(pixels.shape[:2])
    drawn = render_image(pixels, frame, pad_value=whole.pad_value)
    return DrawnImage(frame, torch.from_numpy(drawn).permute(2, 0, 1))


def answer_drawn(
    shared: SharedModel, images: Sequence[DrawnImage], question: Question, score_threshold: float | int | None
) -> list[InstanceData]:
    """Answer one question about some images, computed at once where they have one input size.

    Returns:
        One table per image, in original pixels; see ``Question.table``.
    """
    of_size = defaultdict(list)
    for place, image in enumerate(images):
        of_size[image.frame.input_hw].append(place)
    answers: dict[int, InstanceData] = {}
    for places in of_size.values():
        samples = [question.sample(images[place].frame) for place in places]
        encoded = shared.encode(torch.stack([images[place].pixels for place in places]))
        tables = shared.decode(encoded, samples, question.task)
        answers |= {place: question.table(table, score_threshold) for place, table in zip(places, tables, strict=True)}
    return [answers[place] for place in range(len(images))]

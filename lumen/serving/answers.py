"""Answers as JSON."""

import base64
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from lumen.inference.reports import Request, describe_answer
from lumen.ops.masks import Rle, decode_masks
from lumen.serving.asking import Answer
from lumen.serving.bodies import Question


def describe(question: Question, answer: Answer) -> dict[str, Any]:
    """Return an answer as plain lists; coordinates in pixels of the image, as in the files of ``lumen predict``.

    With ``masks="png"`` a mask is a grey PNG in base64, 255 on the object; ``heatmaps`` are such PNGs too, one per
    phrase. ``found`` is the number of rows of each phrase, and ``was_kept`` tells whether the image had been encoded
    before.
    """
    described = describe_answer(Path(question.key), answer.size_hw, question.request, answer.table)
    described["sha256"] = described.pop("image")
    described["was_kept"] = answer.was_kept
    described["found"] = _found(question.request, described)
    if "masks" in described and question.masks == "png":
        # One at a time: all masks of a large image would take gigabytes.
        described["masks"] = [_mask_text(code, answer.size_hw) for code in described["masks"]]
    if answer.heatmaps is not None:
        described["heatmaps"] = [png_text(heat) for heat in answer.heatmaps]
    return described


def png_text(grey: UInt8[np.ndarray, "height width"]) -> str:
    """Return a grey picture as PNG in base64."""
    file = BytesIO()
    Image.fromarray(grey).save(file, format="PNG", compress_level=1)
    return base64.b64encode(file.getvalue()).decode("ascii")


def _mask_text(code: Rle, size_hw: tuple[int, int]) -> str:
    return png_text(decode_masks([code], size_hw)[0].numpy().astype(np.uint8) * 255)


def _found(request: Request, described: Mapping[str, Any]) -> list[int]:
    labels = described["labels"]
    return [labels.count(number) for number in range(len(request.phrases))]

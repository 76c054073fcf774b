"""What is computed for requests, by the one thread that owns the model."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from lumen.errors import DataError
from lumen.inference.questions import question_about, require_task, require_threshold
from lumen.inference.reports import Request

if TYPE_CHECKING:
    import numpy as np
    from mmengine.structures import InstanceData

    from lumen.inference.asked_image import AskedImage
    from lumen.inference.predictor import LumenPredictor
    from lumen.serving.store import ImageStore

MAX_HEAT_PIXELS = 100_000_000
"""Pixels of all heatmaps of an answer, so that no request holds the model, or memory, for long."""


@dataclass(frozen=True, slots=True)
class Job:
    """A question that waits for the model.

    Args:
        key: Hash of the image file.
        image: Its RGB pixels; None where the image is known to be kept.
        request: The question.
        heatmaps: Whether to answer heatmaps too.
    """

    key: str
    image: "np.ndarray | None"
    request: Request
    heatmaps: bool = False

    @property
    def num_bytes(self) -> int:
        """Memory while it waits."""
        return 0 if self.image is None else self.image.nbytes

    @property
    def is_joinable(self) -> bool:
        """Whether it can be asked together with questions about other images."""
        return self.request.task != "pose"


@dataclass(frozen=True, slots=True)
class Answer:
    """What the model answers.

    Args:
        size_hw: Height and width of the image.
        table: As ``AskedImage.predict`` or ``AskedImage.pose`` gives it.
        was_kept: Whether the image had been encoded before.
        heatmaps: One per phrase, (phrases, height, width), 0 to 255; None where not asked for.
    """

    size_hw: tuple[int, int]
    table: "InstanceData"
    was_kept: bool
    heatmaps: "np.ndarray | None" = field(default=None, repr=False)


class ForgottenError(DataError):
    """An image that was kept when a question came is dropped by now: it must be decoded after all."""


def check_request(predictor: "LumenPredictor", request: Request) -> None:
    """Raise PromptError or ConfigError for a question that can be refused without computing."""
    require_threshold(request.threshold)
    if request.task == "pose":
        require_task(predictor.model, "pose")
    else:
        question_about(predictor.model, request.phrases, request.task, None)


def answer_jobs(predictor: "LumenPredictor", store: "ImageStore", jobs: Sequence[Job]) -> list[Answer]:
    """Answer questions: new images are encoded together with their first questions, the others are asked alone.

    An error of one question is raised and leaves all unanswered, so ask one by one then.

    Raises:
        LumenError: A question or an image is not acceptable.
        ForgottenError: An image is no longer kept.
    """
    first: dict[str, Job] = {}
    for job in jobs:
        if store.get(job.key) is None and job.is_joinable and job.image is not None:
            first.setdefault(job.key, job)
    tables = _ask_together(predictor, list(first.values()))
    answers = []
    for job in jobs:
        if first.get(job.key) is job:
            image, table = tables[job.key]
            was_kept = False
        else:
            # Another question of this batch may have brought the image, even where it is too large to be kept.
            image = store.get(job.key) or tables.get(job.key, (None,))[0]
            was_kept = image is not None
            image = image or _encode(predictor, job)
            table = _ask(image, job.request)
        answers.append(Answer(image.size_hw, table, was_kept, _heatmaps(image, job) if job.heatmaps else None))
        store.put(job.key, image)
    return answers


def _ask_together(predictor: "LumenPredictor", jobs: Sequence[Job]) -> dict[str, tuple["AskedImage", "InstanceData"]]:
    if not jobs:
        return {}
    asked = [(job.request.phrases, job.request.task, job.request.threshold) for job in jobs]
    answered = predictor.ask_together([job.image for job in jobs], asked)
    return {job.key: answer for job, answer in zip(jobs, answered, strict=True)}


def _encode(predictor: "LumenPredictor", job: Job) -> "AskedImage":
    if job.image is None:
        raise ForgottenError("the image was dropped while the question waited: send it again")
    return predictor.image(job.image)


def _ask(image: "AskedImage", request: Request) -> Any:
    if request.task == "pose":
        return image.pose(request.phrases[0], request.keypoints, score_threshold=request.threshold)
    return image.predict(request.phrases, task=request.task, score_threshold=request.threshold)


def _heatmaps(image: "AskedImage", job: Job) -> "np.ndarray":
    wanted = len(job.request.phrases) * image.size_hw[0] * image.size_hw[1]
    if wanted > MAX_HEAT_PIXELS:
        raise DataError(
            f"heatmaps of {len(job.request.phrases)} phrases on {image.size_hw} (height, width) pixels are {wanted} "
            f"pixels, the limit is {MAX_HEAT_PIXELS}: ask for fewer phrases at a time"
        )
    maps = image.heatmaps(job.request.phrases, task=job.request.task)
    return maps.clamp(0, 1).mul(255).round().byte().numpy()

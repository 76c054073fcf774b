"""The answer to each single sentence, kept in a file, so that models can be compared sentence by sentence."""

import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from mmengine.evaluator import BaseMetric

from lumen.errors import DataError
from lumen.metrics.refer import best_rows, mask_ious, read_predictions
from lumen.metrics.tables import require_once, share, to_array
from lumen.ops.geometry import box_area, box_iou
from lumen.registry import METRICS
from lumen.serialization.atomic import atomic_file

_BROKEN = (OSError, EOFError, KeyError, ValueError, RuntimeError, zipfile.BadZipFile, zlib.error, MemoryError)

SIDES = (1.0, 1.5, 2.0)
"""Where the classes of size end, in cells."""


@dataclass(frozen=True, slots=True)
class Answers:
    """The sentences of an evaluation that have one target, in the order of images and prompts, with their answers.

    Args:
        images: ``img_id`` of each.
        prompts: Number of the prompt in its image.
        kinds: Kind of the sentence, empty where it is not known.
        sides: Square root of the area of the target, in cells.
        targets: Target box, xyxy in original pixels.
        boxes: The best-scored box that was answered; nan where there was none.
        scores: Its score; -inf where there was none.
        ious: IoU with the target of that box, or of its mask where masks are judged; 0 where there was none.
    """

    images: Int[np.ndarray, " n"]
    prompts: Int[np.ndarray, " n"]
    kinds: np.ndarray
    sides: Float[np.ndarray, " n"]
    targets: Float[np.ndarray, "n 4"]
    boxes: Float[np.ndarray, "n 4"]
    scores: Float[np.ndarray, " n"]
    ious: Float[np.ndarray, " n"]

    def save(self, path: Path) -> None:
        """Write one compressed file of arrays; it appears whole or not at all."""
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_file(path) as file:
            np.savez_compressed(file, **asdict(self))

    @classmethod
    def load(cls, path: Path) -> "Answers":
        """Read what ``save`` wrote.

        Raises:
            DataError: The file is missing or broken.
        """
        try:
            with path.open("rb") as raw, np.load(raw, allow_pickle=False) as file:
                return cls(**{field.name: file[field.name] for field in fields(cls)})
        except _BROKEN as error:
            raise DataError(f"{path} holds no answers ({error}): evaluate that run again") from error

    def require_same_sentences(self, other: "Answers", what: str) -> None:
        """Raise DataError unless both are about the same sentences; ``what`` names the other."""
        names = ("images", "prompts", "targets")
        if any(not np.array_equal(getattr(self, name), getattr(other, name)) for name in names):
            raise DataError(f"{what} was asked other sentences: evaluate all runs on the same annotation file")

    def figures(self) -> dict[str, float]:
        """Return accuracy at an IoU of .5 and .75, mean IoU, the share without answer, accuracy by kind and by side."""
        is_right, size = self.ious >= 0.5, np.digitize(self.sides, SIDES)
        figures = {
            "accuracy": share(is_right),
            "accuracy_75": share(self.ious >= 0.75),
            "mean_iou": share(self.ious),
            "unanswered": share(np.isnan(self.boxes[:, 0])),
        }
        for kind in sorted(set(self.kinds.tolist()) - {""}):
            figures[f"accuracy_{kind}"] = share(is_right[self.kinds == kind])
        for number, name in enumerate(side_names()):
            figures[f"accuracy_{name}"] = share(is_right[size == number])
        return figures


def side_names() -> list[str]:
    """Return the names of the classes of size, the smallest first."""
    return [f"side_below_{end:g}" for end in SIDES] + [f"side_from_{SIDES[-1]:g}"]


@METRICS.register_module()
class AnswersMetric(BaseMetric):
    """Accuracy of visual grounding over sentences with exactly one target, and a file with all answers.

    ``accuracy``, ``accuracy_75``: Share whose best-scored box has an IoU of at least .5, .75 with the target.
    ``mean_iou``: Mean of that IoU; no answer counts as 0.
    ``unanswered``: Share without any box.
    ``accuracy_KIND``, ``accuracy_side_...``: ``accuracy`` by kind of sentence and by side of the target in cells.

    Args:
        cell: Side of a cell in original pixels, the unit of ``Answers.sides``.
        path: File to write the ``Answers`` to; none is written where left out.
        masks: Whether IoUs are those of masks.
        prefix: First part of the metric names.
        collect_device: ``cpu`` or ``gpu``, see MMEngine.
    """

    default_prefix = "answers"
    needs = frozenset({"bboxes", "scores", "prompt_index"})

    def __init__(
        self,
        *,
        cell: int,
        path: str | None = None,
        masks: bool = False,
        prefix: str | None = None,
        collect_device: str = "cpu",
    ) -> None:
        super().__init__(collect_device=collect_device, prefix=prefix)
        self.masks = masks
        if masks:
            self.needs = self.needs | {"masks"}
        self.cell = cell
        self.path = path

    @property
    def headline(self) -> str:
        """Name of the figure that ranks models."""
        return f"{self.prefix}/accuracy"

    def process(self, data_batch: Any, data_samples: Sequence[Mapping[str, Any]]) -> None:
        """Note the answers of some samples.

        Args:
            data_batch: Not used.
            data_samples: Dicts with ``img_id``, ``prompts``, ``frame``, ``gt_instances`` and ``pred_instances``;
                ``kinds``, one per prompt, if known; ``target_rles`` where masks are judged.

        Raises:
            DataError: A prediction lacks a field or names no prompt, or masks are judged and there are no targets.
        """
        self.results.extend(answers_of(sample, self.cell, masks=self.masks) for sample in data_samples)

    def compute_metrics(self, results: list[dict[str, Any]]) -> dict[str, float]:
        """Write the file and return the figures.

        Raises:
            DataError: An image was answered twice.
        """
        require_once([result["img_id"] for result in results], "images")
        ordered = sorted(results, key=lambda result: result["img_id"])
        names = [field.name for field in fields(Answers)]
        answers = Answers(**{name: np.concatenate([result[name] for result in ordered]) for name in names})
        if self.path is not None:
            answers.save(Path(self.path))
        return answers.figures()


def answers_of(sample: Mapping[str, Any], cell: int, *, masks: bool = False) -> dict[str, Any]:
    """Return the fields of ``Answers`` for one image, and its ``img_id``.

    Raises:
        DataError: See ``AnswersMetric.process``.
    """
    predictions, scores, index = read_predictions(sample, "bboxes")
    truth, num_prompts = sample["gt_instances"], len(sample["prompts"])
    target_index = to_array(truth["prompt_index"]).astype(np.int64)
    asked = np.flatnonzero(np.bincount(target_index, minlength=num_prompts) == 1)
    # Rows of the only target of each of these prompts.
    order = np.argsort(target_index, kind="stable")
    rows = order[np.searchsorted(target_index[order], asked)]
    targets = sample["frame"].boxes_to_original(truth["bboxes"].cpu().float())[rows]
    answered, best = best_rows(scores, index)
    boxes, best_scores = np.full((num_prompts, 4), np.nan, dtype=np.float32), np.full(num_prompts, -np.inf)
    boxes[answered] = to_array(predictions["bboxes"]).reshape(-1, 4)[best]
    best_scores[answered] = scores[best]
    if masks:
        ious = mask_ious(sample, asked.tolist())
    else:
        found = torch.from_numpy(np.nan_to_num(boxes[asked]))
        ious = box_iou(found, targets).diagonal().numpy() * ~np.isnan(boxes[asked, 0])
    kinds = np.array(sample.get("kinds", ("",) * num_prompts), dtype=str)
    return {
        "img_id": sample["img_id"],
        "images": np.full(len(asked), sample["img_id"]),
        "prompts": asked,
        "kinds": kinds[asked],
        "sides": box_area(targets).sqrt().numpy() / cell,
        "targets": targets.numpy(),
        "boxes": boxes[asked],
        "scores": best_scores[asked],
        "ious": ious,
    }

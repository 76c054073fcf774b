"""Boxes that the LMM writes as text itself. The decoder has no weights: it passes on what was read of the answers."""

from collections.abc import Sequence

import torch
from mmengine.structures import InstanceData

from lumen.decoders.base import Decoder, no_loss
from lumen.errors import ConfigError
from lumen.registry import DECODERS
from lumen.structures import PerceptionSample, SharedRepresentation, TaskSpec


@DECODERS.register_module()
class TextBoxDecoder(Decoder):
    """Written boxes, scored by the mean probability of the tokens of their coordinates, or of their name.

    How the LMM is asked, which tokens are scored and how text becomes boxes is its dialect, ``generation.dialect`` of
    the adapter; text that cannot be read is counted in the adapter's ``answer_report``. The LMM's own ``loss_text``
    trains the answers that ``WriteAnswers`` writes. Points, which some LMMs write instead, are boxes without extent.

    Args:
        channels: Width of the shared representation, which is not read.
        max_per_image: Boxes kept per image over all prompts.

    Raises:
        ConfigError: ``max_per_image`` is below 1.
    """

    spec = TaskSpec(
        name="written_boxes",
        targets=frozenset(),
        predictions=frozenset({"bboxes", "scores", "labels", "prompt_index"}),
        headline="coco/bbox_mAP",
        losses={},
        extras=frozenset({"texts", "places"}),
        needs_heat=False,
    )

    def __init__(self, channels: int, *, max_per_image: int = 100) -> None:
        super().__init__(channels)
        if max_per_image < 1:
            raise ConfigError(f"max_per_image must be at least 1, got {max_per_image}")
        self.max_per_image = max_per_image

    loss = no_loss

    def predict(self, shared: SharedRepresentation, samples: Sequence[PerceptionSample]) -> list[InstanceData]:
        """Return boxes in input pixels, the best first.

        Raises:
            ConfigError: A prompt of the task was not answered, because the adapter was not asked for places.
        """
        asks = any(prompt.task == self.spec.name for sample in samples for prompt in sample.prompts)
        if asks and "places" not in shared.extras:
            raise ConfigError(
                f"task {self.spec.name!r} needs written places, the representation has extras {sorted(shared.extras)}: "
                "call the adapter with extras={'texts', 'places'} and predicting=True"
            )
        return [
            self._answer(shared.extras["places"][image] if asks else None, sample, shared.image_index.device)
            for image, sample in enumerate(samples)
        ]

    def _answer(self, places: InstanceData | None, sample: PerceptionSample, device: torch.device) -> InstanceData:
        if places is None or not len(places):
            none = torch.zeros(0, dtype=torch.long, device=device)
            empty = torch.zeros(0, 4, device=device)
            return InstanceData(bboxes=empty, scores=empty[:, 0], labels=none, prompt_index=none.clone())
        best = places[places.scores.argsort(descending=True, stable=True)[: self.max_per_image]]
        labels = torch.tensor([prompt.label for prompt in sample.prompts], dtype=torch.long, device=device)
        return InstanceData(
            bboxes=best.bboxes,
            scores=best.scores,
            labels=labels[best.prompt_index],
            prompt_index=best.prompt_index,
        )

"""Visual grounding: the box, or the few boxes, that a sentence means, or none."""

from collections.abc import Mapping, Sequence
from typing import Any

from jaxtyping import Float
from mmengine.structures import InstanceData
from torch import Tensor

from lumen.decoders.base import Decoder
from lumen.decoders.boxes import BoxHead, box_loss
from lumen.decoders.peaks import SentenceLimits, best_of_pairs, read_limits
from lumen.registry import DECODERS
from lumen.structures import PerceptionSample, SharedRepresentation, TaskSpec, gather_pairs, targets_per_pair


@DECODERS.register_module()
class GroundingDecoder(Decoder):
    """The best peaks of each sentence, with a box each.

    Args:
        channels: Width of the shared representation.
        limits: Which boxes are answers, as a dict of the arguments of ``SentenceLimits``.
    """

    spec = TaskSpec(
        name="grounding",
        targets=frozenset({"bboxes"}),
        predictions=frozenset({"bboxes", "scores", "labels", "prompt_index"}),
        headline="grounding/accuracy",
        losses={"loss_box": "objects"},
    )

    def __init__(
        self,
        channels: int,
        *,
        limits: Mapping[str, Any] | SentenceLimits | None = None,
    ) -> None:
        super().__init__(channels)
        self.limits = read_limits(SentenceLimits, limits)
        self.head = BoxHead(channels)

    def loss(self, shared: SharedRepresentation, samples: Sequence[PerceptionSample]) -> dict[str, Float[Tensor, ""]]:
        """Return the GIoU loss of the cells around each target's centre, weighted to one per target."""
        return {"loss_box": box_loss(self.head(shared), targets_per_pair(samples, shared), shared)}

    def predict(self, shared: SharedRepresentation, samples: Sequence[PerceptionSample]) -> list[InstanceData]:
        """Return the best boxes of each sentence in input pixels: by sentence, the best first."""
        best = best_of_pairs(shared, self.head(shared), self.limits)
        return gather_pairs(best, samples, shared)

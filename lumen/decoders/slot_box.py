"""Visual grounding by regression: one box per sentence, from the state of a slot alone."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from mmengine.structures import InstanceData
from torch import Tensor

from lumen.decoders.base import Decoder
from lumen.decoders.boxes import SlotBoxHead, pair_sizes, slot_box_losses, slot_vectors
from lumen.ops.geometry import clip_boxes
from lumen.prompts import LOC_TOKEN
from lumen.registry import DECODERS
from lumen.structures import PerceptionSample, SharedRepresentation, TaskSpec, gather_pairs, targets_per_pair


@DECODERS.register_module()
class SlotBoxDecoder(Decoder):
    """The box of each sentence, without a heatmap: nothing in the image is looked up, and every sentence has an answer.

    Args:
        channels: Width of the shared representation.
        slot: Token of the slot whose vector is read.
        raw_xyxy: As in ``SlotBoxHead``.
    """

    spec = TaskSpec(
        name="grounding",
        targets=frozenset({"bboxes"}),
        predictions=frozenset({"bboxes", "scores", "labels", "prompt_index"}),
        headline="grounding/accuracy",
        losses={"loss_l1": "objects", "loss_giou": "objects"},
        needs_heat=False,
    )

    def __init__(self, channels: int, *, slot: str = LOC_TOKEN, raw_xyxy: bool = False) -> None:
        super().__init__(channels)
        self.slot = slot
        self.head = SlotBoxHead(channels, raw_xyxy=raw_xyxy)

    def loss(self, shared: SharedRepresentation, samples: Sequence[PerceptionSample]) -> dict[str, Float[Tensor, ""]]:
        """Return the L1 and GIoU losses of each target's box, in shares of the input, summed over targets."""
        targets, boxes = targets_per_pair(samples, shared), self.head(slot_vectors(shared, self.slot))
        wanted = targets.bboxes / pair_sizes(samples, shared)[targets.pair_index]
        distance, overlap = slot_box_losses(boxes[targets.pair_index], wanted)
        return {"loss_l1": distance.sum() + boxes.sum() * 0, "loss_giou": overlap.sum() + boxes.sum() * 0}

    def predict(self, shared: SharedRepresentation, samples: Sequence[PerceptionSample]) -> list[InstanceData]:
        """Return the box of each sentence in input pixels. Its score is 1: the slot does not say how sure it is."""
        boxes = clip_boxes(self.head(slot_vectors(shared, self.slot)), (1, 1)) * pair_sizes(samples, shared)
        every = torch.arange(len(boxes), device=boxes.device)
        table = InstanceData(bboxes=boxes, scores=torch.ones_like(boxes[:, 0]), pair_index=every)
        return gather_pairs(table, samples, shared)

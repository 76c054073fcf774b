"""Visual grounding by choice: one of the boxes that were proposed for the image, by a dot product with each."""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from mmengine.structures import InstanceData
from torch import Tensor

from lumen.decoders.base import Decoder
from lumen.decoders.boxes import pair_sizes, slot_vectors
from lumen.errors import ConfigError
from lumen.ops.geometry import box_iou
from lumen.prompts import LOC_TOKEN
from lumen.proposals import Proposals
from lumen.registry import DECODERS
from lumen.structures import (
    PerceptionSample,
    SharedRepresentation,
    TaskSpec,
    gather_pairs,
    targets_per_pair,
)


@DECODERS.register_module()
class ObjectChoiceDecoder(Decoder):
    """The proposal that each sentence means. It has no weights: ``SlotAligner(objects=True)`` projects both sides.

    No answer is better than the best proposal; a target without any is not learned.

    Args:
        channels: Width of the shared representation.
        slot: Token of the slot whose vector is compared with the proposals.
        iou_threshold: IoU with a target above which a proposal is right.

    Source:
        As in WeDetect-Ref (2025), which scores detected objects instead of writing a box. The scores and the loss are
        ours.
    """

    spec = TaskSpec(
        name="grounding",
        targets=frozenset({"bboxes"}),
        predictions=frozenset({"bboxes", "scores", "labels", "prompt_index"}),
        headline="grounding/accuracy",
        losses={"loss_choice": "pairs"},
        extras=frozenset({"proposals"}),
        needs_heat=False,
    )

    def __init__(self, channels: int, *, slot: str = LOC_TOKEN, iou_threshold: float = 0.5) -> None:
        super().__init__(channels)
        self.slot = slot
        self.iou_threshold = iou_threshold

    def forward(self, shared: SharedRepresentation) -> Float[Tensor, "pairs proposals"]:
        """Return the logit of each proposal for each pair.

        Raises:
            ConfigError: The representation has no proposals of its own width.
        """
        vectors, proposals = slot_vectors(shared, self.slot), _proposals(shared)
        if proposals.tokens.shape[-1] != vectors.shape[-1]:
            raise ConfigError("proposals are not projected to the width of the slots: use SlotAligner(objects=True)")
        tokens = proposals.tokens.float()[shared.image_index]
        # A sum of products and no product of matrices, which autocast would narrow.
        return (vectors.float()[:, None] * tokens).sum(-1) * vectors.shape[-1] ** -0.5

    def loss(self, shared: SharedRepresentation, samples: Sequence[PerceptionSample]) -> dict[str, Float[Tensor, ""]]:
        """Return the cross-entropy of the right proposals of each pair, together, summed over pairs that have any."""
        logits = self(shared)
        is_right = self._is_right(shared, samples)
        has_any = is_right.any(1)
        right = logits[has_any].masked_fill(~is_right[has_any], -torch.inf).logsumexp(1)
        return {"loss_choice": (logits[has_any].logsumexp(1) - right).sum() + logits.sum() * 0}

    def predict(self, shared: SharedRepresentation, samples: Sequence[PerceptionSample]) -> list[InstanceData]:
        """Return the best proposal of each sentence in input pixels; its score is its share among all proposals."""
        scores, best = self(shared).softmax(1).max(1)
        boxes = _proposals(shared).boxes[shared.image_index, best] * pair_sizes(samples, shared)
        every = torch.arange(len(boxes), device=boxes.device)
        return gather_pairs(InstanceData(bboxes=boxes, scores=scores, pair_index=every), samples, shared)

    def _is_right(
        self, shared: SharedRepresentation, samples: Sequence[PerceptionSample]
    ) -> Bool[Tensor, "pairs proposals"]:
        """Return which proposals overlap a target of the pair."""
        targets, boxes = targets_per_pair(samples, shared), _proposals(shared).boxes
        pixels = boxes[shared.image_index] * pair_sizes(samples, shared)[:, None]
        overlaps = box_iou(pixels.flatten(0, 1), targets.bboxes).unflatten(0, pixels.shape[:2])
        # Each target counts for its own pair alone.
        every = torch.arange(len(targets), device=boxes.device)
        fits = overlaps[targets.pair_index, :, every] > self.iou_threshold
        return torch.zeros_like(pixels[..., 0]).index_add_(0, targets.pair_index, fits.to(pixels.dtype)).bool()


def _proposals(shared: SharedRepresentation) -> Proposals:
    if "proposals" not in shared.extras:
        raise ConfigError(
            f"proposals are needed, the representation has extras {sorted(shared.extras)}: use an ObjectConnector"
        )
    return shared.extras["proposals"]

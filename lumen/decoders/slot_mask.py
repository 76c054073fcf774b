"""Referring segmentation without a heatmap: one mask per sentence, from the state of a slot and a map of the image."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from mmengine.structures import InstanceData
from torch import Tensor, nn
from torch.nn import functional

from lumen.decoders.base import Decoder
from lumen.decoders.boxes import slot_vectors
from lumen.ops.losses import binary_cross_entropy, dice_loss
from lumen.ops.masks import tight_boxes
from lumen.prompts import LOC_TOKEN
from lumen.registry import DECODERS, MODELS
from lumen.structures import PerceptionSample, SharedRepresentation, TaskSpec, gather_pairs, targets_per_pair


@DECODERS.register_module()
class SlotMaskDecoder(Decoder):
    """The mask of each sentence: the vector of a slot prompts SAM's mask decoder. Every sentence has an answer.

    Args:
        channels: Width of the shared representation.
        sam: Config of ``lumen.lmm.sam_prompted.SamPrompted`` without its ``channels``, or one that is built.
        slot: Token of the slot whose vector is read.

    Source:
        Lai et al., "LISA" (2024), section 3.2: the state of one token is the prompt of the mask decoder.
    """

    spec = TaskSpec(
        name="referring_segmentation",
        targets=frozenset({"bboxes", "masks"}),
        predictions=frozenset({"bboxes", "masks", "scores", "labels", "prompt_index"}),
        headline="referring_segmentation/ciou",
        losses={"loss_mask": "objects", "loss_dice": "objects"},
        extras=frozenset({"images"}),
        needs_heat=False,
    )

    def __init__(self, channels: int, *, sam: Mapping[str, Any] | nn.Module, slot: str = LOC_TOKEN) -> None:
        super().__init__(channels)
        self.slot = slot
        self.sam = sam if isinstance(sam, nn.Module) else MODELS.build({**sam, "channels": channels})

    def loss(self, shared: SharedRepresentation, samples: Sequence[PerceptionSample]) -> dict[str, Float[Tensor, ""]]:
        """Return the losses of each target's mask, a mean over the pixels of the input each, summed over targets."""
        logits, targets = self._logits(shared), targets_per_pair(samples, shared)
        nothing = logits.float().sum() * 0
        if not len(targets):
            return dict.fromkeys(self.spec.losses, nothing)
        masks = targets.masks.float()
        logits = functional.interpolate(
            logits[targets.pair_index, None].float(), masks.shape[-2:], mode="bilinear", align_corners=False
        )[:, 0]
        return {
            "loss_mask": binary_cross_entropy(logits, masks).sum() + nothing,
            "loss_dice": dice_loss(logits, masks).sum() + nothing,
        }

    def predict(self, shared: SharedRepresentation, samples: Sequence[PerceptionSample]) -> list[InstanceData]:
        """Return the mask of each sentence over the whole input, and the box around it in input pixels.

        Its score is 1: the slot does not say how sure it is.
        """
        probabilities = self._logits(shared).float().sigmoid()
        boxes = tight_boxes(probabilities > 0.5, samples[0].frame.input_hw if samples else (1, 1))
        every = torch.arange(len(boxes), device=boxes.device)
        table = InstanceData(bboxes=boxes, masks=probabilities, scores=torch.ones_like(boxes[:, 0]), pair_index=every)
        return gather_pairs(table, samples, shared)

    def _logits(self, shared: SharedRepresentation) -> Float[Tensor, "pairs rows cols"]:
        vectors, images = slot_vectors(shared, self.slot), shared.extras.get("images")
        return self.sam(vectors, shared.image_index, images=images, dense=shared.dense)

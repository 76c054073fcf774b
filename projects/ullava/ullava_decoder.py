"""u-LLaVA's task: a sentence in, and out of one answer of the LMM a mask, a box and the name of what is shown."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from mmengine.structures import InstanceData
from torch import Tensor, nn
from torch.nn import functional
from ullava_fusion import fuse_boxes

from lumen.decoders.base import Decoder
from lumen.decoders.boxes import SlotBoxHead, pair_sizes, slot_box_losses, slot_vectors
from lumen.errors import ConfigError
from lumen.ops.geometry import clip_boxes
from lumen.ops.losses import binary_cross_entropy, dice_loss
from lumen.ops.masks import tight_boxes
from lumen.registry import DECODERS, MODELS
from lumen.structures import Field, PerceptionSample, SharedRepresentation, TaskSpec, gather_pairs, targets_per_pair

MASK_SLOT, BOX_SLOT = "[SEG]", "[LOC]"
CORNERS = {"region_corners": Field("points", shape=(2, 2)), "mask_corners": Field("points", shape=(2, 2))}
"""The two boxes before they are fused, as (x1, y1), (x2, y2)."""


@DECODERS.register_module()
class UllavaDecoder(Decoder):
    """The vector of one slot prompts SAM's mask decoder, that of the other gives a box; the words hold the tag.

    A pair has one answer. Several targets of a pair, such as all objects of a class, are learned as one: the union of
    their masks and the box around them.

    Args:
        channels: Width of the shared representation.
        sam: Config of ``lumen.lmm.sam_prompted.SamPrompted`` without its ``channels``, or one that is built.
        raw_xyxy: Leave the corners of the regressed box unbounded, as in the paper.
        rule: How the two boxes become one; see ``fuse_boxes``.

    Source:
        Xu et al., "u-LLaVA: Unifying Multi-Modal Tasks via Large Language Model" (ECAI 2024), sections 3.2 and 4.1.
    """

    spec = TaskSpec(
        name="ullava",
        targets=frozenset({"bboxes", "masks"}),
        predictions=frozenset({"bboxes", "masks", "texts", "scores", "labels", "prompt_index", *CORNERS}),
        headline="ullava/ciou",
        losses={"loss_mask": "pairs", "loss_dice": "pairs", "loss_l1": "pairs", "loss_giou": "pairs"},
        extras=frozenset({"images", "words"}),
        fields=CORNERS,
        needs_heat=False,
    )

    def __init__(
        self, channels: int, *, sam: Mapping[str, Any] | nn.Module, raw_xyxy: bool = False, rule: str = "agree"
    ) -> None:
        super().__init__(channels)
        self.sam = sam if isinstance(sam, nn.Module) else MODELS.build({**sam, "channels": channels})
        self.box = SlotBoxHead(channels, raw_xyxy=raw_xyxy)
        self.rule = rule

    def masks(self, shared: SharedRepresentation) -> Float[Tensor, "pairs rows cols"]:
        """Return mask logits over the whole input."""
        vectors, images = slot_vectors(shared, MASK_SLOT), shared.extras.get("images")
        return self.sam(vectors, shared.image_index, images=images, dense=shared.dense)

    def loss(self, shared: SharedRepresentation, samples: Sequence[PerceptionSample]) -> dict[str, Float[Tensor, ""]]:
        """Return the losses of mask (mean over the pixels of the input) and box (shares of it), summed over pairs."""
        logits, boxes = self.masks(shared), self.box(slot_vectors(shared, BOX_SLOT))
        nothing = logits.float().sum() * 0 + boxes.sum() * 0
        targets = targets_per_pair(samples, shared)
        if not len(targets):
            return dict.fromkeys(self.spec.losses, nothing)
        pair, masks, bboxes = merge_targets(targets)
        logits = functional.interpolate(
            logits[pair, None].float(), masks.shape[-2:], mode="bilinear", align_corners=False
        )[:, 0]
        distance, overlap = slot_box_losses(boxes[pair], bboxes / pair_sizes(samples, shared)[pair])
        return {
            "loss_mask": binary_cross_entropy(logits, masks).sum() + nothing,
            "loss_dice": dice_loss(logits, masks).sum() + nothing,
            "loss_l1": distance.sum() + nothing,
            "loss_giou": overlap.sum() + nothing,
        }

    def predict(self, shared: SharedRepresentation, samples: Sequence[PerceptionSample]) -> list[InstanceData]:
        """Return one answer per pair in input pixels; ``texts`` are the words of the LMM, from which comes the tag.

        Its score is 1: nothing says how sure it is.

        Raises:
            ConfigError: The adapter was not asked for words.
        """
        if "words" not in shared.extras:
            raise ConfigError("UllavaDecoder needs the words of the LMM: call the adapter with extras={'words'}")
        probabilities = self.masks(shared).sigmoid()
        region = clip_boxes(self.box(slot_vectors(shared, BOX_SLOT)), (1, 1)) * pair_sizes(samples, shared)
        size_hw = samples[0].frame.input_hw if samples else (1, 1)
        mask_box = tight_boxes(probabilities > 0.5, size_hw)
        places = zip(shared.image_index.tolist(), shared.prompt_index.tolist(), strict=True)
        table = InstanceData(
            bboxes=fuse_boxes(region, mask_box, rule=self.rule),
            masks=probabilities,
            texts=[shared.extras["words"][image][prompt] for image, prompt in places],
            scores=torch.ones_like(region[:, 0]),
            region_corners=region.view(-1, 2, 2),
            mask_corners=mask_box.view(-1, 2, 2),
            pair_index=torch.arange(len(region), device=region.device),
        )
        return gather_pairs(table, samples, shared)


def merge_targets(targets: InstanceData) -> tuple[Tensor, Float[Tensor, "m height width"], Float[Tensor, "m 4"]]:
    """Return the pairs that have targets, and for each the union of its masks and the box around its boxes."""
    pair, owner = targets.pair_index.unique(return_inverse=True)
    masks = targets.masks.float()
    union = masks.new_zeros(len(pair), *masks.shape[1:]).index_add_(0, owner, masks).clamp(max=1)
    low, high = (
        side.new_zeros(len(pair), 2).scatter_reduce_(0, owner[:, None].expand(-1, 2), side, reduce, include_self=False)
        for side, reduce in ((targets.bboxes[:, :2], "amin"), (targets.bboxes[:, 2:], "amax"))
    )
    return pair, union, torch.cat([low, high], 1)

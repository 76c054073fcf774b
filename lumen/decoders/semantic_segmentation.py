"""Semantic segmentation: one mask per phrase, a category or the name of a part, disjoint within an image."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from mmengine.structures import InstanceData
from torch import Tensor, nn

from lumen.decoders.base import Decoder, fill_unanswered
from lumen.decoders.masks import ROWS_AT_ONCE, MaskFeatures, cover, kernel_size, mask_out, run_kernels
from lumen.ops.heatmap import ignore_weight
from lumen.ops.losses import binary_cross_entropy, dice_loss
from lumen.registry import DECODERS
from lumen.structures import (
    PerceptionSample,
    SharedRepresentation,
    TaskSpec,
    gather_pairs,
    targets_per_pair,
)

_BACKGROUND = 0.5


@DECODERS.register_module()
class SemanticSegmentationDecoder(Decoder):
    """Fine feature maps per image, read by a tiny network per phrase whose weights come from the phrase's query.

    A phrase that has no object learns an empty mask. Crowd and ignored regions are excluded from the loss, except for
    the objects in them; so are cells most of whose pixels have no label.

    Args:
        channels: Width of the shared representation.
        num_maps: Fine feature maps per image.
        upsample: Cells of a mask per cell of ``dense``, along each axis.
    """

    spec = TaskSpec(
        name="semantic_segmentation",
        targets=frozenset({"bboxes", "masks"}),
        predictions=frozenset({"scores", "labels", "prompt_index", "masks"}),
        headline="semantic/mIoU",
        losses={"loss_mask": "pairs", "loss_dice": "pairs"},
    )

    def __init__(self, channels: int, *, num_maps: int = 16, upsample: int = 4) -> None:
        super().__init__(channels)
        self.maps = MaskFeatures(channels, num_maps=num_maps, upsample=upsample)
        self.kernel_of_query = nn.Linear(channels, kernel_size(num_maps))

    def forward(self, shared: SharedRepresentation) -> Float[Tensor, "pairs rows cols"]:
        """Return the mask logits of each pair over the whole input."""
        _, maps = self.maps(shared.dense)
        pairs = zip(
            shared.image_index.split(ROWS_AT_ONCE), self.kernel_of_query(shared.query).split(ROWS_AT_ONCE), strict=True
        )
        return torch.cat([run_kernels(maps[image], kernels) for image, kernels in pairs])

    def loss(self, shared: SharedRepresentation, samples: Sequence[PerceptionSample]) -> dict[str, Float[Tensor, ""]]:
        """Return cross entropy and, for pairs with an object, Dice against all objects of a pair; sums over pairs."""
        logits, targets = self(shared), targets_per_pair(samples, shared)
        is_present = logits.new_zeros(shared.num_pairs).index_fill_(0, targets.pair_index, 1)
        target = torch.zeros_like(logits)
        if len(targets):
            # the shares of one cell that several objects cover add up, as if they did not overlap
            target.index_add_(0, targets.pair_index, cover(targets.masks, logits.shape[-2:])).clamp_(max=1)
        ignored = targets_per_pair(samples, shared, "ignored_instances")
        fine_boxes = ignored.bboxes * (self.maps.upsample / shared.stride)
        weight = ignore_weight(fine_boxes, ignored.pair_index, shared.num_pairs, tuple(logits.shape[-2:]), stride=1)
        labelled = _labelled_share(samples, target)[shared.image_index]
        target = (target / labelled.clamp(min=_BACKGROUND)).clamp(max=1)
        logits, target = mask_out(logits, target, ((weight > 0) | (target > 0)) & (labelled > _BACKGROUND))
        return {
            "loss_mask": binary_cross_entropy(logits, target).sum(),
            "loss_dice": (dice_loss(logits, target) * is_present).sum(),
        }

    def predict(self, shared: SharedRepresentation, samples: Sequence[PerceptionSample]) -> list[InstanceData]:
        """Return one row per prompt: its presence as score, and a mask that overlaps no other one of the sample.

        A prompt without a pair has score 0 and an empty mask.
        """
        table = InstanceData(
            scores=shared.presence_logits.float().sigmoid(),
            masks=self(shared).sigmoid(),
            pair_index=torch.arange(shared.num_pairs, device=shared.image_index.device),
        )
        answers = gather_pairs(table, samples, shared)
        for answer in answers:
            answer.masks = make_disjoint(answer.masks)
        return [
            fill_unanswered(answer, sample.prompts, self.spec.name)
            for answer, sample in zip(answers, samples, strict=True)
        ]


def _labelled_share(
    samples: Sequence[PerceptionSample], like: Float[Tensor, "pairs rows cols"]
) -> Float[Tensor, "images rows cols"]:
    """Return the share of each fine cell whose pixels have a label: all of it where there is no label map."""
    share = like.new_ones(len(samples), *like.shape[-2:])
    for image, sample in enumerate(samples):
        if "unlabelled" in sample:
            share[image] -= cover(sample.unlabelled.masks.to(like.device), like.shape[-2:])[0]
    return share


def make_disjoint(masks: Float[Tensor, "n rows cols"]) -> Float[Tensor, "n rows cols"]:
    """Lower each probability by the amount that the highest other one exceeds one half.

    In each cell at most one mask stays above one half: the best one, if no other one equals it. The same holds for
    what is read between cells linearly, since the excesses over one half of two masks never add up to more than 0.
    """
    if len(masks) < 2:
        return masks
    best = masks.topk(2, dim=0).values
    rival = torch.where(masks == best[0], best[1], best[0]).clamp(min=_BACKGROUND)
    return (masks + _BACKGROUND - rival).clamp(min=0)

"""Masks as in the paper: peaks and boxes, then a frozen SAM prompted by both. No mask annotation is used."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from mmengine.structures import InstanceData
from torch import Tensor, nn

from lumen.decoders.base import Decoder
from lumen.decoders.boxes import BoxHead, box_loss, boxes_at
from lumen.decoders.peaks import BoxLimits, best_boxes, pick_peaks, read_limits
from lumen.registry import DECODERS, MODELS
from lumen.structures import PerceptionSample, SharedRepresentation, TaskSpec, gather_pairs, targets_per_pair

_TARGETS = frozenset({"bboxes", "labels"})
_PREDICTIONS = frozenset({"bboxes", "scores", "labels", "prompt_index", "masks"})


@DECODERS.register_module()
class SamSegmentationDecoder(Decoder):
    """All instances of each phrase: detection, then a mask for each of the best boxes of the image.

    Args:
        channels: Width of the shared representation.
        sam: Config of ``lumen.lmm.sam.SamMasks``, or one that is built.
        limits: Which boxes are answers and get masks, as a dict of the arguments of ``BoxLimits``.

    Source:
        Jiao et al., "Lumen" (2024), section 3.2: SAM as it is, prompted by the peak and the box.
    """

    spec = TaskSpec(
        name="segmentation",
        targets=_TARGETS,
        predictions=_PREDICTIONS | {"peak_scores"},
        headline="coco/segm_mAP",
        losses={"loss_box": "objects"},
        extras=frozenset({"images"}),
    )

    def __init__(
        self,
        channels: int,
        *,
        sam: Mapping[str, Any] | nn.Module,
        limits: Mapping[str, Any] | BoxLimits | None = None,
    ) -> None:
        super().__init__(channels)
        self.limits = read_limits(BoxLimits, limits)
        self.head = BoxHead(channels)
        self.sam = _build(sam)

    def loss(self, shared: SharedRepresentation, samples: Sequence[PerceptionSample]) -> dict[str, Float[Tensor, ""]]:
        """Return the box loss of detection: SAM is not trained."""
        return {"loss_box": box_loss(self.head(shared), targets_per_pair(samples, shared), shared)}

    def predict(self, shared: SharedRepresentation, samples: Sequence[PerceptionSample]) -> list[InstanceData]:
        """Return boxes in input pixels and mask probabilities over the whole input."""
        table = _peak_boxes(self.head, shared, self.limits.num_peaks, self.limits.min_score)
        answers = best_boxes(table, samples, shared, self.limits)
        return _with_masks(self.sam, answers, shared)


@DECODERS.register_module()
class SamReferringDecoder(Decoder):
    """One mask per sentence: at its highest peak, whatever the score.

    Args:
        channels: Width of the shared representation.
        sam: Config of ``lumen.lmm.sam.SamMasks``, or one that is built.

    Source:
        Jiao et al., "Lumen" (2024), section 3.2, with one peak.
    """

    spec = TaskSpec(
        name="referring_segmentation",
        targets=_TARGETS,
        predictions=_PREDICTIONS,
        headline="referring_segmentation/ciou",
        losses={"loss_box": "objects"},
        extras=frozenset({"images"}),
    )

    def __init__(self, channels: int, *, sam: Mapping[str, Any] | nn.Module) -> None:
        super().__init__(channels)
        self.head = BoxHead(channels)
        self.sam = _build(sam)

    def loss(self, shared: SharedRepresentation, samples: Sequence[PerceptionSample]) -> dict[str, Float[Tensor, ""]]:
        """Return the box loss: SAM is not trained."""
        return {"loss_box": box_loss(self.head(shared), targets_per_pair(samples, shared), shared)}

    def predict(self, shared: SharedRepresentation, samples: Sequence[PerceptionSample]) -> list[InstanceData]:
        """Return a box in input pixels and a mask over the whole input for each sentence."""
        table = _peak_boxes(self.head, shared, 1, 0.0)
        table.pop("peak_scores")
        return _with_masks(self.sam, gather_pairs(table, samples, shared), shared)


def _build(sam: Mapping[str, Any] | nn.Module) -> nn.Module:
    return sam if isinstance(sam, nn.Module) else MODELS.build(dict(sam))


def _peak_boxes(head: BoxHead, shared: SharedRepresentation, num_peaks: int, min_score: float) -> InstanceData:
    """Return the best peaks of each pair with their boxes; ``points`` are the middles of the peaks' cells."""
    pair, cells_xy, scores, peak_scores = pick_peaks(shared, num_peaks=num_peaks, min_score=min_score)
    boxes = boxes_at(head(shared), shared.image_index[pair], cells_xy, shared.stride)
    points = (cells_xy + 0.5) * shared.stride
    return InstanceData(bboxes=boxes, points=points, scores=scores, peak_scores=peak_scores, pair_index=pair)


def _with_masks(sam: nn.Module, answers: Sequence[InstanceData], shared: SharedRepresentation) -> list[InstanceData]:
    """Replace the points of each image's answers by masks, all images in one call."""
    sizes = [len(answer) for answer in answers]
    image_index = torch.arange(len(answers)).repeat_interleave(torch.tensor(sizes, dtype=torch.long))
    if sum(sizes):
        points, boxes = (torch.cat([answer[name] for answer in answers]).float() for name in ("points", "bboxes"))
        masks = sam(shared.extras["images"], image_index.to(points.device), points, boxes)
    else:
        masks = shared.heat_logits.new_zeros(0, *shared.heat_logits.shape[-2:])
    for answer, of_answer in zip(answers, masks.split(sizes), strict=True):
        answer.pop("points")
        answer.masks = of_answer
    return list(answers)

"""Boxes as distances to the four sides, read at cells: what every decoder that answers with boxes shares."""

import torch
from jaxtyping import Float, Int
from mmengine.structures import InstanceData
from torch import Tensor, nn

from lumen.ops.heatmap import cells_around
from lumen.ops.losses import giou_loss
from lumen.ops.precision import without_autocast
from lumen.structures import SharedRepresentation


class BoxHead(nn.Module):
    """Distances (left, top, right, bottom) from each cell's centre to the sides of its object.

    It reads ``dense``, so it is computed once per image, whatever the number of phrases.

    Args:
        channels: Width of the shared representation.

    Source:
        Distances and GIoU after FCOS (Tian et al., 2019) and TTFNet (Liu et al., 2020).
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(channels),
            nn.SiLU(inplace=True),
            nn.Conv2d(channels, 4, 1),
        )

    def forward(self, shared: SharedRepresentation) -> Float[Tensor, "images 4 height width"]:
        """Return distances in input pixels; the last layer runs in float32 under autocast too."""
        *hidden, last = self.layers
        state = shared.dense
        for layer in hidden:
            state = layer(state)
        with without_autocast(state):
            logits = last(state.to(last.weight.dtype)).float()
        return torch.exp(logits.clamp(max=8.0)) * shared.stride


def box_loss(
    distances: Float[Tensor, "images 4 height width"], targets: InstanceData, shared: SharedRepresentation
) -> Float[Tensor, ""]:
    """Return the GIoU loss of the cells around each object's centre, weighted to one per object, summed.

    Args:
        distances: Output of ``BoxHead``.
        targets: ``bboxes`` and ``pair_index``; boxes without extent have no size to learn and are left out.
        shared: Names the pairs.
    """
    has_extent = (targets.bboxes[:, 2:] > targets.bboxes[:, :2]).all(1)
    bboxes, pair_index = targets.bboxes[has_extent], targets.pair_index[has_extent]
    owner, cells_xy, weight = cells_around(bboxes, distances.shape[-2:], shared.stride)
    boxes = boxes_at(distances, shared.image_index[pair_index[owner]], cells_xy, shared.stride)
    return (giou_loss(boxes, bboxes[owner]) * weight).sum() + distances.sum() * 0


def boxes_at(
    distances: Float[Tensor, "images 4 height width"],
    image: Int[Tensor, " n"],
    cells_xy: Int[Tensor, "n 2"],
    stride: int,
) -> Float[Tensor, "n 4"]:
    """Read the distances at cells and turn them into boxes in input pixels."""
    read = distances[image, :, cells_xy[:, 1], cells_xy[:, 0]]
    centre = (cells_xy + 0.5) * stride
    return torch.cat([centre - read[:, :2], centre + read[:, 2:]], 1)

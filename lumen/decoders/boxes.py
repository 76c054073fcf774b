"""What every decoder that answers with boxes shares: distances to the four sides, read at cells, and boxes by slots."""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from mmengine.structures import InstanceData
from torch import Tensor, nn

from lumen.errors import ConfigError
from lumen.ops.geometry import cxcywh_to_xyxy
from lumen.ops.heatmap import cells_around
from lumen.ops.losses import giou_loss
from lumen.ops.precision import without_autocast
from lumen.structures import PerceptionSample, SharedRepresentation


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


class SlotBoxHead(nn.Module):
    """A box from the vector of a slot alone, by three layers.

    Args:
        channels: Width of the vector.
        raw_xyxy: Give the corners as the last layer has them, which nothing keeps in order or in the image; otherwise
            centre and size go through a sigmoid.

    Source:
        The region decoder of Xu et al., "u-LLaVA" (2024), section 4.1, which is ``raw_xyxy``.
    """

    def __init__(self, channels: int, *, raw_xyxy: bool = False) -> None:
        super().__init__()
        self.raw_xyxy = raw_xyxy
        half = channels // 2
        self.layers = nn.Sequential(
            nn.Linear(channels, channels), nn.ReLU(), nn.Linear(channels, half), nn.ReLU(), nn.Linear(half, 4)
        )

    def forward(self, vectors: Float[Tensor, "pairs channels"]) -> Float[Tensor, "pairs 4"]:
        """Return boxes, xyxy as shares of the input, in float32 under autocast too."""
        *hidden, last = self.layers
        for layer in hidden:
            vectors = layer(vectors)
        with without_autocast(vectors):
            values = last(vectors.to(last.weight.dtype)).float()
        return values if self.raw_xyxy else cxcywh_to_xyxy(values.sigmoid())


def slot_vectors(shared: SharedRepresentation, slot: str) -> Float[Tensor, "pairs channels"]:
    """Return the vector of each pair for a slot.

    Raises:
        ConfigError: The aligner does not read that slot.
    """
    if slot not in shared.slots:
        raise ConfigError(
            f"unknown slot {slot!r}: the aligner reads {list(shared.slots)}; name it in SlotAligner.slots"
        )
    return shared.slots[slot]


def pair_sizes(samples: Sequence[PerceptionSample], shared: SharedRepresentation) -> Float[Tensor, "pairs 4"]:
    """Return width, height, width, height of each pair's input in pixels: the units of boxes that are shares of it."""
    sizes = [sample.frame.input_hw for sample in samples]
    rows = torch.tensor([(width, height, width, height) for height, width in sizes], dtype=torch.float32)
    return rows.to(shared.image_index.device).view(-1, 4)[shared.image_index]


def slot_box_losses(
    boxes: Float[Tensor, "n 4"], targets: Float[Tensor, "n 4"]
) -> tuple[Float[Tensor, " n"], Float[Tensor, " n"]]:
    """Return the L1 distance of each box, summed over its four sides, and its GIoU loss; all boxes are shares."""
    return (boxes - targets).abs().sum(1), giou_loss(boxes, targets)

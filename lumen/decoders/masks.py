"""Masks from dynamic kernels: few fine feature maps per image, and a tiny network per object that reads them.

Boxes are in input pixels. A mask lies on the fine grid, ``upsample`` times as fine as the shared representation; its
cells cover the whole network input.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Int
from mmengine.structures import InstanceData
from torch import Tensor, nn
from torch.nn import functional

from lumen.ops.losses import binary_cross_entropy, dice_loss
from lumen.structures import SharedRepresentation

ROWS_AT_ONCE = 32
"""Number of masks computed at once; bounds the copies of an image's maps."""
_HIDDEN = 8
_FARTHEST = 3.0
_LEARNED_MARGIN = 0.5
_ANSWERED_MARGIN = 0.15
_SURELY_NOT = -30.0


class MaskFeatures(nn.Module):
    """Few fine feature maps per image, made from ``dense``.

    Args:
        channels: Width of the shared representation.
        num_maps: Feature maps per image.
        upsample: Cells of the fine grid per cell of ``dense``, along each axis.

    Source:
        Pixel shuffle after Shi et al., "Real-Time Single Image and Video Super-Resolution" (2016), section 3.2.
    """

    def __init__(self, channels: int, *, num_maps: int, upsample: int) -> None:
        super().__init__()
        self.upsample = upsample
        self.trunk = nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels), nn.SiLU(inplace=True)
        )
        self.to_maps = nn.Conv2d(channels, num_maps * upsample**2, 1)

    def forward(
        self, dense: Float[Tensor, "images channels height width"]
    ) -> tuple[Float[Tensor, "images channels height width"], Float[Tensor, "images maps rows cols"]]:
        """Return the state of each cell, from which kernels may be read, and the fine maps."""
        state = self.trunk(dense)
        return state, functional.pixel_shuffle(self.to_maps(state), self.upsample)


class MaskHead(nn.Module):
    """One mask per box: its kernel is read at the cell of the box's centre and from the pair's query.

    The kernel sees the fine maps and, for each fine cell, where it lies in the box: -1 and 1 are the sides.

    Args:
        channels: Width of the shared representation.
        num_maps: Feature maps per image.
        upsample: Cells of the fine grid per cell of ``dense``, along each axis.

    Source:
        Tian et al., "Conditional Convolutions for Instance Segmentation" (2020), section 3, with one hidden layer, the
        query beside the cell, and coordinates in units of the box.
    """

    def __init__(self, channels: int, *, num_maps: int = 8, upsample: int = 4) -> None:
        super().__init__()
        self.maps = MaskFeatures(channels, num_maps=num_maps, upsample=upsample)
        num_weights = kernel_size(num_maps + 2)
        self.kernel_of_cell = nn.Linear(channels, num_weights)
        self.kernel_of_query = nn.Linear(channels, num_weights, bias=False)

    def forward(
        self, shared: SharedRepresentation, pair_index: Int[Tensor, " n"], boxes: Float[Tensor, "n 4"]
    ) -> Float[Tensor, "n rows cols"]:
        """Return one map of mask logits per box; boxes may reach over the border."""
        state, maps = self.maps(shared.dense)
        image = shared.image_index[pair_index]
        col, row = centre_cells(boxes, state.shape[-2:], shared.stride).unbind(1)
        kernels = self.kernel_of_cell(state[image, :, row, col]) + self.kernel_of_query(shared.query[pair_index])
        fine_stride, logits = shared.stride / self.maps.upsample, []
        for owner, box, kernel in zip(*(rows.split(ROWS_AT_ONCE) for rows in (image, boxes, kernels)), strict=True):
            place = place_in_boxes(box, maps.shape[-2:], fine_stride)
            logits.append(run_kernels(torch.cat([maps[owner], place], 1), kernel))
        return torch.cat(logits)


def kernel_size(num_inputs: int) -> int:
    """Return the number of weights that ``run_kernels`` needs for one network with this many inputs."""
    return (num_inputs + 1) * _HIDDEN + _HIDDEN + 1


def run_kernels(
    inputs: Float[Tensor, "n inputs rows cols"], kernels: Float[Tensor, "n weights"]
) -> Float[Tensor, "n rows cols"]:
    """Run one network per row over its maps: a hidden layer with ReLU, then one number per cell."""
    num_inputs, size_hw = inputs.shape[1], inputs.shape[-2:]
    weights, biases, last, last_bias = kernels.split([_HIDDEN * num_inputs, _HIDDEN, _HIDDEN, 1], 1)
    hidden = torch.baddbmm(biases[..., None], weights.unflatten(1, (_HIDDEN, num_inputs)), inputs.flatten(2)).relu()
    return torch.baddbmm(last_bias[..., None], last[:, None], hidden)[:, 0].float().unflatten(1, size_hw)


def centre_cells(boxes: Float[Tensor, "n 4"], size_hw: Sequence[int], stride: int) -> Int[Tensor, "n 2"]:
    """Return the cell (x, y) of each box's centre; the nearest one for a centre beyond the border."""
    limit = torch.tensor([size_hw[1] - 1, size_hw[0] - 1], device=boxes.device)
    cells = ((boxes[:, :2] + boxes[:, 2:]) / (2 * stride)).floor().long()
    return torch.minimum(cells.clamp(min=0), limit)


def place_in_boxes(
    boxes: Float[Tensor, "n 4"], size_hw: Sequence[int], fine_stride: float
) -> Float[Tensor, "n 2 rows cols"]:
    """Return where each fine cell lies in each box: (x, y) from -1 at one side to 1 at the other, at most 3 away.

    A box counts as at least two fine cells wide.
    """
    centre, half = (boxes[:, :2] + boxes[:, 2:]) / 2, ((boxes[:, 2:] - boxes[:, :2]) / 2).clamp(min=fine_stride)
    rows, cols = ((torch.arange(size, device=boxes.device) + 0.5) * fine_stride for size in size_hw)
    x = ((cols - centre[:, :1]) / half[:, :1]).clamp(-_FARTHEST, _FARTHEST)
    y = ((rows - centre[:, 1:]) / half[:, 1:]).clamp(-_FARTHEST, _FARTHEST)
    return torch.stack(torch.broadcast_tensors(x[:, None], y[..., None]), 1)


def inside_boxes(
    boxes: Float[Tensor, "n 4"], size_hw: Sequence[int], fine_stride: float, *, margin: float
) -> Bool[Tensor, "n rows cols"]:
    """Return which fine cells lie in each box after every side moved out by ``margin`` of its size, plus one cell."""
    reach = (boxes[:, 2:] - boxes[:, :2]).clamp(min=0) * margin + fine_stride
    first, last = boxes[:, :2] - reach, boxes[:, 2:] + reach
    rows, cols = ((torch.arange(size, device=boxes.device) + 0.5) * fine_stride for size in size_hw)
    in_cols = (cols > first[:, :1]) & (cols < last[:, :1])
    in_rows = (rows > first[:, 1:]) & (rows < last[:, 1:])
    return in_rows[..., None] & in_cols[:, None]


def cover(masks: Bool[Tensor, "n height width"], size_hw: Sequence[int]) -> Float[Tensor, "n rows cols"]:
    """Return the share of each fine cell that a mask of the input covers."""
    return functional.adaptive_avg_pool2d(masks.float(), tuple(size_hw))


def mask_out(
    mask_logits: Float[Tensor, "n rows cols"], target: Float[Tensor, "n rows cols"], valid: Bool[Tensor, "n rows cols"]
) -> tuple[Float[Tensor, "n rows cols"], Float[Tensor, "n rows cols"]]:
    """Make logits and target agree on "no mask" where a cell is not ``valid``: no loss and no gradient there."""
    return mask_logits.masked_fill(~valid, _SURELY_NOT), target * valid


def mask_losses(
    head: MaskHead, targets: InstanceData, shared: SharedRepresentation, *, max_objects: int
) -> dict[str, Float[Tensor, ""]]:
    """Return ``loss_mask`` (cross entropy) and ``loss_dice``, one each per object, summed over objects.

    Masks are learned in the true boxes. Cells far from the object are not valid, since no answer shows them.

    Args:
        head: Makes the masks.
        targets: ``bboxes``, ``masks`` and ``pair_index``; boxes without extent are left out.
        shared: Names the pairs.
        max_objects: Maximum number of objects that are trained, drawn at random; the sum is scaled up for the others.
    """
    chosen = (targets.bboxes[:, 2:] > targets.bboxes[:, :2]).all(1).nonzero()[:, 0]
    num_objects = len(chosen)
    if num_objects > max_objects:
        chosen = chosen[torch.randperm(num_objects, device=chosen.device)[:max_objects]]
    bboxes, pair_index = targets.bboxes[chosen], targets.pair_index[chosen]
    logits = head(shared, pair_index, bboxes)
    target = cover(targets.masks[chosen], logits.shape[-2:]) if num_objects else torch.zeros_like(logits)
    fine_stride = shared.stride / head.maps.upsample
    valid = inside_boxes(bboxes, logits.shape[-2:], fine_stride, margin=_LEARNED_MARGIN)
    logits, target = mask_out(logits, target, valid)
    valid_share = valid.float().mean((1, 2)).clamp(min=1e-6)
    per_chosen = num_objects / max(1, len(chosen))
    return {
        "loss_mask": (binary_cross_entropy(logits, target) / valid_share).sum() * per_chosen,
        "loss_dice": dice_loss(logits, target).sum() * per_chosen,
    }


def mask_probabilities(
    head: MaskHead, shared: SharedRepresentation, pair_index: Int[Tensor, " n"], boxes: Float[Tensor, "n 4"]
) -> Float[Tensor, "n rows cols"]:
    """Return the masks of some boxes over the whole input, 0 outside a slightly larger box."""
    probabilities = head(shared, pair_index, boxes).sigmoid()
    fine_stride = shared.stride / head.maps.upsample
    return probabilities * inside_boxes(boxes, probabilities.shape[-2:], fine_stride, margin=_ANSWERED_MARGIN)

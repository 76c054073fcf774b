"""Linear heads that teach a vision tower what its cells show: labels of a fine map, and objects at their tokens.

The targets are ``objects`` and ``cells`` of the samples, see ``lumen.data.cells``. Cells are counted row by
row. Legend: I images, N objects of all images.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from mmengine.structures import InstanceData
from torch import Tensor, nn
from torch.nn import functional

from lumen.structures import FeatureWidths, PerceptionSample

LOSSES = ("loss_cells", "loss_objects")
BACKGROUND_WEIGHT = 0.5
_BOX_BETA = 0.02
_BOX_WEIGHT = 4.0


@dataclass(frozen=True, slots=True)
class TowerMaps:
    """What a vision tower makes of images.

    Args:
        grid: The tokens on their grid.
        fine: The coarsest of its finer maps.
        stride: Input pixels per cell of ``grid``.
    """

    grid: Float[Tensor, "images dim height width"]
    fine: Float[Tensor, "images channels rows columns"]
    stride: int

    @property
    def tokens(self) -> Float[Tensor, "images tokens dim"]:
        """The tokens row by row."""
        return self.grid.flatten(2).transpose(1, 2)

    @property
    def token_hw(self) -> tuple[int, int]:
        """Rows and columns of the tokens."""
        return self.grid.shape[2], self.grid.shape[3]


@dataclass(frozen=True, slots=True)
class Objects:
    """The objects of a batch in one table.

    Args:
        rows: ``bboxes`` in input pixels, ``labels``, and the fields that the data set declares.
        image: Image of each object.
        numbers: The object that each cell of the fine map shows, -1 for the background, -2 where that is not sure;
            None where the samples have no ``cells``.
    """

    rows: InstanceData
    image: Int[Tensor, " objects"]
    numbers: Int[Tensor, "images rows columns"] | None

    def tokens(self, token_hw: tuple[int, int], stride: int) -> Int[Tensor, " objects"]:
        """Return the number of the token in which the centre of each object lies."""
        column, row = ((self.rows.bboxes[:, :2] + self.rows.bboxes[:, 2:]) / 2 / stride).long().unbind(1)
        return row.clamp(0, token_hw[0] - 1) * token_hw[1] + column.clamp(0, token_hw[1] - 1)


def objects_of(samples: Sequence[PerceptionSample]) -> Objects:
    """Return the objects of all samples, numbered through; samples may have no ``cells``."""
    counts = torch.tensor([len(sample.objects) for sample in samples])
    first = (counts.cumsum(0) - counts).tolist()
    numbers = [
        torch.where(sample.cells.numbers >= 0, sample.cells.numbers + start, sample.cells.numbers)
        for sample, start in zip(samples, first, strict=True)
        if "cells" in sample
    ]
    rows = InstanceData.cat([sample.objects for sample in samples])
    image = torch.arange(len(samples)).repeat_interleave(counts)
    return Objects(rows, image.to(rows.bboxes.device), torch.cat(numbers) if numbers else None)


class ObjectHeads(nn.Module):
    """Reads attributes at the cells of the coarsest finer map, and centres, attributes and boxes at the tokens.

    Args:
        widths: Those of the adapter's features.
        values: Number of values of each attribute, by the field of ``objects`` that holds it, such as ``labels``.
        cells: The attributes that are read at cells; all are read at tokens.
        input_size: Longer side of the images in pixels; boxes are learned in halves of it, from -1 to 1.
    """

    def __init__(
        self, *, widths: FeatureWidths, values: Mapping[str, int], cells: Sequence[str], input_size: int
    ) -> None:
        super().__init__()
        self.values = dict(values)
        self.cells = tuple(cells)
        self.input_size = input_size
        # One value more stands for the background.
        self.cell_head = nn.Conv2d(widths.laterals[-1], sum(self.values[name] + 1 for name in self.cells), 1)
        self.token_head = nn.Linear(widths.grid, sum(self.values.values()))
        self.centre_head = nn.Linear(widths.grid, 1)
        self.box_head = nn.Linear(widths.grid, 4)
        nn.init.constant_(self.centre_head.bias, -3.0)  # an image has four objects in a hundred cells

    def loss(self, maps: TowerMaps, objects: Objects, names: Collection[str] = LOSSES) -> dict[str, Float[Tensor, ""]]:
        """Return those of ``loss_cells`` (a mean over cells) and ``loss_objects`` (over objects) that are named."""
        losses = {}
        if "loss_cells" in names:
            logits = self.cell_logits(maps)
            losses["loss_cells"] = sum(self._cell_loss(logits[name], objects, name) for name in self.cells)
        if "loss_objects" in names:
            losses["loss_objects"] = self._object_loss(maps, objects)
        return losses

    def cell_logits(self, maps: TowerMaps) -> dict[str, Float[Tensor, "images values rows columns"]]:
        """Return the logits of each attribute in each cell; the last value is the background."""
        sizes = [self.values[name] + 1 for name in self.cells]
        return dict(zip(self.cells, self.cell_head(maps.fine).float().split(sizes, 1), strict=True))

    def at_objects(self, maps: TowerMaps, objects: Objects) -> dict[str, Tensor]:
        """Return what the tokens at the centres say: logits (N, values) by attribute, ``bboxes`` (N, 4) in pixels."""
        chosen = maps.tokens[objects.image, objects.tokens(maps.token_hw, maps.stride)]
        logits = self.token_head(chosen).float().split(list(self.values.values()), 1)
        boxes = (self.box_head(chosen).float() + 1) * self.input_size / 2
        return {**dict(zip(self.values, logits, strict=True)), "bboxes": boxes}

    def _cell_loss(self, logits: Float[Tensor, "..."], objects: Objects, name: str) -> Float[Tensor, ""]:
        numbers = objects.numbers
        nothing = self.values[name]
        # The row behind the last object stands for the background.
        table = torch.cat([objects.rows[name], objects.rows[name].new_full((1,), nothing)])
        target = table[numbers.clamp(min=-1)]
        loss = functional.cross_entropy(logits, target, reduction="none")
        return _mean(loss, numbers >= 0) + BACKGROUND_WEIGHT * _mean(loss, numbers == -1)

    def _object_loss(self, maps: TowerMaps, objects: Objects) -> Float[Tensor, ""]:
        count = max(len(objects.image), 1)
        # Is the centre of an object here? Cells that are right already count less.
        centre = self.centre_head(maps.tokens)[..., 0].float()
        target = torch.zeros_like(centre)
        target[objects.image, objects.tokens(maps.token_hw, maps.stride)] = 1
        error = (centre.detach().sigmoid() - target).abs().sqrt()
        total = functional.binary_cross_entropy_with_logits(centre, target, error, reduction="sum")
        # What is it, and where does it end?
        found = self.at_objects(maps, objects)
        for name in self.values:
            total = total + functional.cross_entropy(found[name], objects.rows[name], reduction="sum")
        unit = self.input_size / 2
        boxes = functional.smooth_l1_loss(
            found["bboxes"] / unit, objects.rows.bboxes / unit, beta=_BOX_BETA, reduction="sum"
        )
        return (total + _BOX_WEIGHT / 4 * boxes) / count


def _mean(values: Tensor, chosen: Bool[Tensor, "..."]) -> Float[Tensor, ""]:
    return (values * chosen).sum() / chosen.sum().clamp(min=1)

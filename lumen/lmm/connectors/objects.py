"""Object tokens: a connector that adds a token for each box that may hold an object, found in the image alone."""

from collections.abc import Mapping, Sequence, Set
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from lumen.errors import ConfigError, DataError
from lumen.lmm.connectors.base import Connector
from lumen.lmm.encoded import EncodedImages
from lumen.lmm.families.family import Size
from lumen.lmm.object_heads import objects_of
from lumen.ops.geometry import box_means, cxcywh_to_xyxy
from lumen.ops.losses import giou_loss
from lumen.ops.precision import without_autocast
from lumen.proposals import Proposals
from lumen.registry import MODELS
from lumen.structures import LocFeatures, PerceptionSample

_PRIOR = -3.0  # an image has a few objects in a hundred cells


@MODELS.register_module()
class ObjectConnector(Connector):
    """The tokens of another connector, and behind them one for each of the most likely objects of the image.

    A head reads at each cell of the tower whether the centre of an object lies there, and its box. The best cells are
    the proposals: they depend on the image alone, and stand in the prefix that all prompts share, so they cost
    ``num_objects`` tokens an image, however many prompts there are. A token is the mean of the tower in the box, and
    the box itself, both projected to the width of the LLM. The head learns by ``loss_proposals``.

    Args:
        vision_dim: See ``Connector``.
        dim: See ``Connector``.
        inner: ``type`` and options of the other connector; widths and ``levels`` are filled in.
        num_objects: Proposals of an image.
        **options: ``levels``, ``begin`` and ``end`` of ``Connector``.

    Raises:
        ConfigError: ``num_objects`` is below 1.

    Source:
        Detected objects as tokens that an LMM chooses among are the idea of WeDetect-Ref and of VLM-FO1 (both 2025).
        The head, the pooling and the choice are ours and simpler than theirs.
    """

    def __init__(
        self, vision_dim: int, dim: int, *, inner: Mapping[str, Any], num_objects: int = 16, **options: Any
    ) -> None:
        super().__init__(vision_dim, dim, **options)
        if num_objects < 1:
            raise ConfigError(f"ObjectConnector.num_objects must be at least 1, got {num_objects}")
        self.inner: Connector = MODELS.build({**inner, "vision_dim": vision_dim, "dim": dim, "levels": self.levels})
        self.has_grid = self.inner.has_grid
        self.num_behind = num_objects
        width = vision_dim * self.num_levels
        self.proposal_head = nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.Linear(width, 5))
        nn.init.constant_(self.proposal_head[-1].bias[:1], _PRIOR)
        self.look = nn.Linear(width, dim)
        self.place = nn.Sequential(nn.Linear(4, dim), nn.GELU(), nn.Linear(dim, dim))

    def token_hw(self, grid_hw: Size) -> Size | None:
        """Return the grid of the other connector's tokens.

        Raises:
            ConfigError: It does not take such a grid.
        """
        return self.inner.token_hw(grid_hw)

    def num_tokens(self, grid_hw: Size) -> int:
        """Return the number of the other connector's tokens.

        Raises:
            ConfigError: It does not take such a grid.
        """
        return self.inner.num_tokens(grid_hw)

    def forward(
        self, states: Sequence[Float[Tensor, "images cells vision_dim"]], grid_hw: Size
    ) -> Float[Tensor, "images tokens dim"]:
        """Return the tokens of the other connector, then those of the objects, the most likely first."""
        return self.read(states, grid_hw)[0]

    def read(
        self, states: Sequence[Float[Tensor, "images cells vision_dim"]], grid_hw: Size
    ) -> tuple[Float[Tensor, "images tokens dim"], Proposals]:
        """Return the tokens, and the proposals that the last of them stand for."""
        cells = torch.cat(list(states), -1)
        logits, cell_boxes = self._propose(cells, grid_hw)
        # Which boxes are proposals, and where they lie, is not learned by what the LLM makes of them.
        best = logits.detach().topk(min(self.num_behind, logits.shape[1]), 1).indices
        boxes = cell_boxes.detach().gather(1, best[..., None].expand(-1, -1, 4)).clamp(0, 1)
        means = box_means(cells.transpose(1, 2).unflatten(2, grid_hw), boxes)
        tokens = self.look(means.to(cells.dtype)) + self.place(2 * boxes.to(cells.dtype) - 1)
        tokens = functional.pad(tokens, (0, 0, 0, self.num_behind - tokens.shape[1]))  # an image of fewer cells
        return torch.cat([self.inner(states, grid_hw), tokens], 1), Proposals(
            boxes, tokens[:, : boxes.shape[1]], logits.unflatten(1, grid_hw), cell_boxes.unflatten(1, grid_hw)
        )

    def extra_repr(self) -> str:
        """Return its options in words."""
        inner = f"inner={type(self.inner).__name__}({self.inner.extra_repr()}), num_objects={self.num_behind}"
        return ", ".join(filter(None, [inner, super().extra_repr()]))

    def _propose(
        self, cells: Float[Tensor, "images cells width"], grid_hw: Size
    ) -> tuple[Float[Tensor, "images cells"], Float[Tensor, "images cells 4"]]:
        """Return for each cell the logit that a centre lies there, and the box, xyxy as shares of the image."""
        *hidden, last = self.proposal_head
        for layer in hidden:
            cells = layer(cells)
        with without_autocast(cells):
            values = last(cells.to(last.weight.dtype)).float()
        rows, columns = (torch.arange(side, device=values.device) for side in grid_hw)
        corner = torch.stack(torch.meshgrid(columns, rows, indexing="xy"), -1).flatten(0, 1)
        # The centre lies within its cell; the size is a share of the image.
        centre = (corner + values[..., 1:3].sigmoid()) / values.new_tensor([grid_hw[1], grid_hw[0]])
        return values[..., 0], cxcywh_to_xyxy(torch.cat([centre, values[..., 3:].sigmoid()], -1))


def read_proposals(encoded: EncodedImages, extras: Set[str]) -> dict[str, Proposals]:
    """Return the proposals of encoded images under their name, where a decoder asks for them.

    Raises:
        ConfigError: The connector gives none.
    """
    if "proposals" not in extras:
        return {}
    found = getattr(encoded.states, "proposals", None)
    if found is None:
        raise ConfigError(
            "a decoder chooses among proposals, and the connector gives none: set base=dict(connector=dict("
            "type=ObjectConnector, inner=...))"
        )
    return {"proposals": found}


def proposal_losses(features: LocFeatures, samples: Sequence[PerceptionSample]) -> dict[str, Float[Tensor, ""]]:
    """Return ``loss_proposals``, summed over all objects of the images; nothing where there are no proposals.

    Centres by cross-entropy, in which cells that are right already count less; boxes by L1 distance and GIoU at the
    cells of the centres.

    Raises:
        DataError: A sample does not name its objects.
    """
    proposals: Proposals | None = features.extras.get("proposals")
    if proposals is None:
        return {}
    if any("objects" not in sample for sample in samples):
        raise DataError("proposals are learned from all objects of an image: put KeepObjects before PackSample")
    objects = objects_of(samples)
    rows, columns = proposals.centre_logits.shape[1:]
    sizes = torch.tensor([sample.frame.input_hw[::-1] * 2 for sample in samples], dtype=torch.float32)
    boxes = objects.rows.bboxes / sizes.to(objects.image.device)[objects.image]
    middle = (boxes[:, :2] + boxes[:, 2:]) / 2 * boxes.new_tensor([columns, rows])
    column, row = middle.long().unbind(1)
    place = objects.image, row.clamp(0, rows - 1), column.clamp(0, columns - 1)
    target = torch.zeros_like(proposals.centre_logits)
    target[place] = 1
    error = (proposals.centre_logits.detach().sigmoid() - target).abs().sqrt()
    centre = functional.binary_cross_entropy_with_logits(proposals.centre_logits, target, error, reduction="sum")
    found = proposals.cell_boxes[place]
    return {"loss_proposals": centre + (found - boxes).abs().sum() + giou_loss(found, boxes).sum()}

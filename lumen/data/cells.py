"""All objects of an image, whether a prompt asks for them or not, and which of them each cell of a grid shows."""

from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor
from torch.nn import functional

from lumen.data.text import no_targets
from lumen.errors import ConfigError
from lumen.registry import TRANSFORMS

BACKGROUND = -1
UNSURE = -2


@TRANSFORMS.register_module()
class KeepObjects:
    """Hand on all objects of the image.

    Reads ``instances`` and ``fields``; writes ``objects``: ``bboxes``, ``labels`` and the declared fields of all
    objects that are not ignored. Adds empty ``prompts`` and targets where there are none, so that ``PackSample`` can
    follow directly.
    """

    def __call__(self, results: dict[str, Any]) -> dict[str, Any]:
        """Add objects."""
        instances = results["instances"]
        is_kept = torch.from_numpy(~instances["is_ignored"])
        fields = {name: torch.as_tensor(instances[name])[is_kept] for name in results.get("fields", {})}
        labels = torch.from_numpy(instances["labels"])[is_kept]
        results["objects"] = {"bboxes": instances["bboxes"][is_kept], "labels": labels, **fields}
        results.setdefault("prompts", ())
        results.setdefault("gt_instances", no_targets())
        results.setdefault("ignored_instances", no_targets())
        return results


@TRANSFORMS.register_module()
class LabelCells:
    """Name the object that each cell shows.

    Reads ``instances`` with ``masks``; writes ``cells``: ``numbers`` (1, rows, columns), the number among ``objects``
    of the object that covers most of a cell, ``BACKGROUND`` or ``UNSURE``.

    Args:
        stride: Side of a cell in input pixels.
        least: Share of a cell that an object must cover to be shown by it.
        most: Share of a cell that all objects together may cover in the background.

    Raises:
        ConfigError: The objects have no masks.
    """

    def __init__(self, *, stride: int = 8, least: float = 0.25, most: float = 0.02) -> None:
        self.stride = stride
        self.least = least
        self.most = most

    def __call__(self, results: dict[str, Any]) -> dict[str, Any]:
        """Add cells."""
        instances = results["instances"]
        if "masks" not in instances:
            raise ConfigError("LabelCells reads masks: give the data set with_masks=True")
        is_kept = torch.from_numpy(~instances["is_ignored"])
        results["cells"] = {"numbers": self._numbers(instances["masks"], is_kept)[None]}
        return results

    def _numbers(
        self, masks: Bool[Tensor, "n height width"], is_kept: Bool[Tensor, " n"]
    ) -> Int[Tensor, "rows columns"]:
        rows, columns = (side // self.stride for side in masks.shape[1:])
        if not len(masks):
            return torch.full((rows, columns), BACKGROUND)
        covered = functional.avg_pool2d(masks[None].float(), self.stride)[0]
        numbers = torch.full((rows, columns), UNSURE)
        numbers[covered.sum(0) < self.most] = BACKGROUND
        best, place = covered.max(0)
        # Objects that are ignored cover cells, but are not numbered.
        rank = (is_kept.cumsum(0) - 1).masked_fill(~is_kept, UNSURE)
        return torch.where(best >= self.least, rank[place], numbers)

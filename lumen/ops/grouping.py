"""Pairs by the image that they belong to."""

import torch
from jaxtyping import Int
from torch import Tensor


def place_in_image(image_index: Int[Tensor, " pairs"]) -> Int[Tensor, " pairs"]:
    """Return the rank of each pair among the pairs of its image, from 0, in the order of the pairs."""
    order = image_index.argsort(stable=True)
    per_image = torch.bincount(image_index)
    first = (per_image.cumsum(0) - per_image)[image_index[order]]
    return torch.empty_like(order).index_put_((order,), torch.arange(len(order), device=order.device) - first)

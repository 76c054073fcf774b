"""Images that were encoded together, taken apart: each can then be asked, and dropped, on its own."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves
from transformers.modeling_outputs import BaseModelOutputWithPooling

from lumen.errors import ConfigError
from lumen.lmm.encoded import EncodedImages, PrefixCache, PrefixStates
from lumen.lmm.packing.passes import expanded

_SHARED = frozenset({"visual_indicator_features"})
"""Outputs of towers that are the same for all images."""


def split_images(encoded: EncodedImages) -> list[EncodedImages]:
    """Return each image with a copy of what belongs to it, the prefixes that the LLM has read included.

    Args:
        encoded: Any number of images of one size; all tokens are shown.

    Raises:
        ConfigError: The tower gave something that cannot be told apart by image.
    """
    count = len(encoded.images)
    return [encoded] if count == 1 else [_one_of(encoded, number, count) for number in range(count)]


def num_bytes(encoded: EncodedImages) -> int:
    """Return the memory of images, states and prefixes."""
    states = [leaf for leaf in tree_leaves(dict(encoded.states.items())) if isinstance(leaf, Tensor)]
    tensors = {id(each): each for each in (encoded.images, *states)}.values()
    kept = 0 if encoded.prefix_cache is None else encoded.prefix_cache.num_bytes
    return kept + sum(each.numel() * each.element_size() for each in tensors)


def _one_of(encoded: EncodedImages, number: int, count: int) -> EncodedImages:
    return EncodedImages(
        images=encoded.images[number : number + 1].clone(),
        states=_states_of(encoded.states, number, count),
        token_hw=encoded.token_hw,
        image_text=encoded.image_text,
        prefix_cache=None if encoded.prefix_cache is None else PrefixCache(_prefixes_of(encoded.prefix_cache, number)),
    )


def _prefixes_of(cache: PrefixCache, number: int) -> Mapping[tuple[tuple[int, ...], ...], PrefixStates]:
    found = {}
    for (prefix, images), kept in cache.kept.items():
        if number in images:
            place = images.index(number)
            device = kept.states[0].device
            own = expanded(kept.cache, torch.tensor([place], device=device), goes_on=True)
            # The last layer often stands for several, and is copied once.
            copies = {id(states): states[place : place + 1].clone() for states in kept.states}
            found[prefix, (0,)] = PrefixStates(own, [copies[id(states)] for states in kept.states])
    return found


def _states_of(states: BaseModelOutputWithPooling, number: int, count: int) -> BaseModelOutputWithPooling:
    parts = type(states)()
    copies: dict[int, Any] = {}  # the last layer is often named twice, and is copied once

    def part(name: str, value: Any) -> Any:
        if id(value) not in copies:
            copies[id(value)] = _part(name, value, number, count)
        return copies[id(value)]

    for name, value in states.items():
        # Token features come as one tensor or as a list with an entry per image; all else that is a list has an
        # entry per layer.
        if name in _SHARED:
            parts[name] = value
        elif name == "pooler_output" or isinstance(value, Tensor):
            parts[name] = part(name, value)
        else:
            parts[name] = type(value)([part(name, layer) for layer in value])
    # A connector notes these beside the outputs of the tower.
    proposals = getattr(states, "proposals", None)
    parts.proposals = None if proposals is None else proposals.of_image(number)
    return parts


def _part(name: str, value: Any, number: int, count: int) -> Any:
    """Return what belongs to one image; all have the same size, so each has the same share of a flat output."""
    if value is None:  # a layer that the tower does not give
        return None
    if isinstance(value, list | tuple) and len(value) == count:
        return [value[number].clone()]
    if isinstance(value, Tensor):
        # Some towers put the tokens of all images into one row.
        axis = 1 if len(value) == 1 else 0
        if value.ndim > axis and value.shape[axis] % count == 0:
            return value.chunk(count, axis)[number].clone()
    found = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
    raise ConfigError(f"{name} of the vision tower, {found}, cannot be divided among {count} images")

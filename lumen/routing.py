"""The way of pairs to the decoder of their task."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from jaxtyping import Int
from torch import Tensor

from lumen.structures import PerceptionSample, SharedRepresentation


def pairs_of_task(samples: Sequence[PerceptionSample], shared: SharedRepresentation, task: str) -> Tensor:
    """Return the indices of the pairs whose prompt names ``task``, in order."""
    flags = [
        samples[image].prompts[prompt].task == task
        for image, prompt in zip(shared.image_index.tolist(), shared.prompt_index.tolist(), strict=True)
    ]
    return torch.tensor(flags, dtype=torch.bool, device=shared.image_index.device).nonzero()[:, 0]


def select_pairs(shared: SharedRepresentation, index: Int[Tensor, " chosen"], maps: slice) -> SharedRepresentation:
    """Return the representation of some pairs and one decoder's maps; images stay as they are.

    Where all pairs are meant, nothing is copied.
    """
    if len(index) == shared.num_pairs and torch.equal(index, torch.arange(len(index), device=index.device)):
        return replace(shared, maps=shared.maps[:, maps])
    return replace(
        shared,
        heat_logits=None if shared.heat_logits is None else shared.heat_logits[index],
        presence_logits=None if shared.presence_logits is None else shared.presence_logits[index],
        query=shared.query[index],
        image_index=shared.image_index[index],
        prompt_index=shared.prompt_index[index],
        maps=shared.maps[index][:, maps],
        slots={token: vectors[index] for token, vectors in shared.slots.items()},
    )

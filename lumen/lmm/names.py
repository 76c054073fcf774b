"""Image tokens that name what they show: the phrases that are names, and how readily each image token says them."""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from lumen.errors import ConfigError
from lumen.lmm.packing import Suffix
from lumen.structures import NameScores


def names_of(suffixes: Sequence[Suffix], max_tokens: int) -> list[tuple[int, ...]]:
    """Return the token ids of each phrase, none where the phrase is too long for a name."""
    phrases = [suffix.ids[slice(*suffix.phrase)] for suffix in suffixes]
    return [ids if len(ids) <= max_tokens else () for ids in phrases]


def token_grid(tokens: Sequence[Tensor], token_hw: tuple[int, int]) -> Float[Tensor, "images rows columns dim"]:
    """Return the image tokens of all images on their grid.

    Raises:
        ConfigError: If they are no grid: some families put separators between them.
    """
    stacked = torch.stack(list(tokens))
    if stacked.shape[1] != token_hw[0] * token_hw[1]:
        raise ConfigError(
            f"name_tokens needs image tokens on a grid of {token_hw}, this LMM has {stacked.shape[1]}: set it to 0"
        )
    return stacked.unflatten(1, token_hw)


def name_scores(
    head: nn.Module,
    tokens: Float[Tensor, "images rows columns dim"],
    phrases: Sequence[Sequence[int]],
    image_index: Int[Tensor, " pairs"],
    nothing: int,
) -> NameScores:
    """Return what the image tokens say.

    Args:
        head: Turns states into logits.
        tokens: The image tokens as the LLM takes them, on their grid.
        phrases: Token ids of each pair's phrase; one without ids scores 0.
        image_index: Image of each pair.
        nothing: Token id that says that there is nothing to name.
    """
    states = functional.rms_norm(tokens.float(), tokens.shape[-1:])
    scores = head(states).float().log_softmax(-1)
    length = max((len(ids) for ids in phrases), default=0)
    sizes = torch.tensor([len(ids) for ids in phrases], dtype=torch.long)
    ids = torch.tensor([[*own, *[0] * (length - len(own))] for own in phrases], dtype=torch.long)
    ids = ids.view(len(phrases), length).to(scores.device)
    share = (torch.arange(length) < sizes[:, None]) / sizes[:, None].clamp(min=1)
    picked = scores.permute(0, 3, 1, 2)[image_index[:, None], ids]
    return NameScores((picked * share.to(scores.device)[..., None, None]).sum(1), scores[..., nothing])

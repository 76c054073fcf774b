"""Image tokens that mean words: before an LLM reads them, each says which words hold for the object at its place."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from lumen.corner_words import ROLES, CornerWords
from lumen.errors import ConfigError
from lumen.lmm.object_heads import Objects
from lumen.lmm.text_losses import NEIGHBOUR_SHARE
from lumen.lmm.tokens.boxes import word_ids
from lumen.lmm.tokens.phrases import PromptEncoder
from lumen.ops.precision import without_autocast

Words = Mapping[str, Sequence[Sequence[str]]]


@dataclass(frozen=True, slots=True)
class TokenWords:
    """Which words an object gives to the image token at its centre.

    Args:
        ids: Tokens of all words.
        attributes: For each field of the objects, which words each of its values has (values, words).
        bins: Bins of the words of boxes, which are the last of ``ids``; 0 where these are not meant.
    """

    ids: Int[Tensor, " words"]
    attributes: Mapping[str, Float[Tensor, "values words"]]
    bins: int

    def targets(self, objects: Objects, input_hw: tuple[int, int]) -> Float[Tensor, "objects words"]:
        """Return the probability that each word shall have at each object."""
        values = objects.rows
        targets = torch.zeros(len(objects.image), len(self.ids), device=objects.image.device)
        for name, table in self.attributes.items():
            targets = targets + table.to(targets.device)[values[name]]
        if self.bins:
            height, width = input_hw
            scale = self.bins / values.bboxes.new_tensor([width, height, width, height])
            # The words of a corner follow each other in the order of their lines, from ``low`` on.
            first = len(self.ids) - len(ROLES) * (self.bins + 1)
            low = first + torch.arange(len(ROLES), device=targets.device) * (self.bins + 1)
            place = low + (values.bboxes * scale).round().long().clamp(0, self.bins)
            targets.scatter_add_(1, place, torch.full_like(values.bboxes, 1 - 2 * NEIGHBOUR_SHARE))
            for beside in (place - 1, place + 1):
                beside = beside.maximum(low).minimum(low + self.bins)
                targets.scatter_add_(1, beside, torch.full_like(values.bboxes, NEIGHBOUR_SHARE))
        return targets


def token_words(encoder: PromptEncoder, words: Words, bins: int) -> TokenWords:
    """Return the words that objects give to image tokens.

    Args:
        encoder: Owns the tokenizer.
        words: For each field of the objects, the words of each value, such as ``[["star", "stars"], ...]``.
        bins: Bins of written boxes, whose words are meant too; 0 for none.

    Raises:
        ConfigError: A word is not one token behind a space, or two attributes share it.
    """
    flat = [word for values in words.values() for of_value in values for word in of_value]
    if len(set(flat)) < len(flat):
        raise ConfigError("a word names one value of one attribute, words has some twice")
    ids = [encoder.ids(f" {word}") for word in flat]
    split = [word for word, of_word in zip(flat, ids, strict=True) if len(of_word) != 1]
    if split:
        raise ConfigError(f"image tokens mean words of one token, the tokenizer splits {split}")
    boxes = word_ids(encoder, CornerWords(bins).words) if bins else []
    all_ids = torch.tensor([of_word[0] for of_word in ids] + boxes)
    attributes, start = {}, 0
    for name, values in words.items():
        table = torch.zeros(len(values), len(all_ids))
        for value, of_value in enumerate(values):
            table[value, start : start + len(of_value)] = 1
            start += len(of_value)
        attributes[name] = table
    return TokenWords(all_ids, attributes, bins)


class WordReader(nn.Module):
    """Turns the product of an image token and the row of a word into a logit: times a factor, plus a bias.

    Without these a token without an object would have to be the opposite of all words at once.
    """

    def __init__(self) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.ones(()))
        self.bias = nn.Parameter(torch.tensor(-4.0))

    def forward(
        self, tokens: Float[Tensor, "images tokens dim"], rows: Float[Tensor, "words dim"]
    ) -> Float[Tensor, "images tokens words"]:
        """Return how sure each token means each word."""
        states = functional.rms_norm(tokens.float(), tokens.shape[-1:])
        with without_autocast(states):
            return states @ rows.float().T * self.factor + self.bias


def word_loss(
    logits: Float[Tensor, "images tokens words"],
    words: TokenWords,
    objects: Objects,
    *,
    token_hw: tuple[int, int],
    input_hw: tuple[int, int],
) -> Float[Tensor, ""]:
    """Return how wrong the words are that image tokens mean, as a mean over objects.

    Tokens without an object mean no word.

    Args:
        logits: How sure each token means each word, see ``WordReader``.
        words: See ``TokenWords``.
        objects: The objects.
        token_hw: Grid of the tokens.
        input_hw: Height and width of the images.
    """
    target = torch.zeros_like(logits)
    place = objects.tokens(token_hw, input_hw[0] // token_hw[0])
    target[objects.image, place] = words.targets(objects, input_hw)
    total = functional.binary_cross_entropy_with_logits(logits, target, reduction="sum")
    return total / max(len(objects.image), 1)

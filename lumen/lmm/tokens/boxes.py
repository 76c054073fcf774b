"""The words of boxes in a vocabulary: which tokens stand beside each other."""

from collections.abc import Sequence

from jaxtyping import Int
from torch import Tensor

from lumen.corner_words import CornerWords
from lumen.errors import ConfigError
from lumen.lmm.text_losses import neighbours_of
from lumen.lmm.tokens.phrases import PromptEncoder


def word_ids(encoder: PromptEncoder, words: Sequence[str]) -> list[int]:
    """Return the token of each word.

    Raises:
        ConfigError: The vocabulary lacks one.
    """
    known = encoder.tokenizer.get_vocab()
    lacking = [word for word in words if word not in known]
    if lacking:
        raise ConfigError(
            f"the tokenizer has no token for {lacking[:3]}, {len(lacking)} of {len(words)} words: make a base model "
            "that has them, such as by tools/make_nano.py --seeing"
        )
    return [known[word] for word in words]


def box_neighbours(encoder: PromptEncoder, bins: int) -> Int[Tensor, "2 tokens"] | None:
    """Return the tokens beside each word of boxes of so many bins, see ``neighbours_of``; None for no bins.

    Raises:
        ConfigError: The vocabulary lacks such a word.
    """
    if not bins:
        return None
    tables = [word_ids(encoder, table) for table in CornerWords(bins).tables]
    return neighbours_of(tables, len(encoder.tokenizer))

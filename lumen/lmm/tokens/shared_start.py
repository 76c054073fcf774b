"""Texts that start alike, tokenized as a whole and split afterwards."""

import itertools
import logging
from collections.abc import Iterable, Sequence
from typing import final

from transformers import PreTrainedTokenizerBase

_LOGGER = logging.getLogger(__name__)

PROBES = (
    *("a", "the", "What", "7", "1st", "'", '"', "(", "-", ".", "#", "/", "_", "<", ":", "no.", "[", "$"),
    *("\u00e9", "\u0416", "\u4e2d", "\u3042", "\u0645", "\U0001f600"),
)
"""Beginnings of what may follow, of many scripts."""


@final
class SharedStart:
    """The tokens that a text and all its continuations have in common.

    Tokenized in two pieces, a text may get other tokens than as a whole: a Llama tokenizer begins each piece with a
    word boundary, so ``What`` after a line break becomes another token. So prompts are tokenized as a whole. The shared
    start ends at the last token that is the same whatever follows; it is found with ``PROBES``. Where the last
    characters of the text merge with what follows, they belong to the continuation.

    Args:
        tokenizer: The tokenizer.
        text: The text; ``placeholder`` stands in it once for the image.
        placeholder: What stands for the image.
        image_text: The text of the smallest image, which stands for all sizes while continuations are tokenized.
        joint: What all continuations begin with.
    """

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, text: str, *, placeholder: str, image_text: str, joint: str = ""
    ) -> None:
        self._tokenizer = tokenizer
        self._text = text
        self._placeholder = placeholder
        self._joint = joint
        self._known: dict[str, list[int]] = {}
        self._short = self._with_image(image_text)
        self._short_ids = self.ids(image_text)

    def ids(self, image_text: str) -> list[int]:
        """Return the tokens of the start, with the text that an image takes in place of its placeholder."""
        if image_text not in self._known:
            text = self._with_image(image_text) + self._joint
            self._known[image_text] = common_start([encode(self._tokenizer, text + probe) for probe in PROBES])
        return self._known[image_text]

    def rest(self, text: str) -> list[int]:
        """Return the tokens of a continuation behind the start."""
        ids, count = encode(self._tokenizer, self._short + text), len(self._short_ids)
        if ids[:count] == self._short_ids:
            return ids[count:]
        _LOGGER.warning("the tokens of %r are those of the text alone: it merges with what stands before it", text)
        return self._tokenizer(text, add_special_tokens=False)["input_ids"]

    def split(self, parts: Sequence[str]) -> tuple[list[int], list[int]]:
        """Return the tokens of a continuation, and where each of its parts ends in them.

        A token that two parts share counts to the latter.
        """
        whole = self.rest("".join(parts))
        so_far = itertools.accumulate(parts[:-1])
        return whole, [len(common_start([whole, self.rest(text)])) for text in so_far] + [len(whole)]

    def _with_image(self, image_text: str) -> str:
        return self._text.replace(self._placeholder, image_text, 1)


def encode(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Return the tokens of a text that starts a conversation: behind the tokenizer's own first token, if it has one.

    Where the text holds that token already, as the templates of some models do, it is not added again.
    """
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    if tokenizer.bos_token is not None and tokenizer.bos_token in text:
        return ids
    alone, framed = (tokenizer("a", add_special_tokens=special)["input_ids"] for special in (False, True))
    return framed[: framed.index(alone[0])] + ids


def common_start(rows: Iterable[Sequence[int]]) -> list[int]:
    """Return the tokens with which all rows begin."""
    columns = itertools.takewhile(lambda column: len(set(column)) == 1, zip(*rows, strict=False))
    return [column[0] for column in columns]

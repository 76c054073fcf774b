"""Text prompts that fit the context of an LMM: long answers are cut before they are learned."""

import bisect
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from lumen.lmm.tokens.questions import TextEncoder
from lumen.structures import Prompt

if TYPE_CHECKING:
    from lumen.lmm.adapter import HFAdapter


@dataclass(frozen=True, slots=True)
class TextLimits:
    """Checks text prompts before they are learned, and cuts answers that are too long. Data loaders call it.

    Args:
        encoder: Encoder of the questions.
        num_free: Tokens that fit the context of the LMM behind the prefix with the image.

    Source:
        Cutting at the context, without an end of the answer: ``tokenizer_image_token`` and ``model_max_length`` in the
        training of Liu et al., "Visual Instruction Tuning" (2023).
    """

    encoder: TextEncoder
    num_free: int

    def __call__(self, prompt: Prompt) -> Prompt | None:
        """Return the prompt; with a shorter answer where it does not fit, None where no token of the answer does.

        Raises:
            PromptError: If a turn is empty, too long or holds special tokens, or if there is no answer.
        """
        if self._count(prompt) <= self.num_free:
            return prompt
        answer = prompt.answer.strip()

        def cut(length: int) -> Prompt:
            return replace(prompt, answer=answer[:length], is_cut=True)

        lengths = range(1, len(answer) + 1)
        length = bisect.bisect_right(lengths, self.num_free, key=lambda length: self._count(cut(length)))
        # One character more may take one token less, so the search can end a little too high.
        while length and self._count(cut(length)) > self.num_free:
            length -= 1
        return cut(length) if length else None

    def _count(self, prompt: Prompt) -> int:
        return len(self.encoder.encode(prompt).ids)


def text_limits(adapter: "HFAdapter", input_hw: Sequence[int]) -> TextLimits:
    """Return the check of texts that an adapter is to learn beside images of this size."""
    token_hw = adapter.features.token_hw(input_hw)
    prefix = adapter.text.prefix(adapter.image_text(token_hw))
    return TextLimits(adapter.text, adapter.config.text_config.max_position_embeddings - len(prefix))

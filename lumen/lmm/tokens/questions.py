"""Questions that are answered in words, as token ids: what the adapter packs, and what the LMM continues."""

from collections.abc import Sequence

from lumen.errors import ConfigError
from lumen.lmm.packing.rows import Suffix
from lumen.lmm.tokens.phrases import MARK, PromptEncoder
from lumen.prompts import check_text
from lumen.structures import Prompt


class TextEncoder:
    """Questions to token ids: the prefix that all questions about an image share, and one suffix per question.

    The prefix ends with the image: unlike that of a phrase it has no wording of its own. Training and generation take
    the same ids.

    Args:
        encoder: Encoder of the phrases, which owns the tokenizer and the wordings.

    Raises:
        ConfigError: If the chat template does not put the image before the question.
    """

    def __init__(self, encoder: PromptEncoder) -> None:
        self.encoder = encoder
        self._prefix_text, turn_text = self._render(())
        answered = self._template([*self._messages(()), {"role": "assistant", "content": _words(MARK)}], False)
        before = self._prefix_text + MARK + turn_text
        start = answered.rfind(MARK)
        # What the template itself puts between the start of the assistant's turn and its words.
        self._gap = answered[len(before) : start] if answered.startswith(before) else ""
        self._suffixes: dict[Prompt, Suffix] = {}

    def prefix(self, image_text: str) -> list[int]:
        """Return the ids before the question, with the text that the image takes in place of its placeholder."""
        return self.encoder.encode_prefix(self._prefix_text, image_text)

    def question(self, prompt: Prompt) -> list[int]:
        """Return the ids from the question to where the assistant's words begin; earlier turns come first.

        Raises:
            PromptError: If a turn is empty, too long or holds special tokens, or if the task is unknown.
        """
        asked = prompt.text if prompt.text.strip() else self.encoder.wordings[prompt.task].instruction
        history = [
            (self._check(question, "a question"), self._check(answer, "an answer"))
            for question, answer in prompt.history
        ]
        turns = [part for turn in history for part in turn] + [self._check(asked, "a question")]
        after = self._render(turns[1:])[1]
        return self.encoder.ids(turns[0] + after)

    def suffix(self, prompt: Prompt) -> Suffix:
        """Return the tokens of one question and its answer; remembered.

        Raises:
            PromptError: See ``question``; also if there is no answer.
        """
        if prompt not in self._suffixes:
            if len(self._suffixes) >= 65536:
                self._suffixes.clear()
            self._suffixes[prompt] = self.encode(prompt)
        return self._suffixes[prompt]

    def encode(self, prompt: Prompt) -> Suffix:
        """Return the tokens of one question and its answer, without remembering them; see ``suffix``."""
        answer = self._check(prompt.answer, f"the answer to learn for {prompt.text!r}")
        asked = self.question(prompt)
        end = () if prompt.is_cut else (self.encoder.tokenizer.eos_token_id,)
        return Suffix((*asked, *self.encoder.ids(self._gap + answer), *end), (0, 0), None, len(asked))

    def suffixes(self, prompts: Sequence[Sequence[Prompt]]) -> list[list[Suffix]]:
        """Return the suffixes of the text prompts of each image."""
        return [[self.suffix(prompt) for prompt in of_image if self.is_text(prompt)] for of_image in prompts]

    def is_text(self, prompt: Prompt) -> bool:
        """Return whether a prompt is answered in words."""
        return self.encoder.wordings[prompt.task].is_text

    def _check(self, text: str, what: str) -> str:
        text = check_text(text, what)
        self.encoder.refuse_special(text)
        return text

    def _messages(self, later: Sequence[str]) -> list[dict]:
        first = {"role": "user", "content": [{"type": "image"}, *_words(MARK)]}
        roles = ("assistant", "user")
        return [first, *({"role": roles[turn % 2], "content": _words(text)} for turn, text in enumerate(later))]

    def _template(self, messages: list[dict], add_generation_prompt: bool) -> str:
        return self.encoder.tokenizer.apply_chat_template(
            messages, add_generation_prompt=add_generation_prompt, tokenize=False
        )

    def _render(self, later: Sequence[str]) -> tuple[str, str]:
        """Split a conversation at its first question: the shared prefix, and all that follows that question."""
        before, mark, after = self._template(self._messages(later), True).partition(MARK)
        if not mark or self.encoder.placeholder not in before:
            raise ConfigError(
                f"the chat template must keep the image before the question; it made {before!r} without "
                f"{self.encoder.placeholder!r} in front of it"
            )
        return before, after


def _words(text: str) -> list[dict]:
    return [{"type": "text", "text": text}]

"""Questions that are answered as text, as token ids: what is packed to learn an answer, and what is continued."""

import itertools
from collections.abc import Sequence

from lumen.errors import ConfigError
from lumen.lmm.dialects import Dialect
from lumen.lmm.packing.rows import Suffix
from lumen.lmm.tokens.phrases import PromptEncoder
from lumen.lmm.tokens.templates import MARK, image_and, words
from lumen.prompts import check_text
from lumen.structures import Prompt


class TextEncoder:
    """Questions to token ids: the prefix that all questions about an image share, and one suffix per question.

    The prefix ends with the image: unlike that of a phrase it has no wording of its own. Training and generation take
    the same ids.

    Args:
        encoder: Encoder of the phrases, which owns the tokenizer and the wordings.
        dialect: In which words the LMM is asked for places; None where it has none.

    Raises:
        ConfigError: If the chat template does not put the image before the question.
    """

    def __init__(self, encoder: PromptEncoder, *, dialect: Dialect | None = None) -> None:
        self.encoder = encoder
        self.dialect = dialect
        self._start = encoder.start(self._render(())[0])
        self._suffixes: dict[Prompt, Suffix] = {}

    def prefix(self, image_text: str) -> list[int]:
        """Return the ids before the question, with the text that the image takes in place of its placeholder."""
        return self._start.ids(image_text)

    def question(self, prompt: Prompt) -> list[int]:
        """Return the ids from the question to where the assistant's words begin; earlier turns come first.

        Raises:
            PromptError: If a turn is empty, too long or holds special tokens, or if the task is unknown.
            ConfigError: If places are asked for and there is no dialect.
        """
        return self._start.rest(self._asked(prompt))

    def _asked(self, prompt: Prompt) -> str:
        if self.has_places(prompt):
            # The words of a dialect may hold special tokens; the phrase may not.
            return self.require_dialect().ask(self._check(prompt.text, "a phrase")) + self._render(())[1]
        turns = self._turns(prompt)
        return turns[0] + self._render(turns[1:])[1]

    def turn(self, prompt: Prompt) -> Suffix:
        """Return the ids of ``question``, of which ``phrase`` is the last question; nothing is answered yet.

        Earlier answers may hold the tokens with which the LMM points.

        Raises:
            PromptError: See ``question``.
        """
        *earlier, asked = self._turns(prompt, besides=self.encoder.spoken_tokens)
        if earlier:
            before, _, after = (earlier[0] + self._render([*earlier[1:], MARK])[1]).partition(MARK)
            ids, (start, end, _) = self._start.split((before, asked, after))
        else:
            ids, (end, _) = self._start.split((asked, self._render(())[1]))
            start = 0
        return Suffix(tuple(ids), (start, max(start + 1, end)), (), len(ids))

    def _turns(self, prompt: Prompt, *, besides: Sequence[str] = ()) -> list[str]:
        """Return the texts of a conversation up to its last question; answers may hold the tokens ``besides``."""
        asked = prompt.text if prompt.text.strip() else self.encoder.wordings[prompt.task].instruction
        history = [
            (self._check(question, "a question"), self._check(answer, "an answer", besides=besides))
            for question, answer in prompt.history
        ]
        return [part for turn in history for part in turn] + [self._check(asked, "a question")]

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
        what = f"the answer to learn for {prompt.text!r}"
        # A codec writes special tokens on purpose, and nothing at all for no place.
        answer = prompt.answer.strip() if self.has_places(prompt) else self._check(prompt.answer, what)
        ids, (asked, _) = self._start.split((self._asked(prompt), self.encoder.gap + answer))
        end = () if prompt.is_cut else (self.encoder.end_id,)
        return Suffix((*ids, *end), (0, 0), (), asked, prompt.weight)

    def suffixes(self, prompts: Sequence[Sequence[Prompt]]) -> list[list[Suffix]]:
        """Return the suffixes of the text prompts of each image."""
        return [[self.suffix(prompt) for prompt in of_image if self.is_text(prompt)] for of_image in prompts]

    def is_text(self, prompt: Prompt) -> bool:
        """Return whether a prompt is answered as text."""
        return self.encoder.wordings[prompt.task].is_text

    def has_places(self, prompt: Prompt) -> bool:
        """Return whether places are read from the answer of a prompt."""
        return self.encoder.wordings[prompt.task].has_places

    def require_dialect(self) -> Dialect:
        """Return the dialect.

        Raises:
            ConfigError: There is none.
        """
        if self.dialect is None:
            raise ConfigError(
                "the LMM is asked for boxes, but is not known to write any: train a decoder on it, as "
                "configs/finetune/detection.py does, or name the way in which it writes them as generation.dialect"
            )
        return self.dialect

    def _check(self, text: str, what: str, *, besides: Sequence[str] = ()) -> str:
        text = check_text(text, what)
        self.encoder.refuse_special(text, besides=besides)
        return text

    def _render(self, later: Sequence[str]) -> tuple[str, str]:
        """Split a conversation at its first question: the shared prefix, and all that follows that question."""
        roles = itertools.cycle(("assistant", "user"))
        turns = [{"role": role, "content": words(text)} for role, text in zip(roles, later, strict=False)]
        return self.encoder.render_around([{"role": "user", "content": image_and(MARK)}, *turns])

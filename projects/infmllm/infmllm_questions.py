"""How InfMLLM asks: the wording of short questions, and questions about one image as a conversation."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from lumen.errors import ConfigError
from lumen.registry import TRANSFORMS

DROPPED = str.maketrans("", "", '.!"()*#:;~')
"""BLIP's question processor takes these out; a question mark stays."""


@TRANSFORMS.register_module()
class WordShortQuestions:
    """Ask for a short answer in InfMLLM's words; behind ``AskQuestions``.

    Reads and writes ``prompts``: those of ``task`` become ``Question:what is it? Short answer:``, in lower case,
    without most punctuation, with so many words at most.

    Args:
        task: Prompts of this task are changed, the others stay.
        max_words: Words of a question that are kept.
        form: The wording; ``{question}`` stands for the question.

    Raises:
        ConfigError: ``form`` has no place for the question, or no word would be kept.

    Source:
        The evaluation code of InfMLLM (2023), and the question processor of BLIP that it uses.
    """

    def __init__(
        self, *, task: str = "vqa", max_words: int = 50, form: str = "Question:{question} Short answer:"
    ) -> None:
        if "{question}" not in form or max_words < 1:
            raise ConfigError(f"form must hold {{question}} and max_words be at least 1, got {form!r} and {max_words}")
        self.task = task
        self.max_words = max_words
        self.form = form

    def __call__(self, results: dict[str, Any]) -> dict[str, Any]:
        """Change the questions."""
        results["prompts"] = tuple(
            replace(prompt, text=self.form.replace("{question}", self._clean(prompt.text)))
            if prompt.task == self.task
            else prompt
            for prompt in results["prompts"]
        )
        return results

    def _clean(self, question: str) -> str:
        return " ".join(question.lower().translate(DROPPED).split()[: self.max_words])


@TRANSFORMS.register_module()
class ChainQuestions:
    """Make one conversation of the questions about an image: each is asked behind all turns before it.

    Reads and writes the questions of a record, before ``AskQuestions``. It stands in for conversations where a data set
    has single questions only, such as shapes.

    Args:
        max_turns: Turns of the conversation; the others are left out.
        key: Key of the questions in the record.

    Raises:
        ConfigError: ``max_turns`` is below 1.
    """

    def __init__(self, *, max_turns: int = 4, key: str = "questions") -> None:
        if max_turns < 1:
            raise ConfigError(f"max_turns must be at least 1, got {max_turns}")
        self.max_turns = max_turns
        self.key = key

    def __call__(self, results: dict[str, Any]) -> dict[str, Any]:
        """Chain the questions, in their order."""
        turns: list[tuple[str, str]] = []
        chained: list[Mapping[str, Any]] = []
        for entry in _with_answers(results[self.key])[: self.max_turns]:
            chained.append({**entry, "history": tuple(turns)})
            turns.append((entry["question"], entry["answers"][0]))
        results[self.key] = tuple(chained)
        return results


def _with_answers(questions: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    return [entry for entry in questions if entry["answers"]]

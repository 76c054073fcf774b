"""All wording of Lumen's own: templates, task descriptions, answers and special tokens.

The words in which an LMM was taught by its makers to be asked for boxes are in ``lumen.lmm.dialects``.

A templated prompt has a *prefix*, which is the same for every phrase of an image, and a *suffix*, which starts with the
phrase. Only the suffix is computed once per phrase.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from string import Formatter
from typing import Any

from lumen.errors import PromptError

LOC_TOKEN = "[LOC]"
MAX_PHRASE_CHARACTERS = 512
MAX_TEXT_CHARACTERS = 8192
_WORDS = "{words}"
_PLACES = ("format", "routing", "words")


@dataclass(frozen=True, slots=True)
class TaskWording:
    """How one task is asked for and answered.

    Args:
        name: Task name, as in ``Prompt.task``.
        answer_format: What the instruction asks for, such as ``boxes``.
        routing_token: Special token that ends the answer and names the pathway; tasks may share one.
        is_text: Whether the answer is free text: no ``[LOC]``, no routing token, no pair.
        instruction: What a text task asks where the prompt's own text is empty.
        has_places: Whether places are read from the text. Its prompts are phrases, asked in the words of the LMM's
            dialect.

    Raises:
        PromptError: If a location task lacks its routing token or format, or a text task has one.
    """

    name: str
    answer_format: str = ""
    routing_token: str = ""
    is_text: bool = False
    instruction: str = ""
    has_places: bool = False

    def __post_init__(self) -> None:
        if self.is_text == bool(self.routing_token) or self.is_text == bool(self.answer_format):
            raise PromptError(
                f"task {self.name!r}: a location task needs answer_format and routing_token, a text task has neither; "
                f"got {self.answer_format!r}, {self.routing_token!r} with is_text={self.is_text}"
            )
        if self.has_places and not self.is_text:
            raise PromptError(f"task {self.name!r}: places are read from text, so has_places needs is_text")


PAPER_TASKS = (
    TaskWording("detection", "boxes", "[DET]"),
    TaskWording("segmentation", "masks", "[SEG]"),
    TaskWording("pose", "points", "[POINT]"),
    TaskWording("grounding", "boxes", "[GROUND]"),
    TaskWording("referring_segmentation", "masks", "[REFSEG]"),
)
"""The paper's tasks. Which token belongs to which task is inferred: the paper shows only ``[DET]``."""

FURTHER_TASKS = (
    TaskWording("semantic_segmentation", "regions", "[SEG]"),
    TaskWording("counting", "numbers", "[DET]"),
)
"""Location tasks besides the paper's. They share its tokens, so that the vocabulary, and with it every checkpoint, is
unchanged; the decoder is picked by the prompt's task, never by the token."""

TEXT_TASKS = (
    TaskWording("vqa", is_text=True),
    TaskWording("caption", is_text=True, instruction="Describe this picture."),
    TaskWording("chat", is_text=True),
    TaskWording("written_boxes", is_text=True, has_places=True),
)
"""Tasks that the LMM answers as text."""

KNOWN_TASKS = (*PAPER_TASKS, *FURTHER_TASKS, *TEXT_TASKS)


@dataclass(frozen=True, slots=True)
class Template:
    """The parts of a prompt around the phrase, and the slots among its tokens: those whose states are read.

    Args:
        name: Name in configs and checkpoints.
        before: User text between the image and the phrase. Where it is empty, a prompt reads as a question in words.
        after: User text after the phrase; may hold ``{format}``.
        answer: The assistant's text; may hold ``{routing}`` and, behind the last slot, ``{words}``, which stands for
            ``Prompt.answer``: the answer of a prompt without one is cut there, and nothing is learned behind it. Empty
            when the slots end the user text.
        slots: Special tokens whose states are read, each once in the answer, or in ``after`` where there is no answer.
            The state of the first one is ``LocFeatures.query``.
        tokens: Further special tokens, which ``answer`` and its words may hold.

    Raises:
        PromptError: If a part has an unknown place, a slot does not stand exactly once, or words stand before a slot.
    """

    name: str
    before: str
    after: str
    answer: str
    slots: Sequence[str] = (LOC_TOKEN,)
    tokens: Sequence[str] = ()

    def __post_init__(self) -> None:
        for part in (self.name, self.before, self.after, self.answer):
            if not isinstance(part, str):
                raise PromptError(f"template {self.name!r}: its parts must be texts, got {part!r}")
        for words in (self.slots, self.tokens):
            if isinstance(words, str) or not all(isinstance(word, str) and word for word in words):
                raise PromptError(f"template {self.name!r}: slots and tokens must be lists of texts, got {words!r}")
        object.__setattr__(self, "slots", tuple(self.slots))
        object.__setattr__(self, "tokens", tuple(self.tokens))
        text = self.answer or self.after
        for part, known in ((self.before, ()), (self.after, _PLACES[:1]), (self.answer, _PLACES[1:])):
            unknown = sorted(set(places_in(part)) - set(known))
            if unknown:
                raise PromptError(f"template {self.name!r}: {part!r} may hold the places {known}, got {unknown}")
        if not self.slots or any(text.count(slot) != 1 for slot in self.slots) or set(self.slots) & set(self.tokens):
            raise PromptError(
                f"template {self.name!r}: each of the slots {self.slots} must stand once in {text!r} and not be among "
                f"the tokens {self.tokens}"
            )
        if text.count(_WORDS) > 1 or any(_WORDS in text[: text.index(slot)] for slot in self.slots):
            raise PromptError(f"template {self.name!r}: {_WORDS} stands once, behind the last slot, got {text!r}")

    @property
    def has_answer(self) -> bool:
        """Whether location pairs have an answer that the LMM is trained to give."""
        return bool(self.answer)

    @property
    def lead(self) -> str:
        """What parts the phrase from the text before it."""
        return " " if self.before else ""

    @property
    def has_words(self) -> bool:
        """Whether the answer goes on behind the last slot with words of each prompt's own."""
        return _WORDS in self.answer

    @property
    def joint(self) -> str:
        """The text between the last slot and the words."""
        text = self.answer.partition(_WORDS)[0]
        return text[max(text.rfind(slot) + len(slot) for slot in self.slots) :]

    @property
    def names_task(self) -> bool:
        """Whether the answer holds the routing token of its task."""
        return "{routing}" in self.answer

    def answer_with(self, routing: str, words: str) -> str:
        """Return the answer; up to the last word before ``{words}`` where there are none."""
        answer = self.answer if words else self.answer.partition(_WORDS)[0].rstrip()
        return answer.format(routing=routing, words=words)


def places_in(part: str) -> list[str]:
    """Return the names in single braces, in order.

    Raises:
        PromptError: It is not a text, its braces are not in pairs, or a place has a format, whose width could fill the
            memory.
    """
    try:
        places = [place for place in Formatter().parse(part) if place[1] is not None]
    except (TypeError, ValueError) as error:
        raise PromptError(f"{part!r} is not a text with places in single braces: {error}") from error
    if any(form or conversion for _, _, form, conversion in places):
        raise PromptError(f"the places of {part!r} are names alone, without a format behind ':' or '!'")
    return [name for _, name, _, _ in places]


TEMPLATES = {
    "paper": Template(
        "paper",
        before="Please find the location of",
        after=". Respond with {format}.",
        answer="Sure, the location is [LOC]. The task output is {routing}.",
    ),
    "compact": Template("compact", before="Find", after=LOC_TOKEN, answer=""),
}
"""``paper`` keeps the paper's structure; ``compact`` moves all shared wording into the prefix, so that a suffix is the
phrase and ``[LOC]``; it has no answer, hence no text loss on location pairs."""


class Wordings:
    """The tasks that a model knows, by name.

    Args:
        tasks: Wording of each task. All that Lumen knows when left out; plug-ins add theirs.

    Raises:
        PromptError: If two tasks share a name.
    """

    def __init__(self, tasks: Iterable[TaskWording] = KNOWN_TASKS) -> None:
        tasks = tuple(tasks)
        self._tasks = {task.name: task for task in tasks}
        if len(self._tasks) != len(tasks):
            raise PromptError(f"each task is worded once, got {[task.name for task in tasks]}")

    def __getitem__(self, task: str) -> TaskWording:
        if task not in self._tasks:
            raise PromptError(f"unknown task {task!r}; known tasks are {sorted(self._tasks)}. Add a TaskWording for it")
        return self._tasks[task]

    def __iter__(self) -> Iterator[TaskWording]:
        return iter(self._tasks.values())

    def with_task(self, task: TaskWording) -> "Wordings":
        """Return these tasks and one more, which needs no new special token.

        Raises:
            PromptError: If its name is taken by another wording, or its routing token is none of these tasks'.
        """
        known = self._tasks.get(task.name)
        if known not in (None, task):
            raise PromptError(f"task {task.name!r} is known as {known}, which differs from {task}")
        if not task.is_text and task.routing_token not in self.special_tokens:
            raise PromptError(
                f"task {task.name!r} ends in {task.routing_token!r}, which this model never learned; it has "
                f"{self.special_tokens}"
            )
        return self if known else Wordings((*self, task))

    @property
    def special_tokens(self) -> list[str]:
        """``[LOC]`` and the routing tokens, each once, in a fixed order."""
        routing = (task.routing_token for task in self._tasks.values() if not task.is_text)
        return list(dict.fromkeys([LOC_TOKEN, *routing]))

    def suffix(self, template: Template, phrase: str, task: str, words: str = "") -> tuple[str, str]:
        """Return what follows the prefix for one phrase: the user's part, and the assistant's answer.

        Args:
            template: What stands around the phrase.
            phrase: The phrase.
            task: Its task.
            words: What the answer says behind the last slot, where the template has a place for it.

        Raises:
            PromptError: If the phrase is empty, too long, or holds a special token, or if the task is unknown or
                answered in text.
        """
        wording = self[task]
        if wording.is_text:
            raise PromptError(f"task {task!r} is answered in text and has no {LOC_TOKEN}; ask it as a question")
        special = (*self.special_tokens, *template.slots, *template.tokens)
        user = template.lead + check_phrase(phrase, special) + template.after.format(format=wording.answer_format)
        return user, template.answer_with(wording.routing_token, words)


def check_phrase(phrase: str, special_tokens: Iterable[str]) -> str:
    """Return the phrase without surrounding white space.

    Raises:
        PromptError: If it is not a text, empty, longer than 512 characters, or holds a special token.
    """
    if not isinstance(phrase, str) or not phrase.strip():
        raise PromptError(f"a prompt must be a text that is not empty, got {phrase!r}")
    if len(phrase) > MAX_PHRASE_CHARACTERS:
        raise PromptError(f"a prompt has at most {MAX_PHRASE_CHARACTERS} characters, got {len(phrase)}: shorten it")
    _check_characters(phrase, "a prompt")
    found = [token for token in special_tokens if token in phrase]
    if found:
        raise PromptError(f"a prompt must not hold special tokens, got {found} in {phrase!r}")
    return phrase.strip()


def check_text(text: str, what: str) -> str:
    """Return a question or an answer without surrounding white space.

    Raises:
        PromptError: If it is not a text, empty, or longer than 8192 characters.
    """
    if not isinstance(text, str) or not text.strip():
        raise PromptError(f"{what} must be a text that is not empty, got {text!r}")
    if len(text) > MAX_TEXT_CHARACTERS:
        raise PromptError(f"{what} has at most {MAX_TEXT_CHARACTERS} characters, got {len(text)}: shorten it")
    _check_characters(text, what)
    return text.strip()


def has_whole_characters(text: str) -> bool:
    """Return whether a text holds no half of a surrogate pair, which json can hold and no tokenizer can read."""
    return not any("\ud800" <= letter <= "\udfff" for letter in text)


def _check_characters(text: str, what: str) -> None:
    """Raise PromptError for half of a surrogate pair."""
    if not has_whole_characters(text):
        raise PromptError(f"{what} must be a text of whole characters, got half of a surrogate pair in {text!r}")


def read_template(given: str | Template | Mapping[str, Any]) -> Template:
    """Return a template, given as one, by its name in ``TEMPLATES``, or as a dict of its fields.

    Raises:
        PromptError: If there is none of that name, or a field is unknown, missing or not accepted.
    """
    if isinstance(given, Template):
        return given
    if isinstance(given, str):
        if given not in TEMPLATES:
            raise PromptError(f"unknown template {given!r}; choose one of {sorted(TEMPLATES)}, or give its parts")
        return TEMPLATES[given]
    known = [field.name for field in fields(Template)]
    if not set(known[:4]) <= set(given) <= set(known):
        raise PromptError(f"a template has the parts {known}, the last two may be left out; got {sorted(given)}")
    return Template(**given)

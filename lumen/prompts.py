"""All wording of Lumen's own: templates, task descriptions, answers and special tokens.

The words in which an LMM was taught by its makers to be asked for boxes are in ``lumen.lmm.dialects``.

A templated prompt has a *prefix*, which is the same for every phrase of an image, and a *suffix*, which starts with the
phrase. Only the suffix is computed once per phrase.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from lumen.errors import PromptError

LOC_TOKEN = "[LOC]"
MAX_PHRASE_CHARACTERS = 512
MAX_TEXT_CHARACTERS = 8192


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
    """The parts of a prompt around the phrase.

    Args:
        name: Name in configs and checkpoints.
        before: User text between the image and the phrase.
        after: User text after the phrase; may hold ``{format}``.
        answer: The assistant's text; holds ``[LOC]``, may hold ``{routing}``. Empty when ``[LOC]`` ends the user text.
    """

    name: str
    before: str
    after: str
    answer: str

    @property
    def has_answer(self) -> bool:
        """Whether location pairs have an answer that the LMM is trained to give."""
        return bool(self.answer)


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

    def suffix(self, template: Template, phrase: str, task: str) -> tuple[str, str]:
        """Return what follows the prefix for one phrase: the user's part, and the assistant's answer.

        Raises:
            PromptError: If the phrase is empty, too long, or holds a special token, or if the task is unknown or
                answered in text.
        """
        wording = self[task]
        if wording.is_text:
            raise PromptError(f"task {task!r} is answered in text and has no {LOC_TOKEN}; ask it as a question")
        user = " " + check_phrase(phrase, self.special_tokens) + template.after.format(format=wording.answer_format)
        return user, template.answer.format(routing=wording.routing_token)


def check_phrase(phrase: str, special_tokens: Iterable[str]) -> str:
    """Return the phrase without surrounding white space.

    Raises:
        PromptError: If it is not a text, empty, longer than 512 characters, or holds a special token.
    """
    if not isinstance(phrase, str) or not phrase.strip():
        raise PromptError(f"a prompt must be a text that is not empty, got {phrase!r}")
    if len(phrase) > MAX_PHRASE_CHARACTERS:
        raise PromptError(f"a prompt has at most {MAX_PHRASE_CHARACTERS} characters, got {len(phrase)}: shorten it")
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
    return text.strip()


def template_named(name: str) -> Template:
    """Return one of the two templates.

    Raises:
        PromptError: If there is none of that name.
    """
    if name not in TEMPLATES:
        raise PromptError(f"unknown template {name!r}; choose one of {sorted(TEMPLATES)}")
    return TEMPLATES[name]

"""All wording: templates, task descriptions, answers and special tokens. Nothing else in Lumen spells a prompt.

A templated prompt has a *prefix*, which is the same for every phrase of an image, and a *suffix*, which starts with the
phrase. Only the suffix is computed once per phrase.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from lumen.errors import PromptError

LOC_TOKEN = "[LOC]"
MAX_PHRASE_CHARACTERS = 512


@dataclass(frozen=True, slots=True)
class TaskWording:
    """How one task is asked for and answered.

    Args:
        name: Task name, as in ``Prompt.task``.
        answer_format: What the instruction asks for, such as ``boxes``.
        routing_token: Special token that ends the answer and names the pathway.
    """

    name: str
    answer_format: str
    routing_token: str


PAPER_TASKS = (
    TaskWording("detection", "boxes", "[DET]"),
    TaskWording("segmentation", "masks", "[SEG]"),
    TaskWording("pose", "points", "[POINT]"),
    TaskWording("grounding", "boxes", "[GROUND]"),
    TaskWording("referring_segmentation", "masks", "[REFSEG]"),
)
"""The paper's tasks. Which token belongs to which task is inferred: the paper shows only ``[DET]``."""


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
        tasks: Wording of each task. The paper's set when left out; plug-ins add theirs.

    Raises:
        PromptError: If two tasks share a name.
    """

    def __init__(self, tasks: Iterable[TaskWording] = PAPER_TASKS) -> None:
        tasks = tuple(tasks)
        self._tasks = {task.name: task for task in tasks}
        if len(self._tasks) != len(tasks):
            raise PromptError(f"each task is worded once, got {[task.name for task in tasks]}")

    def __getitem__(self, task: str) -> TaskWording:
        if task not in self._tasks:
            raise PromptError(f"unknown task {task!r}; known tasks are {sorted(self._tasks)}. Add a TaskWording for it")
        return self._tasks[task]

    @property
    def special_tokens(self) -> list[str]:
        """``[LOC]`` and the routing tokens, each once, in a fixed order."""
        return list(dict.fromkeys([LOC_TOKEN, *(task.routing_token for task in self._tasks.values())]))

    def suffix(self, template: Template, phrase: str, task: str) -> tuple[str, str]:
        """Return what follows the prefix for one phrase: the user's part, and the assistant's answer.

        Raises:
            PromptError: If the phrase is empty, too long, or holds a special token, or if the task is unknown.
        """
        wording = self[task]
        user = " " + check_phrase(phrase, self.special_tokens) + template.after.format(format=wording.answer_format)
        return user, template.answer.format(routing=wording.routing_token)


def check_phrase(phrase: str, special_tokens: Iterable[str]) -> str:
    """Return the phrase without surrounding white space.

    Raises:
        PromptError: If it is no text, empty, longer than 512 characters, or holds a special token.
    """
    if not isinstance(phrase, str) or not phrase.strip():
        raise PromptError(f"a prompt must be a text that is not empty, got {phrase!r}")
    if len(phrase) > MAX_PHRASE_CHARACTERS:
        raise PromptError(f"a prompt has at most {MAX_PHRASE_CHARACTERS} characters, got {len(phrase)}: shorten it")
    found = [token for token in special_tokens if token in phrase]
    if found:
        raise PromptError(f"a prompt must not hold special tokens, got {found} in {phrase!r}")
    return phrase.strip()


def template_named(name: str) -> Template:
    """Return one of the two templates.

    Raises:
        PromptError: If there is none of that name.
    """
    if name not in TEMPLATES:
        raise PromptError(f"unknown template {name!r}; choose one of {sorted(TEMPLATES)}")
    return TEMPLATES[name]

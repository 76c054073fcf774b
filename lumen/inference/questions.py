"""Questions: phrases of one task, asked once per wording, and their answers as a table with rows per phrase."""

import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from numbers import Real

import torch
from jaxtyping import Int
from mmengine.structures import InstanceData
from torch import Tensor

from lumen.errors import ConfigError, PromptError
from lumen.model import Lumen
from lumen.ops.geometry import InputTransform
from lumen.structures import PerceptionSample, Prompt

DEFAULT_THRESHOLD = 0.3
_THRESHOLDS = {"grounding": 0.0, "referring_segmentation": 0.0, "written_boxes": 0.0}
_ASKS_NOTHING = frozenset({"caption"})
_UNFILTERED = frozenset({"counting"})
PHRASE_BY_PHRASE = frozenset({"grounding", "referring_segmentation", "semantic_segmentation", "counting"})


@dataclass(frozen=True, slots=True)
class Question:
    """Phrases of one task; each wording is asked once, however often it is named.

    Args:
        task: Task of the decoder that answers.
        phrases: As the caller named them.
        prompts: One per wording.
        unique_of: Prompt of each phrase.
    """

    task: str
    phrases: tuple[str, ...]
    prompts: tuple[Prompt, ...]
    unique_of: Int[Tensor, " phrases"]

    @classmethod
    def of(cls, phrases: Sequence[str], task: str) -> "Question":
        """Return the question for phrases, sentences or questions in words.

        Raises:
            PromptError: They are not a list of texts.
        """
        if isinstance(phrases, str):
            raise PromptError(f"phrases must be a list of texts, got the text {phrases!r}; write [{phrases!r}]")
        if not isinstance(phrases, Iterable):
            raise PromptError(f"phrases must be a list of texts, got {phrases!r}")
        phrases = tuple(phrases)
        for phrase in phrases:
            _require_text(phrase)
        position = {phrase: index for index, phrase in enumerate(dict.fromkeys(phrases))}
        prompts = tuple(Prompt(text=phrase, task=task) for phrase in position)
        unique_of = torch.tensor([position[phrase] for phrase in phrases], dtype=torch.long)
        return cls(task, phrases, prompts, unique_of)

    @classmethod
    def turn(cls, history: Sequence[Sequence[str]], question: str) -> "Question":
        """Return the next question of a conversation, of which ``history`` holds the (question, answer) so far.

        Raises:
            PromptError: The history holds something else than pairs of texts, or the question is not a text.
        """
        _require_text(question)
        if isinstance(history, str) or not isinstance(history, Sequence):
            raise PromptError(f"a history is a list of pairs of texts (question, answer), got {history!r}")
        for turn in history:
            is_pair = isinstance(turn, Sequence) and not isinstance(turn, str) and len(turn) == 2
            if not is_pair or not all(isinstance(text, str) for text in turn):
                raise PromptError(f"a history holds pairs of texts (question, answer), got {turn!r}")
        earlier = tuple((asked, answered) for asked, answered in history)
        prompt = Prompt(text=question, task="chat", history=earlier)
        return cls("chat", (question,), (prompt,), torch.zeros(1, dtype=torch.long))

    def sample(self, frame: InputTransform) -> PerceptionSample:
        """Return a sample that asks this question about an image."""
        return PerceptionSample(
            metainfo={"prompts": self.prompts, "frame": frame, "ori_shape": frame.ori_hw, "img_shape": frame.input_hw}
        )

    def table(self, answer: InstanceData, score_threshold: float | int | None) -> InstanceData:
        """Turn rows per wording into rows per phrase.

        Rows of tasks that find any number of objects come best first, over all phrases; of the others, phrase by
        phrase. Rows keep their order where scores are equal.

        Args:
            answer: What a decoder wrote; it holds ``prompt_index``.
            score_threshold: Lowest score of a row; None for the task's own, which is 0 for sentences, whose decoder
                decides what has no target, and 0.3 otherwise. Counts and texts are never left out.
        """
        is_asked = self.unique_of[:, None] == answer.prompt_index
        if "scores" in answer and self.task not in _UNFILTERED:
            lowest = _THRESHOLDS.get(self.task, DEFAULT_THRESHOLD) if score_threshold is None else score_threshold
            is_asked = is_asked & (answer.scores >= float(lowest))
        phrase, row = is_asked.nonzero(as_tuple=True)
        if "scores" in answer and self.task not in PHRASE_BY_PHRASE:
            order = answer.scores[row].argsort(descending=True, stable=True)
            phrase, row = phrase[order], row[order]
        kept = answer[row]
        table = InstanceData(**{key: value for key, value in kept.items() if key not in ("prompt_index", "labels")})
        table.labels = phrase
        table.phrases = [self.phrases[index] for index in phrase.tolist()]
        return table


def question_about(model: Lumen, phrases: Sequence[str] | None, task: str, classes: Sequence[str] | None) -> Question:
    """Return a question that the model can answer.

    Args:
        model: The model.
        phrases: What to ask for; None for ``classes``, or for nothing where the task is ``caption``.
        task: Task of the decoder that answers.
        classes: Phrases where none are given.

    Raises:
        PromptError: The phrases are not texts, there are none, or no decoder answers phrases of the task.
    """
    require_task(model, task)
    if "prompt_index" not in model.decoders[task].spec.predictions:
        raise PromptError(f"task {task!r} asks about objects one at a time: use pose(category, keypoints)")
    if phrases is None and task in _ASKS_NOTHING:
        return Question.of([""], task)
    if phrases is None and classes is None:
        raise PromptError("name the phrases to ask for, or give the predictor classes")
    return Question.of(classes if phrases is None else phrases, task)


def require_task(model: Lumen, task: str) -> None:
    """Raise PromptError unless the model has a decoder for a task."""
    if not isinstance(task, str) or task not in model.decoders:
        raise PromptError(f"no decoder for task {task!r}; this model has {list(model.decoders)}")


def require_threshold(score_threshold: float | int | None) -> None:
    """Raise ConfigError unless a threshold is a finite number, or None; NaN would leave out every row."""
    is_number = isinstance(score_threshold, Real) and not isinstance(score_threshold, bool)
    # A comparison with the bounds: an integer may be too large for `math.isfinite`.
    is_finite = is_number and -sys.float_info.max <= score_threshold <= sys.float_info.max
    if score_threshold is not None and not is_finite:
        raise ConfigError(f"score_threshold must be a finite number or None, got {score_threshold!r}")


def _require_text(phrase: object) -> None:
    if not isinstance(phrase, str):
        raise PromptError(f"a prompt must be a text that is not empty, got {phrase!r}")

"""Conversations in which the LMM answers freely, and points at objects where it likes to."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from mmengine.structures import InstanceData

from lumen.errors import ConfigError
from lumen.inference.questions import Question, require_task
from lumen.model import Lumen
from lumen.structures import Prompt


@dataclass(frozen=True, slots=True)
class Reply:
    """What a model answers to a turn of a conversation.

    Args:
        text: The answer. Where it points at objects, it holds the tokens by which it does.
        tables: What it points at: for each task that a token led to, a table as ``AskedImage.predict`` returns it.
            ``labels`` number the places of the answer that lead to this task, ``phrases`` repeat the question.
        history: The conversation so far with this turn, for the next one. An empty answer is left out.
        num_unpaired: Slots in the answer that give nothing, since another slot of the template is missing.
    """

    text: str
    tables: dict[str, InstanceData]
    history: tuple[tuple[str, str], ...]
    num_unpaired: int


def routes_of(model: Lumen, slot_routes: Mapping[str, str] | None) -> dict[str, str]:
    """Return the task of each token by which an answer points.

    Args:
        model: The model.
        slot_routes: Task by token. When left out, each task has the token that its wording names, or the first slot
            where the template names no task; of tasks with one token, the first decoder of the model gets it.

    Raises:
        ConfigError: A token is unknown, or a task is answered in words or asks about objects one at a time.
        PromptError: The model has no decoder for a task.
    """
    encoder = model.lmm.encoder
    if slot_routes is None:
        routes: dict[str, str] = {}
        for task in filter(lambda task: _points(model, task), model.decoders):
            names_task = encoder.template.names_task
            routes.setdefault(encoder.wordings[task].routing_token if names_task else encoder.template.slots[0], task)
        return routes
    known = list(
        dict.fromkeys([*encoder.template.slots, *(encoder.routing_ids if encoder.template.names_task else ())])
    )
    for token, task in slot_routes.items():
        if token not in known:
            raise ConfigError(f"slot_routes names the token {token!r}; answers of this model point by {known}")
        require_task(model, task)
        if not _points(model, task):
            raise ConfigError(
                f"slot_routes leads {token!r} to {task!r}, whose decoder does not answer places of a text"
            )
    return dict(slot_routes)


def repeated(text: str, task: str, count: int) -> Question:
    """Return the question of the pairs of one answer, which all have the text of the turn."""
    return Question(task, (text,) * count, (Prompt(text, task),) * count, torch.arange(count))


def _points(model: Lumen, task: str) -> bool:
    return task not in model.text_tasks and "prompt_index" in model.decoders[task].spec.predictions

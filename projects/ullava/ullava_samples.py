"""What u-LLaVA is asked and what it learns to answer: questions of a pool, and words that name what is shown."""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lumen.data.refer import AskSentences
from lumen.data.transforms import AskClasses
from lumen.errors import ConfigError
from lumen.ops.masks import merge_masks
from lumen.registry import TRANSFORMS
from lumen.structures import NO_LABEL, Prompt

TASK = "ullava"
POOLS = json.loads(Path(__file__).with_name("ullava_questions.json").read_text(encoding="utf-8"))
_TAG = re.compile(r"\[tag\](.*?)\[/tag\]", re.DOTALL)
_ARTICLE = re.compile(r"^\s*(the|an?)\s+", re.IGNORECASE)


def parse_tag(words: str) -> str | None:
    """Return the name between the first pair of tags, in small letters; None where there is none."""
    found = _TAG.search(words)
    return None if found is None else found[1].strip().lower() or None


def tag_words(name: str, reason: str = "") -> str:
    """Return the words behind the slots that name what is shown and, where it is given, say why."""
    explanation = f" Explanation: {reason.strip().lower()}" if reason.strip() else ""
    return f"[tag]{name.strip().lower()}[/tag].{explanation}"


class QuestionPool:
    """Questions with a place for a name: in training one at random, in evaluation always the same.

    The questions have an article before the name, so that of a sentence, as in "the lowest circle", is left out.

    Args:
        name: Which of ``ullava_questions.json``.
        training: Whether to draw.

    Raises:
        ConfigError: There is no such pool.
    """

    def __init__(self, name: str, *, training: bool) -> None:
        if name not in POOLS:
            raise ConfigError(f"there is no pool {name!r} of questions; known are {sorted(POOLS)}")
        self._questions = POOLS[name]["training"] if training else [POOLS[name]["evaluation"]]

    def ask(self, name: str, words: str, label: int = NO_LABEL) -> Prompt:
        """Return the prompt for a name or sentence."""
        question = self._questions[np.random.randint(len(self._questions)) if len(self._questions) > 1 else 0]
        return Prompt(question.format(name=_ARTICLE.sub("", name)), TASK, label=label, answer=words)


@TRANSFORMS.register_module()
class AskReferring:
    """Ask sentences that mean one object each; the words to learn name its class.

    Reads and writes what ``AskSentences`` does.

    Args:
        num_prompts: Sentences at most; None asks all, for evaluation.
        pool: Questions in which the sentences stand.
        shuffle: Draw sentences and questions; otherwise in the order of the file, with the question of evaluation.
        exchange_sides: As in ``AskSentences``.
    """

    def __init__(
        self,
        *,
        num_prompts: int | None = 3,
        pool: str = "referring",
        shuffle: bool = True,
        exchange_sides: bool = False,
    ) -> None:
        self._pool = QuestionPool(pool, training=shuffle)
        self._ask = AskSentences(
            num_prompts=num_prompts,
            task="referring_segmentation",
            no_target=False,
            shuffle=shuffle,
            exchange_sides=exchange_sides,
        )

    def __call__(self, results: dict[str, Any]) -> dict[str, Any]:
        """Add prompts and targets."""
        instances, others = results["instances"], len(results.get("prompts", ()))
        single = [ref for ref in results["refs"] if len(ref["ann_ids"]) == 1]
        label_of = dict(zip(instances["ann_ids"].tolist(), instances["labels"].tolist(), strict=True))
        target_of = {ref["ref_id"]: int(ref["ann_ids"][0]) for ref in single}
        asked = self._ask({**results, "refs": single})
        added = zip(asked["prompts"][others:], asked["ref_ids"][others:], strict=True)
        worded = [
            self._pool.ask(prompt.text, tag_words(results["classes"][label_of[target_of[ref_id]]]))
            for prompt, ref_id in added
        ]
        return {**asked, "prompts": (*asked["prompts"][:others], *worded), "refs": results["refs"]}


@TRANSFORMS.register_module()
class AskNames:
    """Ask the names of present classes; the answer is all that shows the class, as one mask.

    Reads and writes what ``AskClasses`` does and, behind ``UniteMasks``, ``target_rles``.

    Args:
        num_prompts: Classes at most.
        pool: Questions in which the names stand.
        shuffle: Draw classes and questions; otherwise in order, with the question of evaluation.
    """

    def __init__(self, *, num_prompts: int = 3, pool: str = "referring", shuffle: bool = True) -> None:
        self._pool = QuestionPool(pool, training=shuffle)
        self._ask = AskClasses(num_prompts=num_prompts, task=TASK, shuffle=shuffle, max_absent=0)

    def __call__(self, results: dict[str, Any]) -> dict[str, Any]:
        """Add prompts and targets."""
        asked = self._ask(results)
        asked["prompts"] = tuple(
            self._pool.ask(prompt.text, tag_words(prompt.text), prompt.label) for prompt in asked["prompts"]
        )
        if "class_rles" in results:
            asked["target_rles"] = tuple(results["class_rles"].get(prompt.label) for prompt in asked["prompts"])
        return asked


@TRANSFORMS.register_module()
class UniteMasks:
    """Note the union of all masks of each class in original pixels, before the image is resized.

    Reads ``instances`` with ``segmentations``; writes ``class_rles``, by label.
    """

    def __call__(self, results: dict[str, Any]) -> dict[str, Any]:
        """Add the unions."""
        instances = results["instances"]
        codes_of: dict[int, list] = {}
        for label, code in zip(instances["labels"].tolist(), instances["segmentations"], strict=True):
            codes_of.setdefault(label, []).append(code)
        results["class_rles"] = {label: merge_masks(codes) for label, codes in codes_of.items()}
        return results


@TRANSFORMS.register_module()
class AskSalient:
    """Ask for the object that stands out; the words to learn name it and say why.

    Reads ``instances`` (one row), ``tag``, ``reason``, ``target_rle``; writes ``prompts``, ``gt_instances``,
    ``ignored_instances`` and ``target_rles``.

    Args:
        pool: Questions.
        shuffle: Draw the question; otherwise that of evaluation.
    """

    def __init__(self, *, pool: str = "salient", shuffle: bool = True) -> None:
        self._pool = QuestionPool(pool, training=shuffle)

    def __call__(self, results: dict[str, Any]) -> dict[str, Any]:
        """Add the prompt and its target; none where the object has left the view."""
        instances = results["instances"]
        is_shown = len(instances["ann_ids"]) == 1 and not bool(instances["is_ignored"][0])
        prompts = [self._pool.ask("", tag_words(results["tag"], results["reason"]))] if is_shown else []
        results["prompts"] = tuple(prompts)
        results["gt_instances"] = _rows(instances, prompts)
        results["ignored_instances"] = _rows(instances, ())
        results["target_rles"] = (results["target_rle"],) * len(prompts)
        return results


def _rows(instances: dict[str, Any], prompts: Sequence[Prompt]) -> dict[str, torch.Tensor]:
    count = len(prompts)
    index = torch.zeros(count, dtype=torch.long)
    labels = torch.full((count,), NO_LABEL)
    rows = {"bboxes": instances["bboxes"][:count], "labels": labels, "prompt_index": index}
    return rows | ({"masks": instances["masks"][:count]} if "masks" in instances else {})

"""Sentences that are true but for one word: hard negatives for data sets whose sentences all have a target."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from lumen.data.mirrored_text import exchange_sides
from lumen.errors import ConfigError
from lumen.registry import TRANSFORMS
from lumen.structures import NO_LABEL, Prompt


@TRANSFORMS.register_module()
class AskFalseSentences:
    """Ask, behind ``AskSentences``, sentences that it has asked with one word or relation exchanged, without a target.

    "the red cup" becomes "the blue cup", "the cup left of the plate" one right of it. That is false where nothing else
    can be meant: a sentence is changed only if its one target is the only object of its class in the view, ignored
    objects included, and if it holds exactly one of the words. A result that is one of the image's own sentences is
    left out. A word that belongs to another thing, as in "the cup beside the red plate", is not noticed: where
    sentences are like that, name relations alone.

    Reads what ``AskSentences`` reads and writes; adds to ``prompts``, and one value per prompt to ``ref_ids`` (-1),
    ``kinds`` ("exchanged") and, if there, ``target_rles`` (None).

    Args:
        exchanges: For a word or relation, such as ``red`` or ``left of``, those that exclude it for one and the same
            object. Name both directions. "leftmost" and "rightmost" do not exclude each other: an only cup is both.
        num_prompts: Number of such sentences for an image at most, drawn at random.

    Raises:
        ConfigError: A word is empty or stands for itself, there is none, or ``num_prompts`` is below 1.
    """

    def __init__(self, *, exchanges: Mapping[str, Sequence[str]], num_prompts: int = 2) -> None:
        _check(exchanges)
        self.exchanges = {word.casefold(): tuple(others) for word, others in exchanges.items()}
        if num_prompts < 1:
            raise ConfigError(f"num_prompts must be at least 1, got {num_prompts}")
        self.num_prompts = num_prompts
        # The longest first: "left of the" before "left of".
        words = sorted(map(re.escape, self.exchanges), key=len, reverse=True)
        self._pattern = re.compile(rf"\b(?:{'|'.join(words)})\b", re.IGNORECASE)

    def __call__(self, results: dict[str, Any]) -> dict[str, Any]:
        """Add prompts."""
        prompts, count = results["prompts"], len(results["prompts"])
        # All sentences of the image, as they read in this view, and what was asked.
        as_seen = exchange_sides if results["frame"].is_flipped else str
        true = {as_seen(ref["sentence"]).casefold() for ref in results["refs"]}
        true |= {prompt.text.casefold() for prompt in prompts}
        changed = [
            Prompt(text=text, task=prompts[place].task, weight=prompts[place].weight)
            for place in _with_lone_target(results)
            for text in self._false(prompts[place].text)
            if text.casefold() not in true
        ]
        changed = [*dict.fromkeys(changed)]
        drawn = tuple(changed[place] for place in np.random.permutation(len(changed))[: self.num_prompts])
        results["prompts"] = (*prompts, *drawn)
        for key, value in (("ref_ids", NO_LABEL), ("kinds", "exchanged"), ("target_rles", None)):
            if key in results:
                results[key] = (*results[key], *(value,) * (len(results["prompts"]) - count))
        return results

    def _false(self, sentence: str) -> list[str]:
        found = [*self._pattern.finditer(sentence)]
        if len(found) != 1:
            return []
        start, end = found[0].span()
        return [sentence[:start] + other + sentence[end:] for other in self.exchanges[found[0][0].casefold()]]


def _check(exchanges: Mapping[str, Sequence[str]]) -> None:
    if not exchanges:
        raise ConfigError("exchanges must name a word at least, such as {'red': ['blue', 'green']}")
    for word, others in exchanges.items():
        usable = not isinstance(others, str) and all(isinstance(other, str) and other.strip() for other in others)
        if not word.strip() or not others or not usable:
            raise ConfigError(f"exchanges[{word!r}] must be a list of words that are not empty, got {others!r}")
        if word.casefold() in map(str.casefold, others):
            raise ConfigError(f"exchanges[{word!r}] must be other words, got {others!r}")


def _with_lone_target(results: Mapping[str, Any]) -> list[int]:
    """Return the places of prompts whose one target is the only object of its class."""
    instances = results["instances"]
    targets = {ref["ref_id"]: ref["ann_ids"] for ref in results["refs"]}
    places = []
    for place, ref_id in enumerate(results["ref_ids"]):
        rows = np.isin(instances["ann_ids"], targets.get(ref_id, ()))
        if rows.sum() == 1 and (instances["labels"] == instances["labels"][rows]).sum() == 1:
            places.append(place)
    return places

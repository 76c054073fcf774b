"""Metrics of the benchmarks that InfMLLM reports: letters of multiple choice, and MME's pairs of questions."""

import itertools
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from mmengine.evaluator import BaseMetric

from lumen.errors import DataError
from lumen.metrics.text import accuracy_by_form, answered
from lumen.registry import METRICS

PERCEPTION = frozenset(
    ["existence", "count", "position", "color", "posters", "celebrity", "scene", "landmark", "artwork", "OCR"]
)
"""The subtasks of MME whose sum is its perception score, of 2,000; the others are cognition, of 800."""

_OPTION = re.compile(r"^\(?([A-Z])[).:]\s*(.+?)\s*$", re.MULTILINE)
_LETTER = re.compile(r"(?<!\w)([B-Z](?!\w)|A(?=[).:,]|\s*$))")


def choice_of(text: str, question: str) -> str | None:
    """Return the letter of the option that an answer names, None where it names none of them.

    An answer names an option by the words of the option, or by the first capital letter that stands by itself: behind
    it comes a mark or the end, or it is not "A", which may be an article.

    Args:
        text: The answer.
        question: Its question, with one option per line: ``A. a cat``.

    Raises:
        DataError: The question has no options.
    """
    options = dict(_OPTION.findall(question))
    if not options:
        raise DataError(f"a question of multiple choice has one option per line, such as 'A. a cat', got {question!r}")
    plain = text.strip().strip(".").casefold()
    by_words = [letter for letter, words in options.items() if words.strip(".").casefold() == plain]
    if by_words:
        return by_words[0]
    return next((letter for letter in _LETTER.findall(text) if letter in options), None)


@METRICS.register_module()
class ChoiceMetric(BaseMetric):
    """Accuracy of multiple choice, over all questions and per form of question, in [0, 1].

    Reads ``questions`` of a sample, whose ``answers`` are one letter each, and the generated ``texts``. An answer that
    names no option is wrong; ``unparsed`` is their share.

    Args:
        prefix: First part of the metric names.
        collect_device: ``cpu`` or ``gpu``, see MMEngine.
    """

    default_prefix = "choice"
    needs = frozenset({"texts"})

    def __init__(self, *, prefix: str | None = None, collect_device: str = "cpu") -> None:
        super().__init__(collect_device=collect_device, prefix=prefix)
        self.protocol: dict[str, Any] = {}

    def process(self, data_batch: Any, data_samples: Sequence[Mapping[str, Any]]) -> None:
        """Store the letters of each question.

        Raises:
            DataError: A sample lacks its questions, or a question its options or its answer.
        """
        for sample in data_samples:
            self.results.append(
                [
                    (asked["form"], choice_of(text, asked["question"]), asked["answers"][0])
                    for text, asked in answered(sample)
                ]
            )

    def compute_metrics(self, results: list[list[tuple[str, str | None, str]]]) -> dict[str, float]:
        """Return ``accuracy``, ``unparsed``, and ``accuracy_FORM`` for each form."""
        rows = list(itertools.chain.from_iterable(results))
        figures = accuracy_by_form([(form, float(letter == wanted)) for form, letter, wanted in rows])
        self.protocol = {"questions": len(rows), "matching": "letter or words of the option, free greedy answers"}
        return {**figures, "unparsed": fmean(letter is None for _, letter, _ in rows)}


@METRICS.register_module()
class MmeMetric(BaseMetric):
    """MME: accuracy per subtask over questions (acc) and over images, both of whose questions must be right (acc+).

    Reads ``questions`` of a sample: two of each subtask, the ``form``, with the answers Yes and No. An answer counts by
    its first four characters, as in MME's own evaluation; one that is neither yes nor no is wrong.

    Args:
        prefix: First part of the metric names.
        collect_device: ``cpu`` or ``gpu``, see MMEngine.

    Source:
        Fu et al., "MME: A Comprehensive Evaluation Benchmark for Multimodal Large Language Models" (2023), section 2.1.
    """

    default_prefix = "mme"
    needs = frozenset({"texts"})

    def __init__(self, *, prefix: str | None = None, collect_device: str = "cpu") -> None:
        super().__init__(collect_device=collect_device, prefix=prefix)
        self.protocol: dict[str, Any] = {}

    def process(self, data_batch: Any, data_samples: Sequence[Mapping[str, Any]]) -> None:
        """Store which questions of each image are right.

        Raises:
            DataError: An image does not have two questions of each of its subtasks.
        """
        for sample in data_samples:
            of_image: defaultdict[str, list[bool]] = defaultdict(list)
            for text, asked in answered(sample):
                of_image[asked["form"]].append(_first_word(text) == asked["answers"][0].casefold())
            odd = {form: len(right) for form, right in of_image.items() if len(right) != 2}
            if odd:
                raise DataError(f"image {sample.get('img_id')}: MME has two questions per image and subtask, got {odd}")
            self.results.append(dict(of_image))

    def compute_metrics(self, results: list[dict[str, list[bool]]]) -> dict[str, float]:
        """Return ``acc``, ``acc_plus`` over all, the score of each subtask, ``perception`` and ``cognition``.

        A score is 100 times the sum of both accuracies, so at most 200 per subtask.
        """
        if not results:
            raise DataError("no image was asked; evaluate a data set with questions")
        images: defaultdict[str, list[list[bool]]] = defaultdict(list)
        for of_image in results:
            for form, right in of_image.items():
                images[form].append(right)
        scores = {form: 100 * (_questions_right(pairs) + _images_right(pairs)) for form, pairs in images.items()}
        every = list(itertools.chain.from_iterable(images.values()))
        self.protocol = {"images": len(every), "subtasks": len(scores), "matching": "yes or no at the start"}
        return {
            "acc": _questions_right(every),
            "acc_plus": _images_right(every),
            **{f"score_{form}": score for form, score in sorted(scores.items())},
            "perception": sum(score for form, score in scores.items() if form in PERCEPTION),
            "cognition": sum(score for form, score in scores.items() if form not in PERCEPTION),
        }


def _first_word(text: str) -> str:
    start = text.strip().casefold()[:4]
    return "yes" if "yes" in start else "no" if "no" in start else "other"


def _questions_right(images: Sequence[Sequence[bool]]) -> float:
    return fmean(itertools.chain.from_iterable(images))


def _images_right(images: Sequence[Sequence[bool]]) -> float:
    return fmean(all(right) for right in images)

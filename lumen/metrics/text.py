"""Metrics of text answers: VQA accuracy, yes-or-no questions after POPE, CIDEr of captions."""

import importlib.util
import itertools
import logging
import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from mmengine.evaluator import BaseMetric
from mmengine.logging import print_log

from lumen.errors import ConfigError, DataError
from lumen.registry import METRICS

_CONTRACTED = """
ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't haven't he'd he'd've he's
how'd how'll how's i'd've i'm i've isn't it'd it'd've it'll ma'am mightn't mightn't've might've mustn't must've needn't
not've o'clock oughtn't shan't she'd've should've shouldn't shouldn't've somebody'd've somebody'll somebody's someone'd
someone'd've someone'll someone's something'd something'd've something'll that's there'd there'd've there're there's
they'd they'd've they'll they're they've 'twas wasn't we'd've we've weren't what'll what're what's what've when's
where'd where's where've who'd who'd've who'll who's who've why'll why're why's won't would've wouldn't wouldn't've
y'all y'all'll y'all'd've you'd you'd've you'll you're you've
""".split()  # noqa: SIM905 - a list of words reads as text
_NUMBERS = {"none": "0", "zero": "0", "one": "1", "two": "2", "three": "3", "four": "4", "five": "5", "six": "6"}
_NUMBERS |= {"seven": "7", "eight": "8", "nine": "9", "ten": "10"}
_ARTICLES = frozenset({"a", "an", "the"})
_PUNCTUATION = tuple(';/[]"{}()=+\\_-><@`,?!')
_COMMA_IN_NUMBER = re.compile(r"\d,\d")
_NO_CIDER = "CIDEr needs pycocoevalcap, which is not installed: pip install 'lumen-perception[text]'"
_OPENING = re.compile(r"^(there (is|are)|(this is )?an? (picture|image|photo|photograph) of)\b")
_LONE_PERIOD = re.compile(r"\.(?!\d)")


def _misspelt() -> dict[str, str]:
    """Return every way to leave out apostrophes of a contraction, all or all but one, with the right spelling."""
    spelt = {}
    for word in _CONTRACTED:
        marks = [index for index, letter in enumerate(word) if letter == "'"]
        for count in range(1, len(marks) + 1):
            for left_out in itertools.combinations(marks, count):
                spelt["".join(letter for index, letter in enumerate(word) if index not in left_out)] = word
    return spelt


_SPELT = _misspelt()


def normalise_answer(answer: str) -> str:
    """Return an answer as VQA compares it: lower case, digits for numbers, no articles, no punctuation.

    Source:
        The evaluation of VQA v2 (Antol et al., 2015; Goyal et al., 2017), as published with the data set.
    """
    text = " ".join(answer.split())
    cleaned, has_comma_number = text, _COMMA_IN_NUMBER.search(text) is not None
    # The published rule: a mark that stands beside a space somewhere is removed everywhere, others become spaces.
    for mark in _PUNCTUATION:
        is_dropped = f"{mark} " in text or f" {mark}" in text or has_comma_number
        cleaned = cleaned.replace(mark, "" if is_dropped else " ")
    words = _LONE_PERIOD.sub("", cleaned).lower().split()
    words = [_NUMBERS.get(word, word) for word in words]
    return " ".join(_SPELT.get(word, word) for word in words if word not in _ARTICLES)


def vqa_accuracy(answer: str, references: Sequence[str]) -> float:
    """Return the share of credit of one answer.

    With several references: an answer is right when three people gave it, min(n / 3, 1), averaged over leaving each
    person out. With a single one: whether it is the same. References are normalised like the answer; the published
    evaluation spares those on which all ten people agree.
    """
    normalised = normalise_answer(answer)
    agrees = [normalise_answer(reference) == normalised for reference in references]
    if len(agrees) == 1:
        return float(agrees[0])
    total = sum(agrees)
    # Without the person at hand, `total - person` others gave the answer.
    return sum(min((total - person) / 3, 1.0) for person in agrees) / len(agrees)


def yes_or_no(answer: str) -> bool:
    """Return whether an answer means yes: its first sentence holds neither "no" nor "not".

    Source:
        The evaluation of POPE (Li et al., 2023), as published.
    """
    words = answer.partition(".")[0].replace(",", "").lower().split()
    return not {"no", "not"} & set(words)


@METRICS.register_module()
class VqaMetric(BaseMetric):
    """Accuracy of short answers, over all questions and per form of question, in [0, 1].

    Reads ``questions`` of a sample, with ``answers`` and ``form``, and the generated ``texts``.

    Args:
        prefix: First part of the metric names.
        collect_device: ``cpu`` or ``gpu``, see MMEngine.
    """

    default_prefix = "vqa"
    needs = frozenset({"texts"})

    def __init__(self, *, prefix: str | None = None, collect_device: str = "cpu") -> None:
        super().__init__(collect_device=collect_device, prefix=prefix)
        self.protocol: dict[str, Any] = {}

    def process(self, data_batch: Any, data_samples: Sequence[Mapping[str, Any]]) -> None:
        """Store the credit of each answer.

        Raises:
            DataError: A sample lacks its questions, or a question its answers.
        """
        for sample in data_samples:
            rows = answered(sample)
            self.results.append(
                [(question["form"], vqa_accuracy(text, question["answers"])) for text, question in rows]
            )

    def compute_metrics(self, results: list[list[tuple[str, float]]]) -> dict[str, float]:
        """Return ``accuracy``, and ``accuracy_FORM`` for each form."""
        rows = list(itertools.chain.from_iterable(results))
        figures = accuracy_by_form(rows)
        self.protocol = {"questions": len(rows), "matching": "VQA v2 normalisation, free greedy answers"}
        print_log(f"{self.prefix}: {self.protocol}", logger="current")
        return figures


@METRICS.register_module()
class YesNoMetric(BaseMetric):
    """Accuracy, precision, recall and F1 of yes-or-no questions, and how often the answer is yes, all in [0, 1].

    A yes is the positive answer. Questions whose reference is neither yes nor no are left out and counted.

    Args:
        form: Only questions of this form; all when left out.
        prefix: First part of the metric names.
        collect_device: ``cpu`` or ``gpu``, see MMEngine.
    """

    default_prefix = "pope"
    needs = frozenset({"texts"})

    def __init__(self, *, form: str | None = None, prefix: str | None = None, collect_device: str = "cpu") -> None:
        super().__init__(collect_device=collect_device, prefix=prefix)
        self.form = form
        self.protocol: dict[str, Any] = {}

    def process(self, data_batch: Any, data_samples: Sequence[Mapping[str, Any]]) -> None:
        """Store (whether the answer is yes, reference) of each question.

        Raises:
            DataError: A sample lacks its questions, or a question its answers.
        """
        for sample in data_samples:
            rows = [(text, question) for text, question in answered(sample) if self.form in (None, question["form"])]
            self.results.append([(yes_or_no(text), normalise_answer(asked["answers"][0])) for text, asked in rows])

    def compute_metrics(self, results: list[list[tuple[bool, str]]]) -> dict[str, float]:
        """Return the five figures; 0 where nothing counts."""
        rows = list(itertools.chain.from_iterable(results))
        pairs = [(answer, reference == "yes") for answer, reference in rows if reference in ("yes", "no")]
        if not pairs:
            raise DataError(f"none of {len(rows)} questions is answered by yes or no; evaluate another data set")
        right_yes = sum(answer and truth for answer, truth in pairs)
        answered_yes, true_yes = (sum(column) for column in zip(*pairs, strict=True))
        self.protocol = {"questions": len(pairs), "left_out": len(rows) - len(pairs), "form": self.form or "all"}
        print_log(f"{self.prefix}: {self.protocol}", logger="current")
        return {
            "accuracy": sum(answer == truth for answer, truth in pairs) / len(pairs),
            "precision": right_yes / max(answered_yes, 1),
            "recall": right_yes / max(true_yes, 1),
            "f1": 2 * right_yes / max(answered_yes + true_yes, 1),
            "yes_ratio": answered_yes / len(pairs),
        }


@METRICS.register_module()
class CaptionMetric(BaseMetric):
    """CIDEr of captions, by pycocoevalcap, and two plain figures in [0, 1] beside it.

    ``exact`` is the share of captions that are one of their references, word for word. ``word_f1`` compares words
    whatever their order, with the reference that fits best, averaged over captions. ``item_f1`` compares the things
    that a caption lists, the parts between commas and "and", in the same way: "a red star" is right or wrong as one.

    Words are split by letters and digits in lower case instead of by the Java tokenizer of the COCO server, so that
    figures differ slightly from the server's; ``protocol`` names the tokenizer.

    Args:
        with_cider: Whether to compute CIDEr; ``None`` does where pycocoevalcap is installed, and otherwise leaves it
            out, which is logged and stands in the protocol.
        prefix: First part of the metric names.
        collect_device: ``cpu`` or ``gpu``, see MMEngine.

    Raises:
        ConfigError: CIDEr is asked for, and pycocoevalcap is not installed.
    """

    default_prefix = "caption"
    needs = frozenset({"texts"})

    def __init__(
        self, *, with_cider: bool | None = True, prefix: str | None = None, collect_device: str = "cpu"
    ) -> None:
        has_library = importlib.util.find_spec("pycocoevalcap") is not None
        if with_cider and not has_library:
            raise ConfigError(f"{_NO_CIDER}; with_cider=None gives the other figures")
        super().__init__(collect_device=collect_device, prefix=prefix)
        self.with_cider = has_library if with_cider is None else with_cider
        self._why_not = "" if self.with_cider else "not asked for" if has_library else _NO_CIDER
        if with_cider is None and not has_library:
            print_log(f"{_NO_CIDER}; the other figures are reported", logger="current", level=logging.WARNING)
        self.protocol: dict[str, Any] = {}

    def process(self, data_batch: Any, data_samples: Sequence[Mapping[str, Any]]) -> None:
        """Store the words of each caption and of its references.

        Raises:
            DataError: A sample lacks its questions, or a question its answers.
        """
        for sample in data_samples:
            rows = answered(sample)
            self.results.append(
                [
                    (
                        _words(text),
                        [_words(reference) for reference in asked["answers"]],
                        max(_f1(items_of(text), items_of(reference)) for reference in asked["answers"]),
                    )
                    for text, asked in rows
                ]
            )

    def compute_metrics(self, results: list[list[tuple[str, list[str], float]]]) -> dict[str, float]:
        """Return the shares and, where asked for, ``CIDEr``, of which 1 is a usual value, not a bound."""
        entries = list(itertools.chain.from_iterable(results))
        if not entries:
            raise DataError("no image was captioned; evaluate a data set with captions")
        rows = [(text, references) for text, references, _ in entries]
        self.protocol = {"captions": len(rows), "tokenizer": "letters and digits, lower case"}
        self.protocol |= {"cider": self._why_not} if self._why_not else {}
        print_log(f"{self.prefix}: {self.protocol}", logger="current")
        figures = {
            "exact": fmean([float(text in references) for text, references in rows]),
            "word_f1": fmean([max(_word_f1(text, reference) for reference in references) for text, references in rows]),
            "item_f1": fmean([score for _, _, score in entries]),
        }
        return figures | ({"CIDEr": _cider(rows)} if self.with_cider else {})


def answered(sample: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    """Return each generated text of a sample with its question.

    Raises:
        DataError: A sample lacks its questions, or a question its answers.
    """
    if "questions" not in sample:
        raise DataError("a sample has no 'questions': let QuestionsDataset and AskQuestions give the prompts")
    questions, predicted = sample["questions"], sample["pred_instances"]
    rows = list(zip(predicted["texts"], (questions[int(prompt)] for prompt in predicted["prompt_index"]), strict=True))
    lacking = [question["id"] for _, question in rows if not question["answers"]]
    if lacking or len(rows) < len(questions):
        raise DataError(
            f"{len(rows)} of {len(questions)} questions were answered, those with ids {lacking[:5]} have no reference"
        )
    return rows


def accuracy_by_form(rows: Sequence[tuple[str, float]]) -> dict[str, float]:
    """Return ``accuracy``, the mean credit of questions, and ``accuracy_FORM`` for each form.

    Args:
        rows: Form and credit, in [0, 1], of each question; one of form "" counts in ``accuracy`` only.

    Raises:
        DataError: There is no question.
    """
    if not rows:
        raise DataError("no question was answered; evaluate a data set with questions")
    credits: defaultdict[str, list[float]] = defaultdict(list)
    for form, credit in rows:
        credits[form].append(credit)
    by_form = {f"accuracy_{form}": fmean(values) for form, values in sorted(credits.items()) if form}
    return {"accuracy": fmean(credit for _, credit in rows), **by_form}


def _cider(rows: Sequence[tuple[str, list[str]]]) -> float:
    from pycocoevalcap.cider.cider import Cider

    captions = {number: [text] for number, (text, _) in enumerate(rows)}
    score, _ = Cider().compute_score({number: references for number, (_, references) in enumerate(rows)}, captions)
    return float(score)


def _word_f1(text: str, reference: str) -> float:
    """Return the F1 of the words of two texts as bags; two texts without words agree."""
    return _f1(text.split(), reference.split())


def items_of(text: str) -> list[str]:
    """Return the things that a text lists, without "a" and "an" and without the words that open a description."""
    parts = re.split(r"[,.;]|\band\b", _OPENING.sub("", text.strip().lower()))
    return [item for item in (" ".join(re.sub(r"^\s*an?\b", "", part).split()) for part in parts) if item]


def _f1(ours: Sequence[str], theirs: Sequence[str]) -> float:
    """Return the F1 of two bags; two empty ones agree."""
    ours, theirs = Counter(ours), Counter(theirs)
    total = ours.total() + theirs.total()
    return 2 * (ours & theirs).total() / total if total else 1.0


def _words(text: str) -> str:
    return " ".join(re.findall(r"[^\W_]+", text.lower()))

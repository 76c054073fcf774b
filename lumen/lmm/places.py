"""Places that an LMM writes: phrases to questions in its dialect, its answers to boxes with scores."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from mmengine.structures import InstanceData
from transformers import PreTrainedTokenizerBase

from lumen.codecs import Place, Size, Span
from lumen.lmm.dialects import Dialect
from lumen.lmm.encoded import EncodedImages
from lumen.lmm.generation import AnswerGenerator, AnswerReport, Continuation
from lumen.lmm.options import GenerationOptions
from lumen.lmm.packing.reader import RowRunner
from lumen.lmm.tokens.questions import TextEncoder
from lumen.structures import Prompt

_THOUGHT, _END_OF_THOUGHT = "<think>", "</think>"


@dataclass(frozen=True, slots=True)
class PlaceQuestion:
    """Phrases that are asked at once.

    Args:
        prompt: Its text holds all phrases.
        phrases: The phrases.
        numbers: Number of each phrase's prompt among those of its image.
    """

    prompt: Prompt
    phrases: tuple[str, ...]
    numbers: tuple[int, ...]

    def numbers_of(self, name: str | None) -> list[int]:
        """Return the numbers of the prompts that a written name means; none where it means none of them.

        A question for one phrase is about that phrase, whatever its answer calls it: LMMs shorten sentences.
        """
        if len(self.phrases) == 1:
            return [*self.numbers]
        pairs = zip(self.phrases, self.numbers, strict=True)
        return [] if name is None else [number for phrase, number in pairs if _plain(phrase) == _plain(name)]


@dataclass(frozen=True, slots=True)
class Spelling:
    """A written answer as text.

    Args:
        text: With special tokens.
        ends: Where the text of each token ends.
        probabilities: Of each token.
    """

    text: str
    ends: list[int]
    probabilities: list[float]

    @classmethod
    def of(cls, tokenizer: PreTrainedTokenizerBase, written: Continuation) -> "Spelling":
        """Spell what an LMM wrote."""
        # A token has no text of its own in every tokenizer, so each end is that of the answer up to there.
        texts = [
            tokenizer.decode(written.ids[:count], skip_special_tokens=False, clean_up_tokenization_spaces=False)
            for count in range(1, len(written.ids) + 1)
        ]
        text = texts[-1] if texts else ""
        ends = [min(len(each), len(text)) for each in texts]
        return cls(text, ends, written.probabilities)

    @property
    def answer(self) -> str:
        """The text with blanks in place of the reasoning that some LMMs begin with, so that places in it are not read.

        Columns stay what they are. Reasoning that does not end is all there is.
        """
        end = self.text.rfind(_END_OF_THOUGHT) + len(_END_OF_THOUGHT) if _END_OF_THOUGHT in self.text else 0
        if not end and self.text.lstrip().startswith(_THOUGHT):
            return _THOUGHT
        return " " * end + self.text[end:]

    def probability(self, spans: Sequence[Span]) -> float:
        """Return the mean probability of the tokens that some parts of the text are written with."""
        starts = [0, *self.ends[:-1]]
        tokens = zip(starts, self.ends, self.probabilities, strict=True)
        return statistics.fmean(
            probability
            for start, end, probability in tokens
            if any(start < span_end and span_start < end for span_start, span_end in spans)
        )


def place_questions(prompts: Sequence[Prompt], text: TextEncoder, max_joined: int) -> list[PlaceQuestion]:
    """Return the questions for the places of an image, with as many phrases in each as the dialect takes.

    Raises:
        ConfigError: Places are asked for, and the LMM has no dialect.
    """
    asked = [(number, prompt) for number, prompt in enumerate(prompts) if text.has_places(prompt)]
    if not asked:
        return []
    dialect = text.require_dialect()
    joined = [each for each in asked if dialect.can_join(each[1].text)]
    groups = [joined[start : start + max_joined] for start in range(0, len(joined), max_joined)]
    groups += [[each] for each in asked if not dialect.can_join(each[1].text)]
    return [_question(group, dialect) for group in groups]


def answer_prompts(
    writer: AnswerGenerator,
    runner: RowRunner,
    encoded: EncodedImages,
    prompts: Sequence[Sequence[Prompt]],
    options: GenerationOptions,
) -> dict[str, Any]:
    """Return what the LMM writes to the text prompts of images.

    Returns:
        ``texts``: the answer to each text prompt, with None for each location prompt; phrases that were asked at once
        share one. ``places``: a table per image, ``bboxes`` (n, 4) in input pixels, ``scores`` and ``prompt_index``; a
        point is a box without extent.

    Raises:
        ConfigError: Places are asked for, and the LMM has no dialect.
    """
    texts = writer.answer_texts(runner, encoded, prompts, options.max_new_tokens)
    questions = [place_questions(of_image, writer.text, options.max_joined) for of_image in prompts]
    prefix = writer.text.prefix(encoded.image_text)
    asked = [[[*prefix, *writer.text.question(each.prompt)] for each in of_image] for of_image in questions]
    written = writer.go_on(runner, encoded, len(prefix), asked, options.max_new_tokens)
    multiple = runner.passes.family.input_spec(runner.passes.base_model.config).multiple
    lmm_hw = (encoded.token_hw[0] * multiple, encoded.token_hw[1] * multiple)
    tables = []
    for image, of_image in enumerate(questions):
        rows: list[tuple[int, list[float], float]] = []
        for question, answer in zip(of_image, written[image], strict=True):
            spelling = Spelling.of(writer.encoder.tokenizer, answer)
            rows += read_places(question, spelling, writer.text.require_dialect(), lmm_hw, writer.report)
            for number in question.numbers:
                texts[image][number] = spelling.text
        tables.append(_table(rows, lmm_hw, encoded))
    return {"texts": texts, "places": tables}


def read_places(
    question: PlaceQuestion, spelling: Spelling, dialect: Dialect, size_hw: Size, report: AnswerReport
) -> list[tuple[int, list[float], float]]:
    """Return the prompt, the box and the score of each place that an answer names.

    Args:
        question: What was asked.
        spelling: The answer.
        dialect: How it is written.
        size_hw: Size of the image that the LMM saw; the boxes are in its pixels.
        report: What was read, and what could not be, is counted there.
    """
    reading = dialect.codec.decode(spelling.answer, size_hw)
    report.questions += 1
    report.unparsed += reading.unparsed
    rows = []
    for place in reading.places:
        numbers = question.numbers_of(place.name)
        report.unasked += not numbers
        report.places += bool(numbers)
        box = [*place.values, *place.values] if len(place.values) == 2 else [*place.values]
        rows += [(number, box, spelling.probability(_scored(place, dialect))) for number in numbers]
    return rows


def _question(group: Sequence[tuple[int, Prompt]], dialect: Dialect) -> PlaceQuestion:
    numbers, prompts = zip(*group, strict=True)
    phrases = tuple(prompt.text.strip() for prompt in prompts)
    return PlaceQuestion(Prompt(dialect.separator.join(phrases), prompts[0].task), phrases, numbers)


def _scored(place: Place, dialect: Dialect) -> Sequence[Span]:
    """Return the parts of the text whose tokens give the score."""
    if dialect.score == "name" and place.name_at is not None:
        return [place.name_at]
    return place.numbers


def _table(rows: Sequence[tuple[int, list[float], float]], lmm_hw: Size, encoded: EncodedImages) -> InstanceData:
    device, (height, width) = encoded.images.device, encoded.input_hw
    bboxes = torch.tensor([box for _, box, _ in rows], dtype=torch.float32, device=device).reshape(-1, 4)
    scale = torch.tensor([width / lmm_hw[1], height / lmm_hw[0]] * 2, device=device)
    return InstanceData(
        bboxes=bboxes * scale,
        scores=torch.tensor([score for _, _, score in rows], dtype=torch.float32, device=device),
        prompt_index=torch.tensor([number for number, _, _ in rows], dtype=torch.long, device=device),
    )


def _plain(name: str) -> str:
    return " ".join(name.casefold().split())

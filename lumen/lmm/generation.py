"""The LMM answers in its own words, by transformers' own ``generate``: free texts, and answers with ``[LOC]``."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList, PreTrainedModel

from lumen.errors import PromptError
from lumen.lmm.encoded import EncodedImages
from lumen.lmm.packing.passes import expanded
from lumen.lmm.packing.reader import RowRunner
from lumen.lmm.packing.rows import Suffix, place_rows
from lumen.lmm.tokens.phrases import PromptEncoder
from lumen.lmm.tokens.questions import TextEncoder
from lumen.lmm.usage import Usage
from lumen.prompts import TaskWording
from lumen.structures import Prompt


@dataclass(slots=True)
class AnswerReport:
    """How the LMM answered in its own words where it was to point, counted since the adapter was built or ``clear``.

    Args:
        asked: Location prompts.
        lacked_loc: Answers without ``[LOC]``, or without another slot of the template; they give no prediction.
        misnamed: Answers whose routing tokens are not exactly the task's, where the template names the task.
        questions: Questions for places, which may hold several phrases.
        places: Places that were read from the answers.
        unparsed: Parts of answers that could not be read.
        unasked: Places of a name that the question does not hold; they are left out.
    """

    asked: int = 0
    lacked_loc: int = 0
    misnamed: int = 0
    questions: int = 0
    places: int = 0
    unparsed: int = 0
    unasked: int = 0

    def clear(self) -> None:
        """Start counting anew."""
        for field in fields(self):
            setattr(self, field.name, 0)

    def count(self, has_loc: bool, is_named: bool) -> None:
        """Add one answer."""
        self.asked += 1
        self.lacked_loc += not has_loc
        self.misnamed += not is_named


@dataclass(frozen=True, slots=True)
class Continuation:
    """What an LMM wrote.

    Args:
        ids: The new tokens, without the one that ends them.
        probabilities: The probability that it gave to each of them.
    """

    ids: list[int]
    probabilities: list[float]


class _Probabilities(LogitsProcessor):
    """Notes the probability of the token that greedy search takes, step by step; the scores stay as they are."""

    def __init__(self) -> None:
        self.steps: list[Float[Tensor, " rows"]] = []

    def __call__(
        self, input_ids: Int[Tensor, "rows length"], scores: Float[Tensor, "rows tokens"]
    ) -> Float[Tensor, "rows tokens"]:
        """Note one step."""
        self.steps.append(scores.float().softmax(-1).amax(-1))
        return scores

    def of_rows(self, rows: Sequence[Sequence[int]], ends: Sequence[int]) -> list[Continuation]:
        """Return the continuations of all rows, each up to the first token that ends it."""
        table = torch.stack(self.steps, 1).tolist() if self.steps else [[] for _ in rows]
        kept = [_until(row, ends) for row in rows]
        return [Continuation(ids, noted[: len(ids)]) for ids, noted in zip(kept, table, strict=True)]


class AnswerGenerator:
    """Let an LMM write: the answers of text prompts, and of location prompts that are not forced.

    Args:
        encoder: Encoder of the phrases.
        text: Encoder of the questions.
        usage: Counter of what is written.
    """

    def __init__(self, encoder: PromptEncoder, text: TextEncoder, usage: Usage) -> None:
        self.encoder = encoder
        self.text = text
        self.usage = usage
        self.report = AnswerReport()

    def answer(
        self,
        runner: RowRunner,
        encoded: EncodedImages,
        questions: Sequence[Sequence[Prompt]],
        max_new_tokens: int,
    ) -> list[list[str]]:
        """Return the answer of each question of each image."""
        prefix = self.text.prefix(encoded.image_text)
        asked = [[[*prefix, *self.text.question(prompt)] for prompt in of_image] for of_image in questions]
        decode = self.encoder.tokenizer.decode
        written = self.go_on(runner, encoded, len(prefix), asked, max_new_tokens)
        return [[decode(each.ids, skip_special_tokens=True).strip() for each in of_image] for of_image in written]

    def answer_texts(
        self,
        runner: RowRunner,
        encoded: EncodedImages,
        prompts: Sequence[Sequence[Prompt]],
        max_new_tokens: int,
    ) -> list[list[str | None]]:
        """Return the answer of each text prompt; None for each location prompt, and where places are read from it."""
        questions = [[prompt for prompt in of_image if self._is_free(prompt)] for of_image in prompts]
        answers = map(iter, self.answer(runner, encoded, questions, max_new_tokens))
        return [
            [next(written) if self._is_free(prompt) else None for prompt in of_image]
            for of_image, written in zip(prompts, answers, strict=True)
        ]

    def locate(
        self,
        runner: RowRunner,
        encoded: EncodedImages,
        prompts: Sequence[Sequence[Prompt]],
        forced: Sequence[Sequence[Suffix]],
    ) -> list[list[Suffix | None]]:
        """Return suffixes with the answer that the LMM writes instead of the forced one, None where it lacks a slot.

        The suffixes end at the last slot.

        Args:
            runner: Runs the LMM.
            encoded: The images.
            prompts: Location prompts of each image.
            forced: Their suffixes; an answer may be twice as long as the forced one.
        """
        prefix = self.encoder.prefix(encoded.image_text)
        longest = max((suffix.num_answer_tokens for suffix in itertools.chain.from_iterable(forced)), default=0)
        asked = [[[*prefix, *suffix.ids[: suffix.answer]] for suffix in of_image] for of_image in forced]
        written = self.go_on(runner, encoded, len(prefix), asked, 2 * longest)
        return [
            [self._read(*answer) for answer in zip(*of_image, strict=True)]
            for of_image in zip(prompts, forced, written, strict=True)
        ]

    def _is_free(self, prompt: Prompt) -> bool:
        return self.text.is_text(prompt) and not self.text.has_places(prompt)

    def _read(self, prompt: Prompt, forced: Suffix, written: Continuation) -> Suffix | None:
        suffix = written_suffix(forced, written.ids, self.encoder.slot_ids)
        wording = self.encoder.wordings[prompt.task]
        is_named = not self.encoder.template.names_task or names_task(written.ids, wording, self.encoder.routing_ids)
        self.report.count(suffix is not None, is_named)
        return suffix

    def go_on(
        self,
        runner: RowRunner,
        encoded: EncodedImages,
        start: int,
        asked: Sequence[Sequence[Sequence[int]]],
        max_new_tokens: int,
    ) -> list[list[Continuation]]:
        """Continue rows of tokens, given per image; ``start`` of each are the prefix.

        A row ends where the context of the LLM does, at the latest.

        Raises:
            PromptError: A row fills the context.
        """
        rows = list(itertools.chain.from_iterable(asked))
        row_image = [image for image, of_image in enumerate(asked) for _ in of_image]
        free = free_tokens(rows, runner.passes.base_model.config.text_config.max_position_embeddings)
        config = GenerationConfig(
            max_new_tokens=min(max_new_tokens, max(free, default=1)),
            do_sample=False,
            pad_token_id=self.encoder.tokenizer.pad_token_id or 0,
            eos_token_id=end_tokens(runner.passes.base_model, self.encoder),
            use_cache=True,
        )
        keeps = encoded.prefix_cache is not None and runner.passes.mode.keeps_prefix and not torch.is_grad_enabled()
        go_on = continue_prefixes if keeps else continue_rows
        written = go_on(runner, encoded, rows, row_image, start=start, config=config)
        self.usage.passes += len(rows)
        self.usage.tokens += sum(map(len, rows)) + sum(len(each.ids) for each in written) - keeps * start * len(rows)
        # What a shorter row of the same pass had room for must not depend on its neighbours.
        answers = iter(
            [Continuation(each.ids[:room], each.probabilities[:room]) for each, room in zip(written, free, strict=True)]
        )
        return [[next(answers) for _ in of_image] for of_image in asked]


def free_tokens(rows: Sequence[Sequence[int]], context: int) -> list[int]:
    """Return how many tokens can be written behind each row.

    Raises:
        PromptError: A row leaves no room in the context.
    """
    longest = max(map(len, rows), default=0)
    if longest >= context:
        raise PromptError(
            f"a prompt of {longest} tokens leaves no room for an answer in the context of {context}: shorten the text "
            "or its history"
        )
    return [context - len(row) for row in rows]


def continue_rows(
    runner: RowRunner,
    encoded: EncodedImages,
    rows: Sequence[Sequence[int]],
    row_image: Sequence[int],
    *,
    start: int,
    config: GenerationConfig,
) -> list[Continuation]:
    """Continue rows of tokens, each behind its encoded image.

    Args:
        runner: Runs the LMM.
        encoded: The images.
        rows: Token ids, image tokens included.
        row_image: Image of each row.
        start: Tokens of the prefix, with which each row begins.
        config: How, and up to how many tokens.

    Returns:
        What each row is continued with.
    """
    base_model, family = runner.passes.base_model, runner.passes.family
    device = base_model.device
    longest = max((len(row) for row in rows), default=0) + config.max_new_tokens
    step = max(1, runner.max_pass_tokens // max(longest, 1))
    answers: list[Continuation] = []
    for first in range(0, len(rows), step):
        chunk = rows[first : first + step]
        # Padding lies on the left, so that all answers continue at the same column.
        ids, mask = _pad_left(chunk, config.pad_token_id), _pad_left([[1] * len(row) for row in chunk], 0)
        behind_prefix = start + (mask == 0).sum(1, keepdim=True)
        inputs = {"input_ids": ids.to(device), "attention_mask": mask.to(device)}
        inputs |= family.plain_inputs(base_model.config, inputs["input_ids"], behind_prefix.to(device))
        inputs |= family.writing_inputs(base_model.config, inputs["input_ids"], encoded.token_hw)
        images = {"image": family.take(encoded.states, row_image[first : first + step])}
        noted = _Probabilities()
        written = base_model.generate(
            **inputs,
            mm_encoder_outputs=images,
            generation_config=config,
            logits_processor=LogitsProcessorList([noted]),
            synced_gpus=False,  # ranks wait for each other by `Lockstep`
        )
        answers += noted.of_rows(written[:, ids.shape[1] :].tolist(), config.eos_token_id)
    return answers


def continue_prefixes(
    runner: RowRunner,
    encoded: EncodedImages,
    rows: Sequence[Sequence[int]],
    row_image: Sequence[int],
    *,
    start: int,
    config: GenerationConfig,
) -> list[Continuation]:
    """Continue rows of tokens behind what ``encoded.prefix_cache`` holds of their images; see ``continue_rows``."""
    base_model, answers = runner.passes.base_model, [Continuation([], []) for _ in rows]
    # Rows of one call are equally long: a recurrent layer would read padding between the prefix and the question.
    by_length = sorted(range(len(rows)), key=lambda row: (row_image[row], len(rows[row])))
    for (image, length), group in itertools.groupby(by_length, lambda row: (row_image[row], len(rows[row]))):
        members = list(group)
        kept = runner.prefix(rows[members[0]][:start], [image], encoded)
        layout = runner.passes.layout(rows[members[0]][:start], encoded.token_hw)
        step = max(1, runner.max_pass_tokens // (length + config.max_new_tokens))
        for first in range(0, len(members), step):
            chunk = members[first : first + step]
            ids = torch.tensor([rows[row] for row in chunk], device=base_model.device)
            noted = _Probabilities()
            written = base_model.generate(
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                position_ids=place_rows(torch.arange(length, device=ids.device).expand(len(ids), -1), layout.positions),
                past_key_values=expanded(kept.cache, torch.zeros_like(ids[:, 0]), goes_on=True),
                generation_config=config,
                logits_processor=LogitsProcessorList([noted]),
                synced_gpus=False,
            )
            for row, answer in zip(
                chunk, noted.of_rows(written[:, length:].tolist(), config.eos_token_id), strict=True
            ):
                answers[row] = answer
    return answers


def _pad_left(rows: Sequence[Sequence[int]], value: int) -> Int[Tensor, "rows length"]:
    tensors = [torch.tensor(row, dtype=torch.long) for row in rows]
    return pad_sequence(tensors, batch_first=True, padding_value=value, padding_side="left")


def written_suffix(forced: Suffix, written: Sequence[int], slot_ids: Sequence[int]) -> Suffix | None:
    """Return the suffix with the answer that the LMM wrote, up to the last of its slots; None where it lacks one.

    A slot that stands there several times is the first of them.
    """
    if not set(slot_ids) <= set(written):
        return None
    slots = [forced.answer + written.index(slot) for slot in slot_ids]
    end = max(slots) + 1
    ids = (*forced.ids[: forced.answer], *written[: end - forced.answer])
    return Suffix(ids, forced.phrase, tuple(slots), end)


def names_task(written: Sequence[int], wording: TaskWording, token_ids: Mapping[str, int]) -> bool:
    """Return whether the routing tokens of an answer are the task's and no other's."""
    return set(written) & set(token_ids.values()) == {token_ids[wording.routing_token]}


def end_tokens(base_model: PreTrainedModel, encoder: PromptEncoder) -> list[int]:
    """Return all tokens that end an answer: those of the model's ``generation_config``, and the template's turn end."""
    named = base_model.generation_config.eos_token_id
    named = [] if named is None else named if isinstance(named, list) else [named]
    text_end = encoder.tokenizer.eos_token_id
    return sorted({*named, encoder.end_id, *([] if text_end is None else [text_end])})


def _until(ids: Sequence[int], ends: Sequence[int]) -> list[int]:
    return list(itertools.takewhile(lambda token: token not in ends, ids))

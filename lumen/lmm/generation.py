"""The LMM answers in its own words, by transformers' own ``generate``: free texts, and answers with ``[LOC]``."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import GenerationConfig, PreTrainedModel

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
    """How the LMM answered location prompts in its own words, counted since the adapter was built or ``clear``.

    Args:
        asked: Prompts.
        lacked_loc: Answers without ``[LOC]``; they give no prediction.
        misnamed: Answers whose routing tokens are not exactly the task's.
    """

    asked: int = 0
    lacked_loc: int = 0
    misnamed: int = 0

    def clear(self) -> None:
        """Start counting anew."""
        self.asked = self.lacked_loc = self.misnamed = 0

    def count(self, has_loc: bool, is_named: bool) -> None:
        """Add one answer."""
        self.asked += 1
        self.lacked_loc += not has_loc
        self.misnamed += not is_named


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
        written = self._write(runner, encoded, len(prefix), asked, max_new_tokens)
        return [[decode(ids, skip_special_tokens=True).strip() for ids in of_image] for of_image in written]

    def answer_texts(
        self,
        runner: RowRunner,
        encoded: EncodedImages,
        prompts: Sequence[Sequence[Prompt]],
        max_new_tokens: int,
    ) -> list[list[str | None]]:
        """Return the answer of each text prompt and None for each location prompt."""
        questions = [[prompt for prompt in of_image if self.text.is_text(prompt)] for of_image in prompts]
        answers = map(iter, self.answer(runner, encoded, questions, max_new_tokens))
        return [
            [next(written) if self.text.is_text(prompt) else None for prompt in of_image]
            for of_image, written in zip(prompts, answers, strict=True)
        ]

    def locate(
        self,
        runner: RowRunner,
        encoded: EncodedImages,
        prompts: Sequence[Sequence[Prompt]],
        forced: Sequence[Sequence[Suffix]],
    ) -> list[list[Suffix | None]]:
        """Return suffixes with the answer that the LMM writes instead of the forced one, None where it lacks ``[LOC]``.

        Args:
            runner: Runs the LMM.
            encoded: The images.
            prompts: Location prompts of each image.
            forced: Their suffixes; an answer may be twice as long as the forced one.
        """
        prefix = self.encoder.prefix(encoded.image_text)
        longest = max((suffix.num_answer_tokens for suffix in itertools.chain.from_iterable(forced)), default=0)
        asked = [[[*prefix, *suffix.ids[: suffix.answer]] for suffix in of_image] for of_image in forced]
        written = self._write(runner, encoded, len(prefix), asked, 2 * longest)
        return [
            [self._read(*answer) for answer in zip(*of_image, strict=True)]
            for of_image in zip(prompts, forced, written, strict=True)
        ]

    def _read(self, prompt: Prompt, forced: Suffix, written: list[int]) -> Suffix | None:
        suffix = written_suffix(forced, written, self.encoder.loc_token_id)
        is_named = names_task(written, self.encoder.wordings[prompt.task], self.encoder.routing_ids)
        self.report.count(suffix is not None, is_named)
        return suffix

    def _write(
        self,
        runner: RowRunner,
        encoded: EncodedImages,
        start: int,
        asked: Sequence[Sequence[Sequence[int]]],
        max_new_tokens: int,
    ) -> list[list[list[int]]]:
        """Continue rows of tokens, given per image; ``start`` of each are the prefix."""
        rows = list(itertools.chain.from_iterable(asked))
        row_image = [image for image, of_image in enumerate(asked) for _ in of_image]
        config = GenerationConfig(
            max_new_tokens=max_new_tokens,
            do_sample=False,
            pad_token_id=self.encoder.tokenizer.pad_token_id or 0,
            eos_token_id=end_tokens(runner.passes.base_model, self.encoder),
            use_cache=True,
        )
        keeps = encoded.prefix_cache is not None and runner.passes.mode.keeps_prefix and not torch.is_grad_enabled()
        go_on = continue_prefixes if keeps else continue_rows
        written = go_on(runner, encoded, rows, row_image, start=start, config=config)
        self.usage.passes += len(rows)
        self.usage.tokens += sum(map(len, rows)) + sum(map(len, written)) - keeps * start * len(rows)
        answers = iter(written)
        return [[next(answers) for _ in of_image] for of_image in asked]


def continue_rows(
    runner: RowRunner,
    encoded: EncodedImages,
    rows: Sequence[Sequence[int]],
    row_image: Sequence[int],
    *,
    start: int,
    config: GenerationConfig,
) -> list[list[int]]:
    """Continue rows of tokens, each behind its encoded image.

    Args:
        runner: Runs the LMM.
        encoded: The images.
        rows: Token ids, image tokens included.
        row_image: Image of each row.
        start: Tokens of the prefix, with which each row begins.
        config: How, and up to how many tokens.

    Returns:
        The new tokens of each row, without the one that ends it.
    """
    base_model, family = runner.passes.base_model, runner.passes.family
    device = base_model.device
    longest = max((len(row) for row in rows), default=0) + config.max_new_tokens
    step = max(1, runner.max_pass_tokens // max(longest, 1))
    answers: list[list[int]] = []
    for first in range(0, len(rows), step):
        chunk = rows[first : first + step]
        # Padding lies on the left, so that all answers continue at the same column.
        ids, mask = _pad_left(chunk, config.pad_token_id), _pad_left([[1] * len(row) for row in chunk], 0)
        behind_prefix = start + (mask == 0).sum(1, keepdim=True)
        inputs = {"input_ids": ids.to(device), "attention_mask": mask.to(device)}
        inputs |= family.plain_inputs(base_model.config, inputs["input_ids"], behind_prefix.to(device))
        inputs |= family.writing_inputs(base_model.config, inputs["input_ids"], encoded.token_hw)
        images = {"image": family.take(encoded.states, row_image[first : first + step])}
        written = base_model.generate(
            **inputs,
            mm_encoder_outputs=images,
            generation_config=config,
            synced_gpus=False,  # ranks wait for each other by `Lockstep`
        )
        answers += [_until(row, config.eos_token_id) for row in written[:, ids.shape[1] :].tolist()]
    return answers


def continue_prefixes(
    runner: RowRunner,
    encoded: EncodedImages,
    rows: Sequence[Sequence[int]],
    row_image: Sequence[int],
    *,
    start: int,
    config: GenerationConfig,
) -> list[list[int]]:
    """Continue rows of tokens behind what ``encoded.prefix_cache`` holds of their images; see ``continue_rows``."""
    base_model, answers = runner.passes.base_model, [[] for _ in rows]
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
            written = base_model.generate(
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                position_ids=place_rows(torch.arange(length, device=ids.device).expand(len(ids), -1), layout.positions),
                past_key_values=expanded(kept.cache, torch.zeros_like(ids[:, 0]), goes_on=True),
                generation_config=config,
                synced_gpus=False,
            )
            for row, tokens in zip(chunk, written[:, length:].tolist(), strict=True):
                answers[row] = _until(tokens, config.eos_token_id)
    return answers


def _pad_left(rows: Sequence[Sequence[int]], value: int) -> Int[Tensor, "rows length"]:
    tensors = [torch.tensor(row, dtype=torch.long) for row in rows]
    return pad_sequence(tensors, batch_first=True, padding_value=value, padding_side="left")


def written_suffix(forced: Suffix, written: Sequence[int], loc_id: int) -> Suffix | None:
    """Return the suffix with the answer that the LMM wrote, up to its first ``[LOC]``; None where there is none."""
    if loc_id not in written:
        return None
    ids = (*forced.ids[: forced.answer], *written[: written.index(loc_id) + 1])
    return Suffix(ids, forced.phrase, len(ids) - 1, len(ids))


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

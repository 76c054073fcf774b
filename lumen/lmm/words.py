"""What an LMM writes in answering: texts and places of text prompts, and the words behind the slots of pairs."""

from collections.abc import Sequence, Set
from typing import Any

from lumen.lmm.encoded import EncodedImages
from lumen.lmm.generation import AnswerGenerator
from lumen.lmm.options import GenerationOptions
from lumen.lmm.packing.reader import RowRunner
from lumen.lmm.places import answer_prompts
from lumen.lmm.readout import Pairs
from lumen.lmm.tokens.phrases import PromptEncoder
from lumen.structures import Prompt


def write_extras(
    writer: AnswerGenerator,
    runner: RowRunner,
    encoded: EncodedImages,
    prompts: Sequence[Sequence[Prompt]],
    pairs: Pairs,
    wanted: Set[str],
    options: GenerationOptions,
) -> dict[str, Any]:
    """Return what is wanted of what the LMM writes.

    Returns:
        For ``texts``: what ``answer_prompts`` gives. For ``words``: what stands behind the last slot of each pair, a
        list per image with None at each prompt without a pair.
    """
    written = answer_prompts(writer, runner, encoded, prompts, options) if "texts" in wanted else {}
    if "words" in wanted and pairs.words is not None:
        written["words"] = pairs.words
    elif "words" in wanted:
        written["words"] = write_words(writer, runner, encoded, prompts, pairs, options.max_new_tokens)
    return written


def write_words(
    writer: AnswerGenerator,
    runner: RowRunner,
    encoded: EncodedImages,
    prompts: Sequence[Sequence[Prompt]],
    pairs: Pairs,
    max_new_tokens: int,
) -> list[list[str | None]]:
    """Return what the LMM goes on to write behind the last slot of each pair, None at each prompt without a pair.

    The special tokens of the template stay in the text, others do not.
    """
    prefix = writer.encoder.prefix(encoded.image_text)
    asked = [[[*prefix, *suffix.ids[: max(suffix.slots) + 1]] for suffix in row] for row in pairs.suffixes]
    written = writer.go_on(runner, encoded, len(prefix), asked, max_new_tokens)
    words: list[list[str | None]] = [[None] * len(of_image) for of_image in prompts]
    for of_image, numbers, answers in zip(words, pairs.numbers, written, strict=True):
        for number, answer in zip(numbers, answers, strict=True):
            of_image[number] = words_behind(writer.encoder, answer.ids)
    return words


def words_behind(encoder: PromptEncoder, ids: Sequence[int]) -> str:
    """Return what stands behind the last slot as text, without what the template puts between."""
    text = spell(encoder, ids, keep=encoder.template.tokens)
    return text.removeprefix(encoder.template.joint.strip()).strip()


def spell(encoder: PromptEncoder, ids: Sequence[int], *, keep: Sequence[str]) -> str:
    """Return tokens as text, without special tokens other than ``keep``."""
    tokenizer = encoder.tokenizer
    dropped = set(tokenizer.all_special_ids) - set(tokenizer.convert_tokens_to_ids(list(keep)))
    return tokenizer.decode([token for token in ids if token not in dropped]).strip()

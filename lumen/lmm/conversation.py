"""A conversation in which the LMM may point: the slots in an answer that it wrote freely become pairs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from lumen.lmm.encoded import EncodedImages
from lumen.lmm.generation import AnswerGenerator
from lumen.lmm.packing.reader import RowRunner
from lumen.lmm.packing.rows import Suffix
from lumen.lmm.readout import Pairs
from lumen.lmm.tokens.phrases import PromptEncoder
from lumen.lmm.words import spell, words_behind
from lumen.structures import Prompt


@dataclass(frozen=True, slots=True)
class PointedPair:
    """One place of an answer that points at objects: each slot of the template once.

    Args:
        suffix: The conversation up to the last of these slots.
        tokens: The slots, in the order of the template, and the routing token that belongs to them, if any.
        words: What stands behind the last of these slots, up to the next pair.
    """

    suffix: Suffix
    tokens: tuple[str, ...]
    words: str


@dataclass(frozen=True, slots=True)
class Turn:
    """An answer that the LMM wrote freely.

    Args:
        text: The answer, in which the tokens that Lumen added are spelled out.
        pairs: What it points at, in order.
        num_unpaired: Slots in it that belong to no pair, since another slot of the template is missing.
    """

    text: str
    pairs: tuple[PointedPair, ...]
    num_unpaired: int

    def for_task(self, task: str, routes: Mapping[str, str]) -> Pairs:
        """Return the pairs of one image of which a token leads to the task, numbered in the order of the answer."""
        chosen = [pair for pair in self.pairs if task in map(routes.get, pair.tokens)]
        return Pairs(
            [list(range(len(chosen)))],
            [[pair.suffix for pair in chosen]],
            in_turn=True,
            words=[[pair.words for pair in chosen]],
        )


def write_turn(
    writer: AnswerGenerator, runner: RowRunner, encoded: EncodedImages, prompt: Prompt, max_new_tokens: int
) -> Turn:
    """Let the LMM answer the last question of a conversation about one image.

    Raises:
        PromptError: A turn is empty, too long or holds special tokens that no answer may hold.
    """
    prefix, asked = writer.text.prefix(encoded.image_text), writer.text.turn(prompt)
    ((written,),) = writer.go_on(runner, encoded, len(prefix), [[[*prefix, *asked.ids]]], max_new_tokens)
    return read_turn(writer.encoder, asked, written.ids)


def read_turn(encoder: PromptEncoder, asked: Suffix, written: Sequence[int]) -> Turn:
    """Return what an answer says and where it points.

    The n-th pair has the n-th of each slot, and the n-th routing token where the template names the task.

    Args:
        encoder: Encoder of the phrases, which knows slots and routing tokens.
        asked: The conversation up to the answer.
        written: The answer.
    """
    places = [[place for place, token in enumerate(written) if token == slot] for slot in encoder.slot_ids]
    groups = list(zip(*places, strict=False))
    names = {number: token for token, number in encoder.routing_ids.items()} if encoder.template.names_task else {}
    routing = [names[token] for token in written if token in names]
    starts = [*map(min, groups), len(written)][1:]
    pairs = []
    for number, (group, next_start) in enumerate(zip(groups, starts, strict=True)):
        end = max(group) + 1
        ids = (*asked.ids, *written[:end])
        suffix = Suffix(ids, asked.phrase, tuple(asked.answer + place for place in group), len(ids))
        tokens = (*encoder.template.slots, *routing[number : number + 1])
        pairs.append(PointedPair(suffix, tokens, words_behind(encoder, written[end:next_start])))
    num_unpaired = sum(map(len, places)) - sum(map(len, groups))
    return Turn(spell(encoder, written, keep=encoder.spoken_tokens), tuple(pairs), num_unpaired)

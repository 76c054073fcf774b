"""From prompts to pairs before the LLM, and from its states to the query of each pair after it."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from lumen.lmm.encoded import EncodedImages
from lumen.lmm.options import ReadoutOptions
from lumen.lmm.packing.passes import PassOptions
from lumen.lmm.packing.reader import RowChunk, RowRunner
from lumen.lmm.packing.rows import PackedRows, Suffix
from lumen.lmm.text_losses import (
    answer_loss,
    name_scores,
    names_of,
    phrase_reconstruction_loss,
    span_mean,
    token_grid,
)
from lumen.lmm.tokens.phrases import PromptEncoder
from lumen.structures import NameScores, Prompt


@dataclass(frozen=True, slots=True)
class Pairs:
    """The location prompts of a batch that become pairs, image by image.

    Args:
        numbers: Number of each pair's prompt among those of its image.
        suffixes: Its tokens behind the prefix.
        in_turn: Whether the suffixes are turns of a conversation, which stand behind the prefix of questions.
        words: What follows the last slot of each pair, where it is written already.
    """

    numbers: list[list[int]]
    suffixes: list[list[Suffix]]
    in_turn: bool = False
    words: list[list[str]] | None = None

    @property
    def flat(self) -> list[Suffix]:
        """The suffixes of all pairs, in the order in which pairs are numbered."""
        return list(itertools.chain.from_iterable(self.suffixes))

    @property
    def image_index(self) -> Int[Tensor, " pairs"]:
        """Image of each pair."""
        sizes = torch.tensor([len(of_image) for of_image in self.numbers], dtype=torch.long)
        return torch.arange(len(self.numbers)).repeat_interleave(sizes)

    @property
    def prompt_index(self) -> Int[Tensor, " pairs"]:
        """Prompt of each pair within its image."""
        return torch.tensor(list(itertools.chain.from_iterable(self.numbers)), dtype=torch.long)

    def choose(self, prompts: Sequence[Sequence[Prompt]]) -> list[list[Prompt]]:
        """Return the prompts that are pairs."""
        both = zip(prompts, self.numbers, strict=True)
        return [[of_image[number] for number in numbers] for of_image, numbers in both]

    def written(self, suffixes: Sequence[Sequence[Suffix | None]]) -> "Pairs":
        """Return the pairs with the answers that the LMM wrote; those without one are left out."""
        kept = [
            [(number, suffix) for number, suffix in zip(*of_image, strict=True) if suffix is not None]
            for of_image in zip(self.numbers, suffixes, strict=True)
        ]
        return Pairs(
            [[number for number, _ in of_image] for of_image in kept],
            [[suffix for _, suffix in of_image] for of_image in kept],
        )


@dataclass(frozen=True, slots=True)
class PairStates:
    """What the LLM made of the pairs.

    Args:
        slots: State of each slot of each pair, in the order of the template.
        image_states: States of the prefix of each image; None where they are not read.
        losses: Sums of text losses by name, of each chunk of rows.
        layers: States of the read layers in the last chunk; they connect the losses of batches without text prompts.
    """

    slots: Float[Tensor, "pairs slots dim"]
    image_states: Float[Tensor, "images prefix dim"] | None
    losses: list[dict[str, Tensor]]
    layers: list[Float[Tensor, "rows length dim"]]


def forced_pairs(encoder: PromptEncoder, prompts: Sequence[Sequence[Prompt]], *, with_words: bool = True) -> Pairs:
    """Return all location prompts as pairs, with the answer of the template.

    Args:
        encoder: Encoder of the phrases.
        prompts: The prompts of each image.
        with_words: Whether the answer goes on with the words of each prompt; they come behind the slots, whose states
            do not depend on them.
    """
    located = [
        [(number, prompt) for number, prompt in enumerate(of_image) if not encoder.wordings[prompt.task].is_text]
        for of_image in prompts
    ]
    return Pairs(
        [[number for number, _ in of_image] for of_image in located],
        [
            [encoder.suffix(prompt.text, prompt.task, prompt.answer if with_words else "") for _, prompt in of_image]
            for of_image in located
        ],
    )


@dataclass(frozen=True, slots=True)
class Readout:
    """Runs packed rows and reads what the LLM made of them: states of slots, losses, names.

    Args:
        runner: Runs the rows.
        options: Which state is the query, what is added to it, and what it learns.
        head: Turns states into logits.
        num_slots: Slots of the template.
        has_answer: Whether the template has an answer to learn.
        neighbours: See ``answer_loss``.
    """

    runner: RowRunner
    options: ReadoutOptions
    head: nn.Module
    num_slots: int
    has_answer: bool
    neighbours: Int[Tensor, "2 tokens"] | None = None

    def read_texts(
        self, rows: PackedRows, passing: PassOptions, encoded: EncodedImages
    ) -> tuple[list[dict[str, Tensor]], list[Float[Tensor, "rows length dim"]] | None]:
        """Return the losses of questions by chunk, and the states of the last chunk; None where none is asked."""
        losses, states = [], None
        if len(rows.row_image):
            for chunk in self.runner.run(rows, passing, encoded):
                losses.append({"loss_text": answer_loss(self.head, chunk.rows, chunk.states[0], self.neighbours)})
                states = chunk.states
        return losses, states

    def read_pairs(
        self,
        rows: PackedRows,
        passing: PassOptions,
        encoded: EncodedImages,
        pairs: Pairs,
        *,
        fallback_states: list[Tensor] | None,
        predicting: bool,
    ) -> PairStates:
        """Return what the LLM made of the pairs.

        Args:
            rows: The rows of the pairs.
            passing: How they are run.
            encoded: The images.
            pairs: The pairs.
            fallback_states: As in ``RowRunner.run``.
            predicting: Whether nothing is learned.
        """
        suffixes, slots, numbers, prefixes, losses, layers = pairs.flat, [], [], [], [], []
        for chunk in self.runner.run(rows, passing, encoded, fallback_states=fallback_states):
            of_slots, of_chunk = self._read_chunk(chunk, [suffixes[pair] for pair in chunk.pairs.tolist()], predicting)
            slots.append(of_slots)
            losses.append(of_chunk)
            numbers.append(chunk.pairs)
            prefixes += [] if chunk.prefix_states is None else [chunk.prefix_states]
            layers = chunk.states
        # Chunks hold pairs in the order of their rows; the states go back into the order of the prompts.
        order, read = torch.cat(numbers).argsort(), torch.cat(slots)
        order = order.to(read.device, non_blocking=True)
        return PairStates(read[order], torch.cat(prefixes) if prefixes else None, losses, layers)

    def _read_chunk(
        self, chunk: RowChunk, suffixes: Sequence[Suffix], predicting: bool
    ) -> tuple[Float[Tensor, "pairs slots dim"], dict[str, Tensor]]:
        states, query_states, _ = chunk.states
        start, row = chunk.rows.pair_start, chunk.rows.pair_row
        # The state at each slot is read, or the one before it, which predicts the slot.
        slots = torch.tensor([suffix.slots for suffix in suffixes], dtype=torch.long).view(-1, self.num_slots)
        places = (row[:, None], start[:, None] + slots - int(self.options.position == "before_loc"))
        read = query_states[tuple(place.to(states.device, non_blocking=True) for place in places)]
        phrase = torch.tensor([suffix.phrase for suffix in suffixes], dtype=torch.long).view(-1, 2)
        columns = start[:, None] + phrase
        # A row holds several pairs, so all answers of a row are learned in one go, and each query is read by its row.
        losses = {}
        if self.has_answer and not predicting:
            losses["loss_answer"] = answer_loss(self.head, chunk.rows, states)
        # The phrase is predicted from the first slot alone, so before the state of the phrase itself is added.
        if self.options.phrase_reconstruction and not predicting and torch.is_grad_enabled():
            losses["loss_phrase_reconstruction"] = phrase_reconstruction_loss(
                self.head, chunk.rows, read[:, 0], columns
            )
        if self.options.add_phrase_state:
            read = read + span_mean(query_states, row, columns)[:, None]
        return read, losses

    def read_names(self, encoded: EncodedImages, pairs: Pairs, *, nothing: int) -> NameScores | None:
        """Return what the image tokens name, while they learn it; ``nothing`` is the token for nothing to name."""
        # Scores of every token of the vocabulary in every cell: computed only while they are learned.
        if not self.options.name_tokens or not torch.is_grad_enabled():
            return None
        tokens = token_grid(encoded.states.pooler_output, encoded.token_hw)
        phrases = names_of(pairs.flat, self.options.name_tokens)
        return name_scores(self.head, tokens, phrases, pairs.image_index.to(tokens.device, non_blocking=True), nothing)

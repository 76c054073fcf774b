"""What asking an LMM has cost."""

from dataclasses import dataclass


@dataclass(slots=True)
class Usage:
    """A counter that an adapter fills and whoever reports sets to zero.

    Args:
        images: Images encoded.
        passes: Sequences that went through the LLM: one per row of packed prompts, one per prompt without packing, and
            one per answer that it wrote.
        tokens: Tokens of these sequences, image tokens and written ones included, padding left out.
        padding: Tokens of padding that went through the LLM beside them in rows of prompts.
    """

    images: int = 0
    passes: int = 0
    tokens: int = 0
    padding: int = 0

    @property
    def padding_share(self) -> float:
        """Share of padding in all that went through the LLM; 0 where nothing did."""
        return self.padding / max(self.padding + self.tokens, 1)

    def clear(self) -> None:
        """Start counting anew."""
        self.images = self.passes = self.tokens = self.padding = 0

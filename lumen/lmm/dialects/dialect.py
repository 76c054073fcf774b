"""What one way of writing places is: the words that ask for them, and the codec that reads them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lumen.codecs import Codec, build_codec
from lumen.errors import ConfigError
from lumen.options import check_choice

SCORES = {
    "coordinates": "mean probability of the tokens of the coordinates",
    "name": "mean probability of the tokens of the name, since a coordinate is one token; of the coordinates where no "
    "name is written",
}
FRAMINGS = ("letterbox", "stretch")


@dataclass(frozen=True, slots=True)
class Dialect:
    """How an LMM is asked for places, and how it writes them.

    Args:
        name: What it is called in options and reports.
        question: Its words; ``{text}`` stands for the phrases.
        codec: Reads the answer and writes one to learn.
        separator: What stands between phrases that are asked at once; empty where each is asked alone.
        score: Which tokens a score comes from, a key of ``SCORES``.
        framing: How an image comes to the size of the LMM: ``letterbox`` keeps its ratio, ``stretch`` does not.

    Raises:
        ConfigError: A value is not accepted.
    """

    name: str
    question: str
    codec: Codec
    separator: str = ""
    score: str = "coordinates"
    framing: str = "letterbox"

    def __post_init__(self) -> None:
        check_choice("score", self.score, tuple(SCORES))
        check_choice("framing", self.framing, FRAMINGS)
        if "{text}" not in self.question:
            raise ConfigError(f"the question of dialect {self.name!r} has no place for phrases: write {{text}} into it")

    def ask(self, text: str) -> str:
        """Return the question about phrases, which are one text already."""
        return self.question.replace("{text}", text)

    def describe(self) -> str:
        """Return its name, and where scores come from."""
        return f"{self.name}; score: {SCORES[self.score]}"

    def can_join(self, phrase: str) -> bool:
        """Return whether a phrase can be asked together with others: it does not hold what separates them."""
        return bool(self.separator) and self.separator.strip() not in phrase


def read_dialect(given: Mapping[str, Any]) -> Dialect:
    """Return the dialect that a config gives as a dict of its fields, with its codec as ``build_codec`` takes it.

    Raises:
        ConfigError: A field is missing or unknown, or a value is not accepted.
    """
    settings = {"name": "own", **given}
    try:
        return Dialect(**{**settings, "codec": build_codec(settings.get("codec", {}))})
    except TypeError as error:
        raise ConfigError(f"dialect: {error}") from error

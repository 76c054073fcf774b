"""Names of everyday things: to teach that one class does not answer to every name, and to test it with other names."""

import re
import unicodedata
from collections.abc import Sequence

from lumen.errors import ConfigError

_TAUGHT = """
accordion acorn airplane anchor apple armchair avocado axe backpack bagpipe balloon banana barrel basket bathtub
bear bee bell belt bicycle binoculars blender bookshelf boomerang boot bottle bowl broom bucket butterfly cactus
calculator camel camera candle canoe carpet carrot castle cat caterpillar cello chair chandelier cheese chimney
clown coat coconut compass corkscrew cow crab crane crown cucumber cupboard curtain dolphin donkey door doughnut
dragonfly dress drill drum duck dumbbell eagle earring eggplant elephant envelope eraser escalator faucet feather
ferry flag flashlight flute fork fountain fox frisbee frog garlic giraffe globe glove goat goose gorilla grapes
guitar hammer hamster handbag harp hat
"""
_FOREIGN = """
alligator ambulance ant apron aquarium baguette bat battery beaver bed bench beret blackboard blueberry bread
broccoli bulldozer bus cake candy canary cannon car cauliflower cherry chicken cigarette clarinet crow desk diamond
dice dinosaur dog doll dove easel fan fence ferret fireplace fish flamingo flower football ginger glasses goldfish
grasshopper hamburger hammock helicopter horse iron jacket jellyfish jug kangaroo kettle key keyboard kite knife
koala ladder ladybug lamp laptop lemon lion lipstick lizard lobster magnet mailbox matches melon microphone
microscope microwave mirror monkey mop motorcycle mushroom nail necklace octopus onion orange ostrich owl panda
parachute parrot peacock pear pencil penguin piano
"""
VOCABULARIES = {"everyday": tuple(_TAUGHT.split())}
"""Lists of names by name, for configs."""
FOREIGN_NAMES = tuple(_FOREIGN.split())
"""A hundred names to test with; none is in a vocabulary, so that a test asks for what was not taught."""

_PLURALS = (("s$", ""), ("es$", ""), ("ies$", "y"))


def read_names(names: str | Sequence[str] | None) -> tuple[str, ...]:
    """Return names that are given in a list, or the vocabulary of a name; none for None.

    Raises:
        ConfigError: There is no such vocabulary, or a name is not a text, or empty.
    """
    if isinstance(names, str):
        if names not in VOCABULARIES:
            raise ConfigError(f"there is no vocabulary {names!r}, only {sorted(VOCABULARIES)}; or give a list of names")
        return VOCABULARIES[names]
    names = tuple(names or ())
    if not all(isinstance(name, str) and name.strip() for name in names):
        raise ConfigError(f"names must be texts that are not empty, got {names!r}")
    return tuple(dict.fromkeys(names))


def without_words_of(names: Sequence[str], phrases: Sequence[str]) -> tuple[str, ...]:
    """Return the names that share no word with any of the phrases: "dog" may well be there where "guide dog" is.

    Upper case, underscores, spaces and the plural with s make no other word.
    """
    known = {word for phrase in phrases for word in _words(phrase)}
    return tuple(name for name in names if not known & _words(name))


def _words(phrase: str) -> set[str]:
    """Return the words of a phrase and, as one more, the whole without spaces; each also without the s of a plural."""
    text = unicodedata.normalize("NFKC", phrase).casefold()
    words = re.findall(r"[^\W_]+", text)
    words.append("".join(words) or text.strip())  # a phrase may be a sign alone
    singular = (re.sub(ending, other, word) for word in words for ending, other in _PLURALS)
    return {word for word in (*words, *singular) if word}

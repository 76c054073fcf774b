"""Sentences about persons."""

from collections.abc import Set

import numpy as np

from lman_world.appearance import Appearance

_STARTS = ("a person", "someone", "a pedestrian")


def caption_of(appearance: Appearance, attributes: Set[str], rng: np.random.Generator) -> str:
    """Return a sentence that names the clothes, their colours, and most of what else shows."""
    head = [f"a {name}" if name in ("hat", "scarf") else name for name in ("hat", "glasses", "long hair", "scarf")]
    top = "striped top" if "striped top" in attributes else "plain top"
    sleeves = "long" if "long sleeves" in attributes else "short"
    bottom = next((name for name in ("skirt", "shorts") if name in attributes), "trousers")
    article = f"{_article(appearance.lower)} " if bottom == "skirt" else ""
    feet = " and boots" if "boots" in attributes else ""
    text = f"{rng.choice(_STARTS)} in {_article(appearance.upper)} {appearance.upper} {top} with {sleeves} sleeves"
    text += f" and {article}{appearance.lower} {bottom}{feet}"
    worn = [phrase for phrase in head if phrase.removeprefix("a ") in attributes]
    if worn:
        text += f", with {_join(worn)}"
    bags = [f"a {name}" for name in ("backpack", "handbag") if name in attributes]
    if bags:
        text += f", carrying {_join(bags)}"
    return text + (", seen from behind" if "seen from behind" in attributes else "")


def _article(word: str) -> str:
    return "an" if word[0] in "aeiou" else "a"


def _join(words: list[str]) -> str:
    return words[0] if len(words) == 1 else ", ".join(words[:-1]) + " and " + words[-1]

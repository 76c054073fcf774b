"""What a person wears: drawn at random, and kept by an identity over all its views."""

import colorsys
from dataclasses import dataclass, replace

import numpy as np

ATTRIBUTES = (
    "hat",
    "glasses",
    "long hair",
    "scarf",
    "long sleeves",
    "striped top",
    "skirt",
    "shorts",
    "boots",
    "backpack",
    "handbag",
    "seen from behind",
)
"""Binary attributes of a person in a picture. The last one, and whether glasses show, depend on the view."""

COLOURS = {
    "red": (0, 0.85, 0.8),
    "orange": (28, 0.9, 0.95),
    "yellow": (52, 0.85, 0.95),
    "green": (125, 0.7, 0.6),
    "blue": (220, 0.8, 0.75),
    "purple": (280, 0.6, 0.6),
    "pink": (335, 0.42, 0.95),
    "white": (0, 0.0, 0.95),
    "black": (0, 0.0, 0.14),
}
"""Hue in degrees, saturation and value of the colours of clothes."""

_FREQUENCY = {
    "hat": 0.35,
    "glasses": 0.5,
    "long hair": 0.4,
    "scarf": 0.35,
    "long sleeves": 0.5,
    "striped top": 0.4,
    "boots": 0.4,
    "backpack": 0.4,
    "handbag": 0.4,
}
_HAIR = ((30, 0.6, 0.2), (25, 0.7, 0.4), (45, 0.6, 0.8), (15, 0.75, 0.5), (0, 0.0, 0.6))
_SKIN = ((25, 0.3, 0.95), (25, 0.4, 0.85), (24, 0.5, 0.65), (22, 0.55, 0.45), (28, 0.35, 0.78))
_HUE_JITTER = 6.0
_VALUE_JITTER = 0.06

Rgb = tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class Appearance:
    """A person without pose and view.

    Args:
        wears: Attributes that do not depend on the view; glasses show from the front only.
        upper: Name of the colour of the upper clothes.
        lower: Name of the colour of trousers, shorts or skirt.
        inks: RGB of ``upper``, ``lower``, ``skin``, ``hair``, ``extra`` (hat and bags), ``scarf`` and ``shoes``.
        build: Width of the body; 1 is the mean.
    """

    wears: frozenset[str]
    upper: str
    lower: str
    inks: dict[str, Rgb]
    build: float

    @property
    def twin(self) -> "Appearance":
        """The same person with the colours of upper and lower clothes exchanged."""
        inks = self.inks | {"upper": self.inks["lower"], "lower": self.inks["upper"]}
        return replace(self, upper=self.lower, lower=self.upper, inks=inks)


def sample_appearance(rng: np.random.Generator) -> Appearance:
    """Draw a person; the colours of upper and lower clothes differ."""
    wears = {name for name, share in _FREQUENCY.items() if rng.random() < share}
    wears |= ({"skirt"}, {"shorts"}, set())[rng.integers(3)]
    upper, lower, extra, scarf, shoes = rng.permutation(list(COLOURS))[:5].tolist()
    inks = {
        "upper": _ink(COLOURS[upper], rng),
        "lower": _ink(COLOURS[lower], rng),
        "skin": _ink(_SKIN[rng.integers(len(_SKIN))], rng),
        "hair": _ink(_HAIR[rng.integers(len(_HAIR))], rng),
        "extra": _ink(COLOURS[extra], rng),
        "scarf": _ink(COLOURS[scarf], rng),
        "shoes": _ink(COLOURS[shoes], rng),
    }
    return Appearance(frozenset(wears), upper, lower, inks, float(rng.uniform(0.85, 1.2)))


def _ink(colour: tuple[float, float, float], rng: np.random.Generator) -> Rgb:
    hue, saturation, value = colour
    hue = (hue + rng.uniform(-_HUE_JITTER, _HUE_JITTER)) % 360 / 360
    value = float(np.clip(value + rng.uniform(-_VALUE_JITTER, _VALUE_JITTER), 0, 1))
    return tuple(round(255 * part) for part in colorsys.hsv_to_rgb(hue, saturation, value))


def shade(ink: Rgb, factor: float) -> Rgb:
    """Return a darker or lighter tone of a colour."""
    return tuple(min(255, round(part * factor)) for part in ink)

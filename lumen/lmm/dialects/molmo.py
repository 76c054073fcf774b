"""Points in tags, as Molmo and Molmo 2 write them; these models write no boxes.

Molmo counts hundredths of a side with one decimal, Molmo 2 thousandths.

Source:
    Deitke et al., "Molmo and PixMo" (2024); discussion "Code to retrieve points" of the authors at allenai/Molmo-7B-O
    (numbers up to 100). Clark et al., "Molmo2" (2026), and the card of allenai/Molmo2-8B: ``coords`` holds the number
    of the image, then for each point its own number, x and y up to 1000.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from lumen.codecs import NOTHING, NUMBER, THOUSANDTHS, Numbers, Place, Reading, Size
from lumen.lmm.dialects.dialect import Dialect

_HUNDREDTHS = Numbers("steps", bins=100)
_TAG = re.compile(r"<points?\b(?P<fields>[^<>]*)(?:>(?P<name>[^<]*)|\Z)")
_PAIR = re.compile(rf'x\d*\s*=\s*"\s*({NUMBER})\s*"\s+y\d*\s*=\s*"\s*({NUMBER})\s*"')
_X = re.compile(r"\bx\d*\s*=")
_COORDS = re.compile(r'coords\s*=\s*"([^"]*)')
_TRIPLE = re.compile(r"(?<!\S)\d+ +(\d+) +(\d+)(?!\S)")


@dataclass(frozen=True, slots=True)
class PointTags:
    """Points as ``<point x="10.0" y="20.5" alt="dog">dog</point>``, and several as ``<points x1=... y1=...``."""

    numbers: Numbers = _HUNDREDTHS

    def encode(self, values: Sequence[Sequence[float | int]], input_hw: Size, name: str = "") -> str:
        """Return the text of points of one name."""
        written = [[f"{int(number) / 10:.1f}" for number in THOUSANDTHS.write_all(point, input_hw)] for point in values]
        if len(written) == 1:
            return f'<point x="{written[0][0]}" y="{written[0][1]}" alt="{name}">{name}</point>'
        fields = " ".join(f'x{number}="{x}" y{number}="{y}"' for number, (x, y) in enumerate(written, start=1))
        return f'<points {fields} alt="{name}">{name}</points>' if written else NOTHING

    def decode(self, text: str, input_hw: Size) -> Reading:
        """Return the points that a text names."""
        reading = Reading()
        for tag in _TAG.finditer(text):
            pairs = list(_PAIR.finditer(text, *tag.span("fields")))
            for pair in pairs:
                reading.add(_point(self.numbers, tag, pair, input_hw))
            reading.unparsed += max(len(_X.findall(tag["fields"])), 1) - len(pairs)
        return reading.finished(text)


@dataclass(frozen=True, slots=True)
class PointLists:
    """Points as ``<points coords="1 1 100 205 2 300 400">dogs</points>``."""

    numbers: Numbers = THOUSANDTHS

    def encode(self, values: Sequence[Sequence[float | int]], input_hw: Size, name: str = "") -> str:
        """Return the text of points of one name."""
        written = [[f"{int(number):03d}" for number in self.numbers.write_all(point, input_hw)] for point in values]
        triples = " ".join(f"{number} {x} {y}" for number, (x, y) in enumerate(written, start=1))
        return f'<points coords="1 {triples}">{name}</points>' if written else "There are none."

    def decode(self, text: str, input_hw: Size) -> Reading:
        """Return the points that a text names."""
        reading = Reading()
        for tag in _TAG.finditer(text):
            coords = _COORDS.search(text, *tag.span("fields"))
            if coords is None:
                reading.add(None)
                continue
            # The number of the image comes first; what is left over behind whole triples is a point that was cut off.
            words = coords[1].split()
            start = coords.start(1) + len(coords[1]) - len(coords[1].lstrip()) + len(words[0]) if words else 0
            triples = list(_TRIPLE.finditer(text, start, coords.end(1))) if words else []
            for triple in triples:
                reading.add(_point(self.numbers, tag, triple, input_hw))
            reading.unparsed += int(len(words) != 1 + 3 * len(triples))
        return Reading() if "there are none" in text.casefold() and not reading.places else reading.finished(text)


def _point(numbers: Numbers, tag: re.Match[str], pair: re.Match[str], input_hw: Size) -> Place | None:
    values = numbers.read_all([pair[1], pair[2]], input_hw)
    if values is None:
        return None
    has_name = bool((tag["name"] or "").strip())
    name_at = tag.span("name") if has_name else None
    return Place(values, (pair.span(1), pair.span(2)), tag["name"].strip() if has_name else None, name_at)


MOLMO = Dialect("molmo", question="Point to {text}.", codec=PointTags())
MOLMO2 = Dialect("molmo2", question="Point to {text}.", codec=PointLists())

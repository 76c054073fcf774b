"""Location tokens, y before x, as PaliGemma and PaliGemma 2 write them.

``<loc0000>`` to ``<loc1023>`` are 1024ths of a side. Segmentation codes, ``<seg000>`` to ``<seg127>``, are unsupported:
the mask that they stand for needs a network of its own. The box before them is read all the same, with a warning.

Source:
    "PaliGemma prompt and system instructions", ai.google.dev/gemma/docs/paligemma; the order and the 1024 steps also in
    Beyer et al., "PaliGemma" (2024), section 3.2.
"""

import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass

from lumen.codecs import Numbers, Place, Reading, Size, is_box
from lumen.lmm.dialects.dialect import Dialect

_LOGGER = logging.getLogger(__name__)

_ENTRY = re.compile(r"(?:<loc\d+>\s*)+(?P<codes>(?:<seg\d+>)*)(?P<name>[^;<\n]*)")
_LOCATION = re.compile(r"<loc(\d{4})>")
_STEPS = Numbers("steps", bins=1024)
_LAST = 1023


@dataclass(frozen=True, slots=True)
class LocationTokens:
    """Boxes as ``<loc0100><loc0200><loc0300><loc0400> dog ; ...``: ymin, xmin, ymax, xmax."""

    numbers: Numbers = _STEPS

    def encode(self, values: Sequence[Sequence[float | int]], input_hw: Size, name: str = "") -> str:
        """Return the text of boxes of one name; empty for no box. The far edge becomes the last of 1024 tokens."""
        entries = []
        for box in values:
            x1, y1, x2, y2 = (min(int(number), _LAST) for number in self.numbers.write_all(box, input_hw))
            entries.append("".join(f"<loc{number:04d}>" for number in (y1, x1, y2, x2)) + f" {name}")
        return " ; ".join(entries)

    def decode(self, text: str, input_hw: Size) -> Reading:
        """Return the boxes that a text names."""
        reading = Reading()
        for match in _ENTRY.finditer(text):
            if match["codes"]:
                _LOGGER.warning("segmentation codes such as <seg000> are unsupported; the box before them is read")
            reading.add(self._place(text, match, input_hw))
        return reading.finished(text)

    def _place(self, text: str, match: re.Match[str], input_hw: Size) -> Place | None:
        tokens = list(_LOCATION.finditer(text, match.start(), match.start("codes")))
        if len(tokens) != 4:
            return None
        y1, x1, y2, x2 = tokens
        ordered = [x1, y1, x2, y2]
        values = self.numbers.read_all([token[1] for token in ordered], input_hw)
        if values is None or not is_box(values):
            return None
        name_at = match.span("name") if match["name"].strip() else None
        name = match["name"].strip() or None
        return Place(values, tuple(token.span() for token in ordered), name, name_at)


PALIGEMMA = Dialect(
    "paligemma",
    question="detect {text}",
    codec=LocationTokens(),
    separator=" ; ",
    score="name",
    framing="stretch",
)

"""Names in ``<ref>`` and boxes in ``<box>``, in thousandths of the sides, as InternVL writes them.

Source:
    Chat data format, "Grounding / detection data", internvl.readthedocs.io: ``<ref>class name</ref><box>[[x1, y1, x2,
    y2], ...]</box>``, coordinates from 0 to 1000. The question is that of its evaluation on RefCOCO.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from lumen.codecs import THOUSANDTHS, Numbers, Reading, Size, Span, is_box
from lumen.lmm.dialects.dialect import Dialect

_ENTRY = re.compile(r"(?:<ref>(?P<name>.*?)</ref>)?\s*(?:<box>)?\s*(?P<boxes>\[[^<]*)", re.DOTALL)
_EMPTY = re.compile(r"(?:<ref>[^<]*</ref>)?<box>[\[\]\s]*</box>")
_BOX = re.compile(r"\[([^\[\]]*)(?:\]|\Z)")
_FOUR = re.compile(r"\s*\d+\s*(?:,\s*\d+\s*){3}")


@dataclass(frozen=True, slots=True)
class RefBoxes:
    """Boxes as ``<ref>dog</ref><box>[[x1, y1, x2, y2], ...]</box>``; the tags may be missing."""

    numbers: Numbers = THOUSANDTHS

    def encode(self, values: Sequence[Sequence[float | int]], input_hw: Size, name: str = "") -> str:
        """Return the text of boxes of one name."""
        boxes = ", ".join(f"[{', '.join(self.numbers.write_all(box, input_hw))}]" for box in values)
        return f"<ref>{name}</ref><box>[{boxes}]</box>"

    def decode(self, text: str, input_hw: Size) -> Reading:
        """Return the boxes that a text names."""
        reading = Reading()
        for match in _ENTRY.finditer(text):
            name_at = None if match["name"] is None else match.span("name")
            read_list(reading, self.numbers, text, match.span("boxes"), input_hw, name_at)
        return reading.finished(_EMPTY.sub("", text))


def read_list(
    reading: Reading, numbers: Numbers, text: str, at: Span, input_hw: Size, name_at: Span | None = None
) -> None:
    """Add the boxes of ``[[x1, y1, x2, y2], ...]``, a part of a text; what is cut off or not a box is counted."""
    for box in _BOX.finditer(text, *at):
        if not box[1].strip():
            continue
        is_whole = box[0].endswith("]") and _FOUR.fullmatch(box[1]) is not None
        reading.add(numbers.place(text, box.span(1), input_hw, is_box, name_at) if is_whole else None)


INTERNVL = Dialect(
    "internvl",
    question="Please provide the bounding box coordinate of the region this sentence describes: <ref>{text}</ref>",
    codec=RefBoxes(),
    framing="stretch",
)

"""Corners between special tokens, in thousandths of the sides, as Qwen2-VL writes them.

Source:
    Wang et al., "Qwen2-VL" (2024), section 2.2.1: boxes are normalised to [0, 1000) and stand between
    ``<|box_start|>`` and ``<|box_end|>``, names between ``<|object_ref_start|>`` and ``<|object_ref_end|>``.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from lumen.codecs import NOTHING, THOUSANDTHS, Numbers, Reading, Size, is_box
from lumen.lmm.dialects.dialect import Dialect

_NAMED = re.compile(
    r"(?:<\|object_ref_start\|>(?P<name>.*?)<\|object_ref_end\|>)?\s*"
    r"<\|box_start\|>(?P<box>.*?)(?:<\|box_end\|>|\Z)",
    re.DOTALL,
)
_CORNERS = re.compile(r"\s*\(\s*\d+\s*,\s*\d+\s*\)\s*,\s*\(\s*\d+\s*,\s*\d+\s*\)\s*")


@dataclass(frozen=True, slots=True)
class Corners:
    """Boxes as ``<|object_ref_start|>dog<|object_ref_end|><|box_start|>(x1,y1),(x2,y2)<|box_end|>``."""

    numbers: Numbers = THOUSANDTHS

    def encode(self, values: Sequence[Sequence[float | int]], input_hw: Size, name: str = "") -> str:
        """Return the text of boxes of one name."""
        written = [self.numbers.write_all(box, input_hw) for box in values]
        return (
            "".join(
                f"<|object_ref_start|>{name}<|object_ref_end|><|box_start|>({x1},{y1}),({x2},{y2})<|box_end|>"
                for x1, y1, x2, y2 in written
            )
            or NOTHING
        )

    def decode(self, text: str, input_hw: Size) -> Reading:
        """Return the boxes that a text names."""
        reading = Reading()
        for match in _NAMED.finditer(text):
            name_at = None if match["name"] is None else match.span("name")
            is_whole = _CORNERS.fullmatch(match["box"]) is not None
            reading.add(self.numbers.place(text, match.span("box"), input_hw, is_box, name_at) if is_whole else None)
        return reading.finished(text)


QWEN2_VL = Dialect(
    "qwen2_vl",
    question="Please provide the bounding box coordinate of the region this sentence describes: "
    "<|object_ref_start|>{text}<|object_ref_end|>",
    codec=Corners(),
)

"""Boxes between special tokens, in thousandths of the sides, as GLM-4.1V, GLM-4.5V and GLM-4.6V write them.

JSON objects with ``bbox_2d`` are read too.

Source:
    README of zai-org/GLM-V, "Grounding": coordinates between ``<|begin_of_box|>`` and ``<|end_of_box|>``, normalised to
    0 to 1000; the question is that of the model card of GLM-4.6V. No label is written.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from lumen.codecs import THOUSANDTHS, Numbers, Reading, Size
from lumen.lmm.dialects.dialect import Dialect
from lumen.lmm.dialects.internvl import read_list
from lumen.lmm.dialects.json_objects import JsonObjects

_MARKED = re.compile(r"<\|begin_of_box\|>(.*?)(?:<\|end_of_box\|>|\Z)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class MarkedBoxes:
    """Boxes as ``<|begin_of_box|>[[x1,y1,x2,y2], ...]<|end_of_box|>``."""

    numbers: Numbers = THOUSANDTHS

    def encode(self, values: Sequence[Sequence[float | int]], input_hw: Size, name: str = "") -> str:
        """Return the text of boxes; the name is not written."""
        boxes = ",".join(f"[{','.join(self.numbers.write_all(box, input_hw))}]" for box in values)
        return f"<|begin_of_box|>[{boxes}]<|end_of_box|>"

    def decode(self, text: str, input_hw: Size) -> Reading:
        """Return the boxes that a text names."""
        spans = [match.span(1) for match in _MARKED.finditer(text)] or [(0, len(text))]
        reading = Reading()
        for begin, end in spans:
            if "{" in text[begin:end]:
                # The same columns as in the whole text, so that the places of numbers stay what they are.
                objects = JsonObjects(self.numbers).decode(" " * begin + text[begin:end], input_hw)
                reading.places += objects.places
                reading.unparsed += objects.unparsed
            else:
                read_list(reading, self.numbers, text, (begin, end), input_hw)
        return reading.finished(re.sub(r"<\|(?:begin|end)_of_box\|>", "", text))


GLM4V = Dialect(
    "glm4v",
    question="Where is {text} in the image? Provide coordinates in [[xmin,ymin,xmax,ymax]] format",
    codec=MarkedBoxes(),
)

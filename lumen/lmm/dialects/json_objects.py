"""JSON objects with a box and a label, as the Qwen-VL line writes them from 2.5 on.

Qwen2.5-VL counts pixels of the image that it was given, Qwen3-VL and Qwen3.5 thousandths of its sides.

Source:
    ``cookbooks/spatial_understanding.ipynb`` of the Qwen2.5-VL repository and ``cookbooks/2d_grounding.ipynb`` of the
    Qwen3-VL repository (QwenLM).
"""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from lumen.codecs import THOUSANDTHS, Numbers, Place, Reading, Size, is_box
from lumen.lmm.dialects.dialect import Dialect

_OBJECT = re.compile(r"\{[^{}]*(?:\}|\Z)")
_BOX = re.compile(r'"bbox(?:_2d)?"\s*:\s*\[([^\]]*)\]')
_LABEL = re.compile(r'"label"\s*:\s*"((?:[^"\\]|\\.)*)"')


@dataclass(frozen=True, slots=True)
class JsonObjects:
    """Boxes as ``[{"bbox_2d": [x1, y1, x2, y2], "label": "dog"}, ...]``, also in a code fence or cut off at the end.

    Args:
        numbers: How a coordinate is written.
    """

    numbers: Numbers

    def encode(self, values: Sequence[Sequence[float | int]], input_hw: Size, name: str = "") -> str:
        """Return the text of boxes of one name."""
        label = json.dumps(name, ensure_ascii=False)
        objects = [
            f'\t{{"bbox_2d": [{", ".join(self.numbers.write_all(box, input_hw))}], "label": {label}}}' for box in values
        ]
        return "```json\n[\n" + ",\n".join(objects) + "\n]\n```" if objects else "```json\n[]\n```"

    def decode(self, text: str, input_hw: Size) -> Reading:
        """Return the boxes that a text names; objects that are cut off or hold no box are counted."""
        reading = Reading()
        for match in _OBJECT.finditer(text):
            reading.add(self._place(text, match, input_hw))
        return reading.finished(text)

    def _place(self, text: str, match: re.Match[str], input_hw: Size) -> Place | None:
        try:
            json.loads(match.group())
        except (json.JSONDecodeError, RecursionError):
            return None
        box, label = _BOX.search(text, *match.span()), _LABEL.search(text, *match.span())
        if box is None:
            return None
        place = self.numbers.place(text, box.span(1), input_hw, is_box, None if label is None else label.span(1))
        return place if place is None or label is None else replace(place, name=json.loads(f'"{label[1]}"').strip())


QWEN2_5_VL = Dialect(
    "qwen2_5_vl",
    question=(
        "Locate every item from the category list in the image and output the coordinates in JSON format. "
        "The category set includes {text}."
    ),
    codec=JsonObjects(Numbers("pixels")),
    separator=", ",
)
QWEN3_VL = Dialect(
    "qwen3_vl",
    question=(
        'Locate every instance that belongs to the following categories: "{text}". Report bbox coordinates in JSON '
        "format."
    ),
    codec=JsonObjects(THOUSANDTHS),
    separator=", ",
)

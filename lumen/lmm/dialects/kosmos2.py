"""Two patches of a 32 x 32 grid, one token each, as Kosmos-2 writes them: upper left, lower right.

Source:
    Peng et al., "Kosmos-2" (2023); what the tokens stand for is computed by transformers' processor of the model.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from lumen.codecs import NOTHING, Place, Reading, Size, is_box
from lumen.lmm.dialects.dialect import Dialect

SIDE = 32
"""Patches of a side."""
_ENTRY = re.compile(r"(?:<phrase>(?P<name>[^<]*)</phrase>)?\s*<object>(?P<pairs>.*?)(?:</object>|\Z)", re.DOTALL)
_PATCH = re.compile(r"<patch_index_(\d{4})>")
_DELIMITER = "</delimiter_of_multi_objects/>"


@dataclass(frozen=True, slots=True)
class PatchPairs:
    """Boxes as ``<phrase>dog</phrase><object><patch_index_0044><patch_index_0863></object>``."""

    def encode(self, values: Sequence[Sequence[float | int]], input_hw: Size, name: str = "") -> str:
        """Return the text of boxes of one name."""
        from transformers.models.kosmos2.processing_kosmos2 import coordinate_to_patch_index  # slow to import

        pairs = []
        for x1, y1, x2, y2 in values:
            # A box without extent gets the patch that it lies in.
            left, top = (min(low / side, 1 - 1 / SIDE) for low, side in ((x1, input_hw[1]), (y1, input_hw[0])))
            right, bottom = max(x2 / input_hw[1], left + 1e-6), max(y2 / input_hw[0], top + 1e-6)
            indices = coordinate_to_patch_index((left, top, right, bottom), SIDE)
            pairs.append("".join(f"<patch_index_{index:04d}>" for index in indices))
        return f"<phrase>{name}</phrase><object>{_DELIMITER.join(pairs)}</object>" if pairs else NOTHING

    def decode(self, text: str, input_hw: Size) -> Reading:
        """Return the boxes that a text names."""
        reading = Reading()
        for entry in _ENTRY.finditer(text):
            start = entry.start("pairs")
            for pair in entry["pairs"].split(_DELIMITER):
                reading.add(_box(text, start, start + len(pair), entry, input_hw))
                start += len(pair) + len(_DELIMITER)
        return reading.finished(text)


def _box(text: str, start: int, end: int, entry: re.Match[str], input_hw: Size) -> Place | None:
    tokens = list(_PATCH.finditer(text, start, end))
    if len(tokens) != 2 or any(int(token[1]) >= SIDE * SIDE for token in tokens):
        return None
    from transformers.models.kosmos2.processing_kosmos2 import patch_index_to_coordinate  # slow to import

    shares = patch_index_to_coordinate(int(tokens[0][1]), int(tokens[1][1]), SIDE)
    values = tuple(share * input_hw[1 - place % 2] for place, share in enumerate(shares))
    if not is_box(values):
        return None
    name_at = entry.span("name") if (entry["name"] or "").strip() else None
    return Place(values, tuple(token.span() for token in tokens), name_at and entry["name"].strip(), name_at)


KOSMOS2 = Dialect(
    "kosmos2",
    question="<grounding><phrase> {text}</phrase>",
    codec=PatchPairs(),
    score="name",
    framing="stretch",
)

"""Words that a mirror makes wrong: "left" and "right", and in pictures turned upside down "above" and the like."""

import re

from lumen.ops.geometry import InputTransform

# Without a boundary at the end: leftmost and rightmost, too.
_LEFT_RIGHT = re.compile(r"\b(left|right)", re.IGNORECASE)
_UP_DOWN = re.compile(
    r"\b(top|bottom|above|below|over|under|up|down|upper|lower|highest|lowest|uppermost|lowermost)", re.IGNORECASE
)
_OTHER_SIDE = {"left": "right", "right": "left"}


def exchange_sides(text: str) -> str:
    """Return the text with "left" for "right" and the reverse, also at the start of words such as "leftmost"."""
    return _LEFT_RIGHT.sub(lambda found: _OTHER_SIDE[found[0].lower()], text)


def is_mirrored_wrong(text: str, frame: InputTransform, *, exchanged: bool = False) -> bool:
    """Return whether the text names a side, in English, that the view has mirrored.

    Args:
        text: A sentence or a question.
        frame: The view.
        exchanged: Left and right will be exchanged in the text, so a mirrored left or right is not an error.
    """
    scale_x, scale_y = frame.scale_xy
    is_wrong_side = scale_x < 0 and not exchanged and bool(_LEFT_RIGHT.search(text))
    return is_wrong_side or (scale_y < 0 and bool(_UP_DOWN.search(text)))

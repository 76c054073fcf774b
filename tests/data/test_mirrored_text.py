import pytest

from lumen.data.mirrored_text import exchange_sides, is_mirrored_wrong
from lumen.ops.geometry import InputTransform

PLAIN = InputTransform.stretch((8, 8), (8, 8))


@pytest.mark.parametrize(
    ("text", "exchanged"),
    [
        ("the star left of the ring", "the star right of the ring"),
        ("the leftmost of the right ones", "the rightmost of the left ones"),
        ("bright upright shapes", "bright upright shapes"),
        ("", ""),
    ],
)
def test_sides_are_exchanged_and_back(text, exchanged):
    assert exchange_sides(text) == exchanged
    assert exchange_sides(exchanged) == text


def test_only_a_mirrored_view_makes_a_side_wrong():
    assert not is_mirrored_wrong("left of it", PLAIN)
    assert is_mirrored_wrong("left of it", PLAIN.flip_horizontal())
    assert not is_mirrored_wrong("left of it", PLAIN.flip_horizontal(), exchanged=True)
    assert not is_mirrored_wrong("above it", PLAIN.flip_horizontal())
    assert is_mirrored_wrong("above it", PLAIN.flip_vertical(), exchanged=True)

import pytest

from lumen.corner_words import CornerWords
from lumen.errors import ConfigError

BOX = (11.9, 48.2, 34.0, 80.0)


def boxes_in(text, codec=None, size_hw=(160, 160)):
    return [place.values for place in (codec or CornerWords(40)).decode(text, size_hw).places]


def test_a_box_is_rounded_to_lines():
    assert CornerWords(40).encode([BOX], (160, 160)) == "<x0_3><y0_12><x1_8><y1_20>"
    assert boxes_in("<x0_3><y0_12><x1_8><y1_20>") == [(12.0, 48.0, 32.0, 80.0)]
    assert boxes_in(" it is <x0_1> <y0_2> <x1_3> <y1_4>.", size_hw=(80, 40)) == [(1.0, 4.0, 3.0, 8.0)]


def test_several_boxes_and_none():
    codec = CornerWords(10)
    text = codec.encode([(0.0, 0.0, 10.0, 10.0), (20.0, 20.0, 30.0, 40.0)], (100, 100))
    assert boxes_in(text, codec, (100, 100)) == [(0.0, 0.0, 10.0, 10.0), (20.0, 20.0, 30.0, 40.0)]
    reading = codec.decode(codec.encode([], (100, 100)), (100, 100))
    assert (reading.places, reading.unparsed) == ([], 0)


def test_numbers_of_a_place_are_its_words():
    place = CornerWords(40).decode("a <x0_1><y0_2><x1_3><y1_4>", (40, 40)).places[0]
    assert place.numbers == ((2, 8), (8, 14), (14, 20), (20, 26))


def test_each_corner_survives_within_half_a_step():
    codec, box = CornerWords(8), (3.0, 30.0, 61.0, 127.0)
    (found,) = boxes_in(codec.encode([box], (128, 64)), codec, (128, 64))
    assert all(abs(a - b) <= step for a, b, step in zip(found, box, (4.0, 8.0, 4.0, 8.0), strict=True))


def test_a_box_beyond_the_image_is_clamped():
    assert CornerWords(10).lines((-5.0, 0.0, 200.0, 100.0), (100, 100)) == (0, 0, 10, 10)


@pytest.mark.parametrize(
    "text",
    [
        "<x0_3><y0_12><x1_8>",
        "<x0_3><x0_3><x1_8><y1_20>",
        "<x0_3><y0_12><x1_8><y1_41>",
        "<x0_8><y0_12><x1_3><y1_20>",
        "0.1,0.2,0.3,0.4",
    ],
)
def test_what_is_not_a_box_is_counted(text):
    reading = CornerWords(40).decode(text, (160, 160))
    assert (reading.places, reading.unparsed) == ([], 1)


def test_all_words_differ_and_what_is_not_a_box_is_refused():
    assert len(set(CornerWords(40).words)) == 4 * 41
    with pytest.raises(ConfigError, match="at least 1"):
        CornerWords(0)
    with pytest.raises(ValueError, match="not the coordinates of a box"):
        CornerWords().encode([(5.0, 0.0, 1.0, 1.0)], (10, 10))


def test_a_number_of_thousands_of_digits_is_counted():
    reading = CornerWords().decode(f"<x0_{'9' * 5000}><y0_1><x1_2><y1_3>", (160, 160))
    assert not reading.places and reading.unparsed == 1

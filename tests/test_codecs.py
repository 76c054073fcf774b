import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lumen.codecs import BoxCodec, Numbers, PointCodec, PolygonCodec, build_codec
from lumen.errors import ConfigError

HW = (200, 400)
STYLES = [
    {"style": "decimals", "digits": 2},
    {"style": "decimals", "digits": 3},
    {"style": "bins", "bins": 40},
    {"style": "steps", "bins": 1000},
    {"style": "pixels"},
]
share = st.floats(0, 1)


def pixels(shares):
    return [value * HW[1 - place % 2] for place, value in enumerate(shares)]


def boxes(shares):
    (x1, x2), (y1, y2) = sorted(shares[::2]), sorted(shares[1::2])
    return pixels([x1, y1, x2, y2])


def check_round_trip(codec, places):
    read = codec.decode(codec.encode(places, HW), HW)
    assert read.unparsed == 0
    assert len(read.places) == len(places)
    steps = [codec.numbers.step(side) for side in (HW[1], HW[0])]
    for place, values in zip(read.places, places, strict=True):
        assert len(place.numbers) == len(values)
        for number, (got, wanted) in enumerate(zip(place.values, values, strict=True)):
            assert abs(got - wanted) <= steps[number % 2] / 2 + 1e-6


@pytest.mark.parametrize("options", STYLES, ids=str)
@settings(max_examples=25, deadline=None)
@given(st.lists(st.lists(share, min_size=4, max_size=4), max_size=4))
def test_boxes_come_back_within_half_a_step(options, shares):
    check_round_trip(BoxCodec(**options), [boxes(four) for four in shares])


@pytest.mark.parametrize("options", STYLES, ids=str)
@settings(max_examples=20, deadline=None)
@given(st.lists(st.lists(share, min_size=2, max_size=2), max_size=4))
def test_points_come_back_within_half_a_step(options, shares):
    check_round_trip(PointCodec(**options), [pixels(two) for two in shares])


@settings(max_examples=20, deadline=None)
@given(st.lists(st.lists(st.tuples(share, share), min_size=3, max_size=5), max_size=3))
def test_polygons_come_back_within_half_a_step(polygons):
    check_round_trip(PolygonCodec(), [pixels([value for point in each for value in point]) for each in polygons])


@settings(max_examples=100, deadline=None)
@given(st.text(alphabet="01.5,;[]()- x\n{}", max_size=40))
def test_no_text_is_too_broken_to_be_read(text):
    for codec in (BoxCodec(), PointCodec(style="bins"), PolygonCodec(style="pixels")):
        read = codec.decode(text, HW)
        assert read.unparsed >= 0
        for place in read.places:
            assert all(0 <= value <= 400 for value in place.values)


@pytest.mark.parametrize(
    ("text", "box"),
    [
        ("0,0,1,1", (0, 0, 400, 200)),
        ("0.0, 0, 1.00, .5", (0, 0, 400, 100)),
        ("[0.5,0.5,0.75,1.]", (200, 100, 300, 200)),
        ("0.010,0.200,0.051,0.400", (4, 40, 20.4, 80)),
        ("The box is [0.5, 0.5, 0.5, 0.5].", (200, 100, 200, 100)),
        ("0,0,1,1.", (0, 0, 400, 200)),
    ],
)
def test_shares_are_read_in_every_spelling(text, box):
    read = BoxCodec().decode(text, HW)
    assert read.unparsed == 0
    assert read.places[0].values == pytest.approx(box)


def test_the_place_of_each_number_is_known():
    text = "box: [0.5, 0.5,1,1]; 0,0,.25,1"
    read = BoxCodec().decode(text, HW)
    assert [[text[start:end] for start, end in place.numbers] for place in read.places] == [
        ["0.5", "0.5", "1", "1"],
        ["0", "0", ".25", "1"],
    ]


@pytest.mark.parametrize(
    ("text", "num_boxes", "unparsed"),
    [
        ("", 0, 0),
        ("none", 0, 0),
        ("None.", 0, 0),
        ("[]", 0, 0),
        ("I see no dog", 0, 1),
        ("0.5,0.5,0.4,0.6", 0, 1),  # corners reversed
        ("0.1 0.2,0.3,0.4", 0, 1),  # a comma is missing
        ("0.1,0.2,0.3", 0, 1),
        ("0.1,0.2,0.3,0.4,0.5", 0, 1),
        ("0.1,0.2,0.3,1.5", 0, 1),
        ("-0.1,0.2,0.3,0.5", 0, 1),
        ("12,34,56,78", 0, 1),  # pixels where shares belong
        ("0.1,0.2,0.3,0.4; 0.5,0.6", 1, 1),  # cut off
        ("0.1..2,0.3,0.4,0.5", 0, 1),
        ("0.1,0.2,0.3,0.4 [0.1,0.2,0.3,0.4] 7", 2, 1),
    ],
)
def test_what_does_not_parse_is_counted(text, num_boxes, unparsed):
    read = BoxCodec().decode(text, HW)
    assert (len(read.places), read.unparsed) == (num_boxes, unparsed)


def test_numbers_of_each_style_are_worked_out_by_hand():
    assert Numbers("decimals", digits=2).write(51, 400) == "0.13"
    bins = Numbers("bins", bins=40)
    assert [bins.write(pixel, 400) for pixel in (0, 9.9, 10, 400, -3)] == ["0", "0", "1", "39", "0"]
    assert bins.read("39", 400) == 395
    assert bins.read("40", 400) is None
    assert bins.read("1.5", 400) is None
    steps = Numbers("steps", bins=1000)
    assert steps.write(400, 400) == "1000"
    assert steps.read("1000", 400) == 400
    assert steps.read("1001", 400) is None
    assert Numbers("pixels").read("403", 400) == 400
    assert Numbers("pixels").read("900", 400) is None


def test_a_codec_of_a_config_is_a_dict():
    assert build_codec({"style": "bins", "bins": 40}) == BoxCodec("bins", bins=40)
    assert build_codec({"type": PointCodec}) == PointCodec()
    assert build_codec(BoxCodec()) == BoxCodec()
    for wrong in ({"colour": 1}, {"style": "words"}, {"bins": 1}):
        with pytest.raises(ConfigError):
            build_codec(wrong)


def test_what_is_not_a_box_is_not_encoded():
    with pytest.raises(ValueError, match="not the coordinates of a box"):
        BoxCodec().encode([(5, 5, 1, 1)], HW)

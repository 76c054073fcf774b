"""Answers of each format, written by hand after the public documentation that the file of the dialect names."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lumen.codecs import BoxCodec
from lumen.errors import ConfigError
from lumen.lmm.dialects import DIALECTS, Dialect, choose_dialect, require_dialect
from lumen.lmm.dialects.molmo import PointTags

HW = (500, 1000)
POINTS = ("molmo", "molmo2")
BOXES = [name for name in DIALECTS if name not in POINTS]
STEPS = {
    "qwen2_5_vl": (1, 1),
    "corner_words": (1000 / 40, 500 / 40),
    "paligemma": (2000 / 1024, 1000 / 1024),  # the far edge becomes the last of 1024 tokens, so up to a whole step
    "kosmos2": (2 * 1000 / 32, 2 * 500 / 32),  # boxes within one row or column of patches are read as whole patches
}
UNNAMED = ("glm4v", "decimals", "corner_words")

RECORDED = {
    "qwen2_vl": (
        "<|object_ref_start|>the black cat<|object_ref_end|><|box_start|>(139,768),(315,954)<|box_end|>",
        [("the black cat", (139, 384, 315, 477))],
    ),
    "qwen2_5_vl": (
        '```json\n[\n\t{"bbox_2d": [382, 64, 481, 240], "label": "cake"},\n'
        '\t{"bbox_2d": [31, 75, 140, 130], "label": "red cup"}\n]\n```',
        [("cake", (382, 64, 481, 240)), ("red cup", (31, 75, 140, 130))],
    ),
    "qwen3_vl": (
        '[{"bbox_2d": [139, 768, 315, 954], "label": "cat"}, {"bbox_2d": [366, 679, 536, 849], "label": "dog"}]',
        [("cat", (139, 384, 315, 477)), ("dog", (366, 339.5, 536, 424.5))],
    ),
    "paligemma": (
        "<loc0256><loc0128><loc0512><loc1023> cat ; <loc0000><loc0512><loc1023><loc0768> dog",
        [("cat", (125, 125, 999.0234375, 250)), ("dog", (500, 0, 750, 499.51171875))],
    ),
    "internvl": (
        "<ref>circle</ref><box>[[278,24,354,100],[515, 10, 611, 106]]</box>",
        [("circle", (278, 12, 354, 50)), ("circle", (515, 5, 611, 53))],
    ),
    "glm4v": (
        "The coordinates of the second bottle of beer from the right on the table are "
        "<|begin_of_box|>[[94,598,177,991]]<|end_of_box|>.",
        [(None, (94, 299, 177, 495.5))],
    ),
    "molmo": (
        'Counting the <points x1="9.1" y1="11.7" x2="17.2" y2="41.3" alt="the boats">the boats</points> shows 2.',
        [("the boats", (91, 58.5)), ("the boats", (172, 206.5))],
    ),
    "molmo2": (
        '<points coords="1 1 073 160 2 1000 600">the boats</points>',
        [("the boats", (73, 80)), ("the boats", (1000, 300))],
    ),
    "kosmos2": (
        "<phrase> a snowman</phrase><object><patch_index_0044><patch_index_0863></object> warming himself by"
        "<phrase> a fire</phrase><object><patch_index_0005><patch_index_0911></object>.",
        [
            ("a snowman", (390.625, 23.4375, 984.375, 414.0625)),
            ("a fire", (171.875, 7.8125, 484.375, 445.3125)),
        ],
    ),
    "decimals": ("0.100,0.200,0.300,0.400", [(None, (100, 100, 300, 200))]),
    "corner_words": ("<x0_4><y0_8><x1_12><y1_16>", [(None, (100, 100, 300, 200))]),
}


def boxes_of(shares):
    x1, x2 = sorted(shares[::2])
    y1, y2 = sorted(shares[1::2])
    return (x1 * HW[1], y1 * HW[0], x2 * HW[1], y2 * HW[0])


four = st.lists(st.floats(0, 1), min_size=4, max_size=4)


def test_there_is_a_recorded_answer_of_each_dialect():
    assert set(RECORDED) == set(DIALECTS)


@pytest.mark.parametrize("name", sorted(RECORDED))
def test_a_recorded_answer_is_read(name):
    text, wanted = RECORDED[name]
    read = DIALECTS[name].codec.decode(text, HW)
    assert read.unparsed == 0
    assert [place.name for place in read.places] == [label for label, _ in wanted]
    assert [place.values for place in read.places] == [pytest.approx(values) for _, values in wanted]
    for place in read.places:
        assert all(any(letter.isdigit() for letter in text[start:end]) for start, end in place.numbers)
        assert place.name_at is None or text[slice(*place.name_at)].strip() == place.name


@pytest.mark.parametrize("name", BOXES)
@settings(max_examples=25, deadline=None)
@given(st.lists(four, max_size=3))
def test_boxes_come_back_within_half_a_step(name, shares):
    boxes, codec = [boxes_of(each) for each in shares], DIALECTS[name].codec
    read = codec.decode(codec.encode(boxes, HW, "red cup"), HW)
    assert read.unparsed == 0
    assert {place.name for place in read.places} <= ({None} if name in UNNAMED else {"red cup"})
    steps = STEPS.get(name, (1, 0.5))
    for place, box in zip(read.places, boxes, strict=True):
        assert all(
            abs(got - wanted) <= steps[at % 2] / 2 + 1e-6
            for at, (got, wanted) in enumerate(zip(place.values, box, strict=True))
        )


@pytest.mark.parametrize("name", POINTS)
@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), max_size=4))
def test_points_come_back_within_half_a_step(name, shares):
    points, codec = [(x * HW[1], y * HW[0]) for x, y in shares], DIALECTS[name].codec
    read = codec.decode(codec.encode(points, HW, "dogs"), HW)
    assert read.unparsed == 0
    for place, point in zip(read.places, points, strict=True):
        assert abs(place.values[0] - point[0]) <= 0.5 + 1e-6
        assert abs(place.values[1] - point[1]) <= 0.25 + 1e-6


@pytest.mark.parametrize("name", sorted(DIALECTS))
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_broken_text_is_counted_and_never_a_crash(name, data):
    text = RECORDED[name][0]
    start, end = sorted(data.draw(st.lists(st.integers(0, len(text)), min_size=2, max_size=2)))
    noise = data.draw(st.text(alphabet='[]{}<>(),;:"\\01x. ab\n', max_size=6))
    broken = text[:start] + noise + text[end:]
    read = DIALECTS[name].codec.decode(broken, HW)
    assert read.unparsed >= 0
    for place in read.places:
        assert len(place.values) == (2 if name in POINTS else 4)
        assert all(0 <= value <= HW[1 - at % 2] for at, value in enumerate(place.values))
        assert all(0 <= at <= to <= len(broken) for at, to in place.numbers)


@pytest.mark.parametrize("name", sorted(DIALECTS))
def test_prose_counts_once_and_nothing_does_not_count(name):
    codec = DIALECTS[name].codec
    assert codec.decode("I am a language model.", HW).unparsed == 1
    assert codec.decode("", HW).unparsed == 0
    read = codec.decode(codec.encode([], HW, "dog"), HW)
    assert (read.places, read.unparsed) == ([], 0)


@pytest.mark.parametrize(
    ("name", "text", "num_places", "unparsed"),
    [
        ("qwen3_vl", '[{"bbox_2d": [1, 2, 3, 4], "label": "a"}, {"bbox_2d": [5, 6', 1, 1),  # cut off
        ("qwen3_vl", '[{"bbox_2d": [9, 9, 3, 4], "label": "a"}]', 0, 1),  # corners reversed
        ("qwen3_vl", '[{"bbox_2d": [1, 2, 3, 1400], "label": "a"}]', 0, 1),  # pixels where thousandths belong
        ("qwen3_vl", '[{"point_2d": [1, 2], "label": "a"}]', 0, 1),
        ("qwen2_5_vl", '[{"bbox_2d": [1, 2, 3, 507]}]', 1, 0),  # a little over the edge
        ("qwen2_vl", "<|box_start|>(1,2),(3,4", 0, 1),
        ("paligemma", "<loc0001><loc0002><loc0003> cat", 0, 1),
        ("paligemma", "<loc0001><loc0002><loc0003><loc0004>", 1, 0),
        ("internvl", "<ref>dog</ref>", 0, 1),
        ("internvl", "<ref>dog</ref><box>[[1,2,3,4],[5,6", 1, 1),
        ("glm4v", "<|begin_of_box|>[[1,2,3]]<|end_of_box|>", 0, 1),
        ("glm4v", '<|begin_of_box|>[{"label": "dog", "bbox_2d": [1,2,3,4]}]<|end_of_box|>', 1, 0),
        ("molmo", '<points x1="1" y1="2" x2="3', 1, 1),
        ("molmo", '<point x="101.0" y="2.0" alt="a">a</point>', 0, 1),
        ("molmo2", '<points coords="1 1 100 200 2 300', 1, 1),
        ("kosmos2", "<object><patch_index_0044></object>", 0, 1),
        ("kosmos2", "<object><patch_index_0044><patch_index_1024></object>", 0, 1),
    ],
)
def test_what_is_read_of_broken_answers(name, text, num_places, unparsed):
    read = DIALECTS[name].codec.decode(text, HW)
    assert (len(read.places), read.unparsed) == (num_places, unparsed)


def test_names_in_json_are_unescaped():
    text = r'{"bbox_2d": [1, 2, 3, 4], "label": "caf\u00e9 \"Lux\""}'
    (place,) = DIALECTS["qwen3_vl"].codec.decode(text, HW).places
    assert place.name == 'caf\u00e9 "Lux"'


def test_segmentation_codes_are_named_as_unsupported(caplog):
    text = "<loc0256><loc0128><loc0512><loc1023>" + "".join(f"<seg{code:03d}>" for code in range(16)) + " cat"
    (place,) = DIALECTS["paligemma"].codec.decode(text, HW).places
    assert place.name == "cat"
    assert "segmentation codes such as <seg000> are unsupported" in caplog.text


def test_a_dialect_is_chosen_by_model_type_name_or_fields():
    assert choose_dialect(None, "qwen3_vl_moe").name == "qwen3_vl"
    assert choose_dialect("decimals", "qwen3_vl").name == "decimals"
    assert choose_dialect(None, "llava") is None
    own = choose_dialect({"question": "Find {text}.", "codec": {"style": "bins", "bins": 40}}, "llava")
    assert own == Dialect("own", "Find {text}.", BoxCodec("bins", bins=40))
    assert choose_dialect({"question": "{text}?", "codec": {"type": PointTags}}, "llava").codec == PointTags()


@pytest.mark.parametrize(
    ("given_", "message"),
    [
        ("klingon", r"no dialect 'klingon'; known are \['corner_words', 'decimals'"),
        ({"codec": {}}, "dialect: .*question"),
        ({"question": "Where?"}, r"write \{text\} into it"),
        ({"question": "{text}", "volume": 11}, "volume"),
        ({"question": "{text}", "score": "luck"}, "score must be one of"),
        ({"question": "{text}", "framing": "crop"}, "framing must be one of"),
    ],
)
def test_a_wrong_dialect_is_explained(given_, message):
    with pytest.raises(ConfigError, match=message):
        choose_dialect(given_, "llava")


def test_a_model_without_a_dialect_is_offered_training():
    with pytest.raises(ConfigError, match=r"'llava' cannot be asked for boxes as it is: .*Train a decoder"):
        require_dialect(None, "llava")
    with pytest.raises(ConfigError, match=r"'florence2' .*an encoder and a decoder"):
        require_dialect(None, "florence2")


def test_phrases_are_joined_unless_they_hold_the_separator():
    dialect = DIALECTS["qwen3_vl"]
    assert dialect.ask("dog, red cup").startswith(
        'Locate every instance that belongs to the following categories: "dog'
    )
    assert dialect.can_join("red cup")
    assert not dialect.can_join("red, cup")
    assert not DIALECTS["internvl"].can_join("dog")
    assert DIALECTS["paligemma"].ask("{text} {0}") == "detect {text} {0}"

"""Boxes that an LMM writes: questions, reading, scores."""

import itertools

import pytest
import torch
from helpers import make_images

from lumen.errors import ConfigError, PromptError
from lumen.lmm.dialects import DIALECTS
from lumen.lmm.generation import AnswerReport, Continuation
from lumen.lmm.places import PlaceQuestion, Spelling, place_questions, read_places
from lumen.structures import Prompt

TASK = "written_boxes"
EXTRAS = {"texts", "places"}


def ask(phrases):
    return [Prompt(phrase, TASK) for phrase in phrases]


def answer_with(adapter, texts, probability=0.5):
    """Make the adapter write these texts, one per question, each token with the same probability."""
    ids = [adapter.encoder.ids(text) for text in texts]
    answers = iter([Continuation(each, [probability] * len(each)) for each in ids])
    adapter.writer.go_on = lambda runner, encoded, start, asked, bound: [
        [next(answers) for _ in of_image] for of_image in asked
    ]


@pytest.fixture
def adapter(make_adapter):
    return make_adapter(dialect="qwen3_vl", max_new_tokens=8)


def test_phrases_are_asked_at_once_as_far_as_the_dialect_takes_them(make_adapter):
    prompts = [Prompt("cat"), *ask(["dog", "red, cup", " a star "]), Prompt("why?", "vqa")]
    joined, alone = place_questions(prompts, make_adapter(dialect="qwen3_vl").text, 10)
    assert (joined.prompt.text, joined.phrases, joined.numbers) == ("dog, a star", ("dog", "a star"), (1, 3))
    assert (alone.prompt.text, alone.numbers) == ("red, cup", (2,))
    each = place_questions(prompts, make_adapter(dialect="internvl").text, 10)
    assert [question.numbers for question in each] == [(1,), (2,), (3,)]
    assert len(place_questions(prompts, make_adapter(dialect="qwen3_vl").text, 1)) == 3


def test_a_question_has_the_words_of_the_dialect(adapter):
    (question,) = place_questions(ask(["dog", "cup"]), adapter.text, 10)
    asked = adapter.encoder.tokenizer.decode(adapter.text.question(question.prompt))
    assert asked == (
        'Locate every instance that belongs to the following categories: "dog, cup". Report bbox coordinates in JSON '
        "format. ASSISTANT:"
    )


def test_names_of_several_phrases_must_be_among_them():
    several = PlaceQuestion(Prompt("", TASK), ("Red cup", "dog"), (4, 7))
    assert several.numbers_of("red  CUP") == [4]
    assert several.numbers_of("cat") == several.numbers_of(None) == []
    alone = PlaceQuestion(Prompt("", TASK), ("the dog on the left",), (2,))
    assert alone.numbers_of("dog") == alone.numbers_of(None) == [2]
    assert PlaceQuestion(Prompt("", TASK), ("Dog", "dog"), (0, 1)).numbers_of("dog") == [0, 1]


def test_places_in_the_reasoning_before_an_answer_are_not_read():
    question, report = PlaceQuestion(Prompt("dog", TASK), ("dog",), (0,)), AnswerReport()
    text = "<think>near [[1,2,3,4]]</think><|begin_of_box|>[[5,6,7,8]]<|end_of_box|>"
    spelling = Spelling(text, [*range(1, len(text) + 1)], [0.5] * len(text))
    ((_, box, _),) = read_places(question, spelling, DIALECTS["glm4v"], (1000, 1000), report)
    assert box == [5, 6, 7, 8]
    cut = Spelling(text[:20], [*range(1, 21)], [0.5] * 20)
    assert read_places(question, cut, DIALECTS["glm4v"], (1000, 1000), report) == []
    assert report == AnswerReport(questions=2, places=1, unparsed=1)


def test_a_score_is_the_mean_probability_of_the_tokens_of_the_coordinates():
    text = "a dog 12,3"
    spelling = Spelling(text, [5, 6, 7, 8, 9, 10], [0.1, 0.2, 0.4, 0.6, 0.01, 0.8])
    assert spelling.probability([(6, 8), (9, 10)]) == pytest.approx((0.4 + 0.6 + 0.8) / 3)
    assert spelling.probability([(2, 5)]) == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("name", "tokens", "wanted"),
    [
        (
            "paligemma",
            {"<loc0001>": 0.2, "<loc0002>": 0.3, "<loc0003>": 0.2, "<loc0004>": 0.1, " red": 0.9, " cup": 0.7},
            0.8,
        ),
        ("paligemma", {"<loc0001>": 0.2, "<loc0002>": 0.3, "<loc0003>": 0.2, "<loc0004>": 0.1}, 0.2),
        (
            "internvl",
            {"<ref>red cup</ref>": 0.9, "<box>[[": 0.9, "1": 0.2, ",2": 0.4, ",3": 0.6, ", 4": 0.8, "]]": 0.9},
            0.5,
        ),
        (
            "qwen3_vl",
            {'[{"bbox_2d": [': 0.9, "10, ": 0.2, "20": 0.4, ", 30, ": 0.6, "40]": 0.8, ', "label": "a"}]': 0.9},
            0.5,
        ),
    ],
)
def test_a_name_gives_the_score_where_a_coordinate_is_one_token(name, tokens, wanted):
    ends = [*itertools.accumulate(map(len, tokens))]
    spelling = Spelling("".join(tokens), ends, [*tokens.values()])
    question = PlaceQuestion(Prompt("red cup", TASK), ("red cup",), (0,))
    ((_, _, score),) = read_places(question, spelling, DIALECTS[name], (100, 100), AnswerReport())
    assert score == pytest.approx(wanted)


def test_written_boxes_come_in_input_pixels_with_what_was_counted(adapter):
    texts = [
        '[{"bbox_2d": [0, 0, 500, 1000], "label": "Dog"}, {"bbox_2d": [250, 250, 500, 500], "label": "cat"}, '
        '{"bbox_2d": [0, 0, 1',
        "[]",
    ]
    answer_with(adapter, texts)
    with torch.no_grad():
        features = adapter(
            make_images(2), [[*ask(["cup", "dog"]), Prompt("ring")], ask(["cup"])], extras=EXTRAS, predicting=True
        )
    first, second = features.extras["places"]
    assert first.bboxes.tolist() == [[0, 0, 48, 64]]
    assert first.scores.tolist() == [0.5]
    assert first.prompt_index.tolist() == [1]
    assert len(second) == 0
    assert features.extras["texts"] == [[texts[0], texts[0], None], ["[]"]]
    assert features.prompt_index.tolist() == [2]
    assert adapter.answer_report == AnswerReport(questions=2, places=1, unparsed=1, unasked=1)


def test_points_are_boxes_without_extent(make_adapter):
    adapter = make_adapter(dialect="molmo")
    answer_with(adapter, ['<point x="50.0" y="25.0" alt="dog">dog</point>'])
    with torch.no_grad():
        features = adapter(make_images(), [ask(["dog"])], extras=EXTRAS, predicting=True)
    assert features.extras["places"][0].bboxes.tolist() == [[48, 16, 48, 16]]


def test_nothing_asked_gives_empty_tables(adapter):
    with torch.no_grad():
        features = adapter(make_images(2), [[], [Prompt("cat")]], extras=EXTRAS, predicting=True)
    assert [len(table) for table in features.extras["places"]] == [0, 0]
    assert adapter.answer_report == AnswerReport()


def test_special_tokens_are_refused_in_a_phrase_and_not_in_the_words_around_it(make_adapter):
    adapter = make_adapter(dialect={"question": "<image> {text}"})
    assert adapter.text.question(ask(["dog"])[0])
    with pytest.raises(PromptError, match="special tokens"):
        adapter.text.question(ask(["</s> dog"])[0])


def test_an_lmm_without_a_dialect_is_asked_for_no_places(make_adapter):
    with pytest.raises(ConfigError, match="not known to write any: train a decoder"), torch.no_grad():
        make_adapter()(make_images(), [ask(["dog"])], extras=EXTRAS, predicting=True)


@pytest.mark.parametrize(("name", "dialect"), [("qwen2_5_vl", "qwen2_5_vl"), ("paligemma", "paligemma")])
def test_random_weights_of_a_family_write_nothing_that_crashes(load, name, dialect):
    adapter = load(name, max_new_tokens=6)
    assert adapter.text.dialect.name == dialect
    images = make_images(2, (16, 32) if name == "qwen2_5_vl" else (16, 16))
    adapter.answer_report.clear()
    with torch.no_grad():
        together = adapter(images, [ask(["dog", "cup"]), ask(["star"])], extras=EXTRAS, predicting=True).extras
        alone = adapter(images[1:], [ask(["star"])], extras=EXTRAS, predicting=True).extras
    assert adapter.answer_report.questions == 3
    assert adapter.answer_report.unparsed + adapter.answer_report.places >= 1
    assert together["texts"][1] == alone["texts"][0]


def test_probabilities_are_those_of_the_tokens_that_were_written(make_adapter):
    adapter = make_adapter(dialect="decimals", max_new_tokens=5)
    image = make_images()
    encoded = adapter.encode_images(image)
    prefix = adapter.text.prefix(encoded.image_text)
    row = [*prefix, *adapter.text.question(ask(["dog"])[0])]
    runner = adapter.runner_with(adapter._packing_for((prefix, ())))
    with torch.no_grad():
        (((written),),) = adapter.writer.go_on(runner, encoded, len(prefix), [[row]], 5)
        ids = torch.tensor([[*row, *written.ids]])
        pixels = adapter.statistics.normalise(image)
        logits = adapter.base_model(input_ids=ids, attention_mask=torch.ones_like(ids), pixel_values=pixels).logits[0]
    wanted = logits.softmax(-1)[torch.arange(len(row) - 1, len(ids[0]) - 1), written.ids]
    assert len(written.ids) == len(written.probabilities) > 0
    torch.testing.assert_close(torch.tensor(written.probabilities), wanted, atol=1e-4, rtol=1e-4)

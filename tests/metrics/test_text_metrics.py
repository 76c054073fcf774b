import importlib.util

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lumen.errors import ConfigError, DataError
from lumen.metrics.text import (
    CaptionMetric,
    VqaMetric,
    YesNoMetric,
    items_of,
    normalise_answer,
    vqa_accuracy,
    yes_or_no,
)


def sample(*rows):
    """Make a processed sample from rows (generated text, references) or (text, references, form)."""
    questions = tuple(
        {"id": at, "question": "?", "answers": tuple(row[1]), "form": row[2] if len(row) > 2 else "", "history": ()}
        for at, row in enumerate(rows)
    )
    predicted = {"texts": [row[0] for row in rows], "prompt_index": torch.arange(len(rows))}
    return {"questions": questions, "pred_instances": predicted}


def evaluate(metric, *samples):
    metric.process(None, samples)
    return metric.evaluate(len(samples))


@pytest.mark.parametrize(
    ("answer", "wanted"),
    [
        ("Yes.", "yes"),
        ("The  red\nball!", "red ball"),
        ("two", "2"),
        ("none", "0"),
        ("1,000", "1000"),
        ("3.5 m.", "3.5 m"),
        ("dont", "don't"),
        ("couldntve", "couldn't've"),
        ("blue/green", "blue green"),
        ("blue, green", "blue green"),
        ("an apple", "apple"),
        ("", ""),
    ],
)
def test_answers_are_normalised_as_by_the_vqa_evaluation(answer, wanted):
    assert normalise_answer(answer) == wanted


@given(st.text(max_size=40))
def test_any_text_can_be_normalised_and_holds_no_article(answer):
    assert not {"a", "an", "the"} & set(normalise_answer(answer).split())


@pytest.mark.parametrize(("num_same", "credit"), [(0, 0.0), (1, 0.3), (2, 0.6), (3, 0.9), (4, 1.0), (10, 1.0)])
def test_ten_people_give_credit_by_how_many_agree(num_same, credit):
    # Two of ten: leaving one of the two out gives 1/3, one of the other eight 2/3; (2 * 1 + 8 * 2) / 30 = 0.6.
    references = ["yes"] * num_same + ["no"] * (10 - num_same)
    assert vqa_accuracy("Yes", references) == pytest.approx(credit)


def test_a_single_reference_must_be_met():
    assert vqa_accuracy("Two", ["2"]) == 1.0
    assert vqa_accuracy("twoo", ["2"]) == 0.0


def test_accuracy_is_reported_for_all_and_per_form():
    figures = evaluate(
        VqaMetric(),
        sample(("yes", ["yes"], "existence"), ("3", ["two"], "count"), ("2", ["two"], "count")),
        sample(("no", ["yes"], "existence")),
    )
    assert figures == {"vqa/accuracy": 0.5, "vqa/accuracy_count": 0.5, "vqa/accuracy_existence": 0.5}


def test_more_questions_than_samples_all_count():
    metric = VqaMetric()
    evaluate(metric, sample(*[("yes", ["yes"])] * 5))
    assert metric.protocol["questions"] == 5


@pytest.mark.parametrize(
    ("answer", "is_yes"),
    [("Yes, there is.", True), ("No.", False), ("There is not. Yes.", False), ("a knot", True), ("", True)],
)
def test_a_yes_is_what_holds_no_no(answer, is_yes):
    assert yes_or_no(answer) is is_yes


def test_yes_or_no_figures_are_those_counted_by_hand():
    # Said yes 3 times, 2 of them rightly; 3 are yes.
    rows = [("yes", ["yes"]), ("yes", ["Yes."]), ("yes", ["no"]), ("no", ["yes"]), ("no", ["no"]), ("no", ["blue"])]
    metric = YesNoMetric()
    figures = evaluate(metric, sample(*rows))
    assert figures == pytest.approx(
        {"pope/accuracy": 3 / 5, "pope/precision": 2 / 3, "pope/recall": 2 / 3, "pope/f1": 2 / 3, "pope/yes_ratio": 0.6}
    )
    assert metric.protocol["left_out"] == 1


def test_yes_or_no_figures_of_one_form():
    figures = evaluate(
        YesNoMetric(form="existence"), sample(("yes", ["yes"], "existence"), ("yes", ["no"], "relation"))
    )
    assert figures["pope/accuracy"] == 1.0


@pytest.mark.parametrize("kind", [VqaMetric, YesNoMetric])
def test_samples_that_cannot_be_judged_are_refused(kind):
    with pytest.raises(DataError, match="no 'questions'"):
        evaluate(kind(), {"pred_instances": {}})
    with pytest.raises(DataError, match="have no reference"):
        evaluate(kind(), sample(("yes", [])))
    unanswered = sample(("yes", ["yes"]), ("no", ["no"]))
    unanswered["pred_instances"] = {"texts": ["yes"], "prompt_index": torch.tensor([0])}
    with pytest.raises(DataError, match="1 of 2 questions were answered"):
        evaluate(kind(), unanswered)
    with pytest.raises(DataError, match=r"no question was|none of 0"):
        evaluate(kind(), sample())


def test_cider_prefers_the_caption_that_people_gave():
    pytest.importorskip("pycocoevalcap")
    references = [["a red star and a cat", "one cat beside a star"], ["two blue rings", "a pair of rings"]]
    metric = CaptionMetric()
    right = evaluate(metric, *[sample((own[0].upper() + ".", own)) for own in references])["caption/CIDEr"]
    wrong = evaluate(CaptionMetric(), *[sample(("a green square", own)) for own in references])["caption/CIDEr"]
    assert right > 1 > wrong >= 0
    assert metric.protocol["captions"] == 2


def test_cider_without_its_library_says_what_to_install(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"lumen-perception\[text\]"):
        CaptionMetric()


def test_captions_without_cider_have_the_other_figures_and_say_why(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    metric = CaptionMetric(with_cider=None)
    answers = [sample(("A red star.", ["a cat", "a red star"])), sample(("a red ring", ["one ring", "two blue cats"]))]
    figures = evaluate(metric, *answers)
    # "a red ring" and "one ring" share one of 3 + 2 words: 2 / 5
    word_f1 = pytest.approx((1 + 0.4) / 2)
    assert figures == {"caption/exact": 0.5, "caption/word_f1": word_f1, "caption/item_f1": 0.5}
    assert "pip install" in metric.protocol["cider"]


def test_words_that_are_repeated_count_once_each():
    figures = evaluate(CaptionMetric(with_cider=False), sample(("star star star", ["a star"])))
    assert figures["caption/word_f1"] == pytest.approx(2 * 1 / 5)
    assert figures["caption/exact"] == 0


def test_listed_things_are_compared_whole_and_in_any_order():
    reference = "There is a red star, a red star and an orange ring."
    assert items_of(reference) == ["red star", "red star", "orange ring"]
    assert items_of("A picture of two stars and a ring.") == ["two stars", "ring"]
    figures = evaluate(
        CaptionMetric(with_cider=False),
        sample(("There is an orange ring, a red star and a red star.", [reference])),
        sample(("There is a red star and a red ring.", [reference])),  # one of 2 + 3: 2 / 5
    )
    assert figures["caption/item_f1"] == pytest.approx((1 + 0.4) / 2)

import pytest

from lumen.errors import PromptError
from lumen.prompts import (
    MAX_PHRASE_CHARACTERS,
    PAPER_TASKS,
    TEMPLATES,
    TaskWording,
    Wordings,
    check_phrase,
    read_template,
)


def test_the_paper_template_asks_and_answers_as_in_the_paper():
    user, answer = Wordings().suffix(TEMPLATES["paper"], "dog", "detection")
    assert user == " dog. Respond with boxes."
    assert answer == "Sure, the location is [LOC]. The task output is [DET]."


def test_the_compact_template_ends_in_loc_and_has_no_answer():
    assert Wordings().suffix(TEMPLATES["compact"], " dog ", "pose") == (" dog[LOC]", "")
    assert not TEMPLATES["compact"].has_answer


@pytest.mark.parametrize("phrase", ["{format}", "{}", "100% {0!r}", "a\nb", "\u732b", "'; drop"])
def test_any_text_is_a_phrase_and_stays_as_it_is(phrase):
    user, _ = Wordings().suffix(TEMPLATES["paper"], phrase, "detection")
    assert user == f" {phrase}. Respond with boxes."


@pytest.mark.parametrize("phrase", ["", "  ", "\n\t"])
def test_a_phrase_without_text_is_refused(phrase):
    with pytest.raises(PromptError, match="not empty"):
        check_phrase(phrase, [])


def test_a_phrase_may_be_as_long_as_the_bound_and_no_longer():
    assert check_phrase("x" * MAX_PHRASE_CHARACTERS, [])
    with pytest.raises(PromptError, match="at most 512 characters, got 513"):
        check_phrase("x" * (MAX_PHRASE_CHARACTERS + 1), [])


@pytest.mark.parametrize("token", ["[LOC]", "[DET]", "[REFSEG]"])
def test_a_phrase_with_a_special_token_is_refused(token):
    with pytest.raises(PromptError, match="special tokens"):
        Wordings().suffix(TEMPLATES["compact"], f"a {token} b", "detection")


def test_an_unknown_task_is_refused_with_the_known_ones():
    with pytest.raises(PromptError, match=r"unknown task 'juggling'; known tasks are \['caption'"):
        Wordings()["juggling"]


def test_an_unknown_template_is_refused_with_the_known_ones():
    with pytest.raises(PromptError, match=r"\['compact', 'paper'\]"):
        read_template("short")


def test_two_wordings_of_one_task_are_refused():
    with pytest.raises(PromptError, match="worded once"):
        Wordings([*PAPER_TASKS, TaskWording("detection", "boxes", "[BOX]")])


def test_special_tokens_come_once_in_a_fixed_order():
    wordings = Wordings([*PAPER_TASKS, TaskWording("tallying", "numbers", "[DET]")])
    assert wordings.special_tokens == ["[LOC]", "[DET]", "[SEG]", "[POINT]", "[GROUND]", "[REFSEG]"]


def test_a_place_of_a_template_has_no_width():
    with pytest.raises(PromptError, match="are names alone, without a format"):
        read_template({"name": "own", "before": "Find", "after": "[LOC]{format:9999999999}", "answer": ""})

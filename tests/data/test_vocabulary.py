import pytest

from lumen.data.vocabulary import FOREIGN_NAMES, VOCABULARIES, read_names, without_words_of
from lumen.errors import ConfigError


def test_a_hundred_names_to_test_with_are_taught_by_no_vocabulary():
    assert len(FOREIGN_NAMES) == len(set(FOREIGN_NAMES)) == 100
    assert not any(set(names) & set(FOREIGN_NAMES) for names in VOCABULARIES.values())


def test_names_are_a_list_or_a_vocabulary():
    assert read_names(None) == ()
    assert read_names(["a cup", "a boat"]) == ("a cup", "a boat")
    assert read_names("everyday") == VOCABULARIES["everyday"]


@pytest.mark.parametrize("names", ["nowhere", [" "], ["boat", ""]])
def test_other_names_are_an_error(names):
    with pytest.raises(ConfigError):
        read_names(names)


def test_a_name_that_shares_a_word_with_a_class_is_left_out():
    assert without_words_of(("dog", "Guide", "bulldog", "cat"), ["a guide dog"]) == ("bulldog", "cat")


def test_a_class_by_another_spelling_is_no_negative():
    pairs = [
        ("hot dog", "hot_dog"),
        ("Hot-Dog", "hotdog"),
        ("dogs", "dog"),
        ("box", "boxes"),
        ("berry", "berries"),
        ("cafe\u0301", "caf\u00e9"),
        ("\u2605", "\u2605"),
    ]
    assert [name for name, phrase in pairs if without_words_of([name], [phrase])] == []
    assert without_words_of(["dog", "cart"], ["doghouse", "car"]) == ("dog", "cart")


def test_a_name_is_read_once():
    assert read_names(["cup", "boat", "cup"]) == ("cup", "boat")

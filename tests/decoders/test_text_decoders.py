import dataclasses

import pytest
from helpers import make_sample, make_shared

from lumen.decoders.text import CaptionDecoder, ChatDecoder, VqaDecoder
from lumen.errors import ConfigError
from lumen.structures import Prompt


@pytest.mark.parametrize("kind", [VqaDecoder, CaptionDecoder, ChatDecoder])
def test_texts_are_handed_on_with_the_number_of_their_prompt(kind):
    task = kind.spec.name
    samples = [make_sample([Prompt("cat"), Prompt("how many?", task), Prompt("what?", task)]), make_sample()]
    shared = dataclasses.replace(make_shared((0,), (0,), num_images=2), extras={"texts": [[None, "two", ""], []]})
    first, second = kind(channels=32).predict(shared, samples)
    assert first.texts == ["two", ""]
    assert first.prompt_index.tolist() == [1, 2]
    assert len(second) == 0
    assert set(second.keys()) == kind.spec.predictions


def test_a_question_without_a_generated_text_is_an_error():
    with pytest.raises(ConfigError, match="'vqa' needs generated texts"):
        VqaDecoder(channels=32).predict(make_shared(), [make_sample([Prompt("how many?", "vqa")])])


def test_no_questions_need_no_texts():
    (answer,) = VqaDecoder(channels=32).predict(make_shared((0,), (0,)), [make_sample(["cat"])])
    assert len(answer) == 0

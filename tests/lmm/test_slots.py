"""Templates with several slots, and words behind them."""

import pytest
import torch
from helpers import make_images, relative_difference, write_texts

from lumen.errors import ConfigError, PromptError
from lumen.lmm.generation import AnswerReport
from lumen.prompts import TEMPLATES, Template, read_template
from lumen.structures import Prompt

TWO = {
    "name": "two",
    "before": "",
    "after": "",
    "answer": "Sure. Mask: [SEG]; Location: [LOC]; {words}.",
    "slots": ["[SEG]", "[LOC]"],
    "tokens": ["[tag]", "[/tag]"],
}
NAMED = [Prompt("Segment the cat.", answer="[tag]cat[/tag]"), Prompt("And the red star?", answer="[tag]star[/tag]")]
PLAIN = [Prompt(prompt.text) for prompt in NAMED]


def text_of(adapter, ids):
    return adapter.encoder.tokenizer.decode(ids)


# --- wording ----------------------------------------------------------------------------------------------------------


def test_an_answer_has_its_slots_and_the_words_of_its_prompt(make_adapter):
    adapter = make_adapter(template=TWO)
    named = adapter.encoder.suffix("Segment the cat.", "detection", "[tag]cat[/tag]")
    assert text_of(adapter, named.ids[named.answer :]).replace(" ", "") == (
        "Sure.Mask:[SEG];Location:[LOC];[tag]cat[/tag].</s>"
    )
    assert [text_of(adapter, [named.ids[slot]]) for slot in named.slots] == ["[SEG]", "[LOC]"]


def test_without_words_an_answer_is_cut_behind_the_slots_and_not_ended(make_adapter):
    adapter = make_adapter(template=TWO)
    plain = adapter.encoder.suffix("Segment the cat.", "detection")
    named = adapter.encoder.suffix("Segment the cat.", "detection", "[tag]cat[/tag]")
    assert text_of(adapter, plain.ids).endswith("[LOC];")
    assert named.slots == plain.slots
    assert named.ids[: max(plain.slots) + 1] == plain.ids[: max(plain.slots) + 1]


def test_words_may_hold_the_tokens_of_the_template_and_no_others(make_adapter):
    adapter = make_adapter(template=TWO)
    for words in ("see [LOC]", "[DET]", "a</s>"):
        with pytest.raises(PromptError, match="special tokens"):
            adapter.encoder.suffix("cat", "detection", words)
    with pytest.raises(PromptError, match="special tokens"):
        adapter.encoder.suffix("a [tag] b", "detection")


def test_words_are_left_out_where_the_template_has_no_place_for_them(make_adapter):
    encoder = make_adapter(template="paper").encoder
    assert encoder.suffix("cat", "detection", "some words") is encoder.suffix("cat", "detection")


def test_tokens_of_a_template_are_added_behind_the_known_ones(make_adapter):
    adapter = make_adapter(template=TWO)
    assert adapter.describe()["special_tokens"].endswith("[REFSEG] [tag] [/tag]")
    assert adapter.slots == ("[SEG]", "[LOC]")
    assert make_adapter().describe()["special_tokens"].endswith("[REFSEG]")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"answer": "Mask: [SEG]."}, "must stand once"),
        ({"answer": "[SEG] [LOC] [LOC]"}, "must stand once"),
        ({"slots": []}, "must stand once"),
        ({"tokens": ["[LOC]"]}, "not be among the tokens"),
        ({"answer": "{words} [SEG] [LOC]"}, "behind the last slot"),
        ({"answer": "[SEG] {words} [LOC]"}, "behind the last slot"),
        ({"answer": "[SEG] [LOC] {word}"}, r"may hold the places \('routing', 'words'\), got \['word'\]"),
        ({"answer": "[SEG] [LOC] {"}, "single braces"),
        ({"after": "{words}"}, r"may hold the places \('format',\)"),
        ({"colour": "red"}, "a template has the parts"),
    ],
)
def test_a_template_that_does_not_fit_is_refused(change, message):
    with pytest.raises(PromptError, match=message):
        read_template({**TWO, **change})


def test_a_template_is_named_or_given_in_parts():
    assert read_template("paper") is TEMPLATES["paper"]
    assert read_template(TWO) == read_template(read_template(TWO)) == Template(**TWO)
    assert read_template(TWO).joint == "; "
    with pytest.raises(PromptError, match=r"unknown template 'short'; choose one of \['compact', 'paper'\]"):
        read_template("short")


# --- states -----------------------------------------------------------------------------------------------------------


def states_alone(adapter, image, suffix):
    """Return the last states of one suffix, by a pass of transformers' own."""
    return states_behind(adapter, image, adapter.prefix(image.shape[-2:]), suffix)


def states_behind(adapter, image, prefix, suffix):
    """Return the last states of a suffix behind a prefix, by a pass of transformers' own."""
    ids = torch.tensor([[*prefix, *suffix.ids]])
    pixels = adapter.statistics.normalise(image[None])
    output = adapter.base_model.base_model(input_ids=ids, attention_mask=torch.ones_like(ids), pixel_values=pixels)
    return output.last_hidden_state[0, -len(suffix.ids) :]


@pytest.mark.parametrize("position", ["loc", "before_loc"])
@pytest.mark.parametrize("mode", ["packed", "expanded", "separate"])
def test_the_states_of_all_slots_are_those_of_a_pass_alone(make_adapter, position, mode):
    adapter, images = make_adapter(template=TWO, position=position, mode=mode), make_images(2)
    with torch.no_grad():
        features = adapter(images, [NAMED, PLAIN[:1]])
        for pair, (image, prompt) in enumerate([(0, NAMED[0]), (0, NAMED[1]), (1, PLAIN[0])]):
            suffix = adapter.encoder.suffix(prompt.text, prompt.task, prompt.answer)
            states = states_alone(adapter, images[image], suffix)
            for token, place in zip(adapter.slots, suffix.slots, strict=True):
                wanted = states[place - (position == "before_loc")]
                assert relative_difference(features.slots[token][pair], wanted) <= 1e-5
    assert features.query is features.slots["[SEG]"]


def test_words_do_not_change_the_states_of_slots(make_adapter):
    adapter = make_adapter(template=TWO)
    with torch.no_grad():
        named, plain = adapter(make_images(), [NAMED]).slots, adapter(make_images(), [PLAIN]).slots
    for token in adapter.slots:
        assert relative_difference(named[token], plain[token]) <= 1e-5


def test_no_pairs_have_slots_that_connect_the_llm(make_adapter):
    adapter = make_adapter(template=TWO)
    features = adapter(make_images(), [[]])
    assert features.slots["[LOC]"].shape == (0, 32)
    features.slots["[LOC]"].sum().backward()
    assert adapter.base_model.get_decoder().layers[0].mlp.up_proj.weight.grad is not None


# --- generated answers ------------------------------------------------------------------------------------------------

RIGHT = " Sure. Mask: [SEG]; Location: [LOC]; [tag]cat[/tag]."


@pytest.mark.parametrize("position", ["loc", "before_loc"])
def test_a_written_answer_that_equals_the_forced_one_has_its_states(make_adapter, position):
    images, options = make_images(), {"template": TWO, "position": position, "add_phrase_state": True}
    with torch.no_grad():
        wanted = make_adapter(**options)(images, [PLAIN]).slots
        adapter = make_adapter(**options, answer_mode="generated")
        write_texts(adapter, [RIGHT, RIGHT])
        found = adapter(images, [PLAIN], predicting=True).slots
    for token in adapter.slots:
        assert relative_difference(found[token], wanted[token]) <= 1e-5
    assert adapter.answer_report == AnswerReport(asked=2)


def test_an_answer_without_one_of_the_slots_gives_no_pair_and_is_counted(make_adapter):
    adapter = make_adapter(template=TWO, answer_mode="generated")
    write_texts(adapter, ["Mask: [SEG].", "Location: [LOC] and [LOC], [SEG]"])
    with torch.no_grad():
        features = adapter(make_images(), [PLAIN], predicting=True)
    assert features.prompt_index.tolist() == [1]
    assert adapter.answer_report == AnswerReport(asked=2, lacked_loc=1)


def test_words_are_what_is_written_behind_the_last_slot(make_adapter):
    adapter = make_adapter(template=TWO)
    question = Prompt("is there a cat?", "vqa")
    write_texts(adapter, ["; [tag]cat[/tag].", " so[DET]me [tag]"])
    with torch.no_grad():
        features = adapter(make_images(), [[PLAIN[0], question, PLAIN[1]]], extras={"words"}, predicting=True)
    assert features.extras["words"] == [["[tag]cat[/tag].", None, "some [tag]"]]


def test_words_need_a_template_with_a_place_for_them(make_adapter):
    with pytest.raises(ConfigError, match=r"template 'paper' has none: its answer .* needs \{words\}"):
        make_adapter(template="paper")(make_images(), [PLAIN], extras={"words"})


def test_a_trained_answer_with_two_slots_is_written_and_read_with_its_words(make_adapter):
    images, adapter = make_images(), make_adapter(template=TWO, max_new_tokens=12, answer_mode="generated")
    optimizer = torch.optim.Adam(adapter.parameters(), lr=3e-3)
    for _ in range(60):
        optimizer.zero_grad()
        adapter(images, [NAMED]).text_losses["loss_answer"].backward()
        optimizer.step()
    with torch.no_grad():
        forced = adapter(images, [PLAIN]).slots
        written = adapter(images, [PLAIN], extras={"words"}, predicting=True)
        # behind a kept prefix the same is written and read
        encoded = adapter.encode_images(images, cache_prefix=True)
        again = adapter.ask(encoded, [PLAIN], extras={"words"}, predicting=True)
    assert adapter.answer_report == AnswerReport(asked=4)
    assert written.extras["words"] == again.extras["words"] == [["[tag]cat[/tag].", "[tag]star[/tag]."]]
    for token in adapter.slots:
        assert relative_difference(written.slots[token], forced[token]) <= 1e-5
        assert relative_difference(again.slots[token], written.slots[token]) <= 1e-5

"""Answers that the LMM writes freely, and the pairs in them."""

import pytest
import torch
from helpers import make_images, relative_difference
from test_slots import NAMED, TWO, states_behind

from lumen.errors import PromptError
from lumen.lmm.conversation import read_turn
from lumen.structures import Prompt

ASKED = Prompt("Segment the cat.", "chat")
HISTORY = (("is it red?", "Sure. Mask: [SEG]; Location: [LOC]; [tag]cat[/tag]."), ("and the ring?", "no"))


def read(adapter, text, asked=ASKED):
    return read_turn(adapter.encoder, adapter.text.turn(asked), adapter.encoder.ids(text))


def test_a_turn_has_the_tokens_of_a_question_and_knows_where_its_last_one_stands(make_adapter):
    adapter = make_adapter(template=TWO)
    plain = Prompt("how many stars?", "chat", history=(("is it red?", "yes"),))
    for prompt in (ASKED, plain):
        turn = adapter.text.turn(prompt)
        assert list(turn.ids) == adapter.text.question(prompt)
        assert adapter.encoder.tokenizer.decode(turn.ids[slice(*turn.phrase)]).strip() == prompt.text
        assert (turn.slots, turn.answer) == ((), len(turn.ids))


def test_a_prompt_without_wording_has_the_tokens_of_a_question(make_adapter):
    """So what was trained on sentences is written in a conversation too."""
    adapter = make_adapter(template=TWO)
    suffix, image = adapter.encoder.suffix(ASKED.text, "detection"), adapter.encoder.image_text
    assert suffix.ids[: suffix.answer] == adapter.text.turn(ASKED).ids
    assert adapter.encoder.prefix(image) == adapter.text.prefix(image)
    paper = make_adapter(template="paper")
    assert paper.encoder.prefix(image) != paper.text.prefix(image)


def test_earlier_answers_may_point_and_the_user_may_not(make_adapter):
    adapter = make_adapter(template=TWO)
    text = adapter.encoder.tokenizer.decode(adapter.text.turn(Prompt("why?", "chat", history=HISTORY)).ids)
    assert "[SEG]" in text and "[tag]" in text
    assert text.index("is it red?") < text.index("[SEG]") < text.index("and the ring?") < text.index("why?")
    for wrong in (
        Prompt("see [SEG]", "chat"),
        Prompt("why?", "chat", history=(("see [SEG]", "no"),)),
        Prompt("why?", "chat", history=(("hm", "no</s>"),)),
    ):
        with pytest.raises(PromptError, match="special tokens"):
            adapter.text.turn(wrong)


def test_the_nth_pair_has_the_nth_of_each_slot_and_the_words_behind_it(make_adapter):
    adapter = make_adapter(template=TWO)
    turn = read(adapter, "One [SEG] is [LOC]; [tag]cat[/tag]. Two [LOC] and [SEG] end</s>")
    first, second = turn.pairs
    assert [pair.tokens for pair in turn.pairs] == [("[SEG]", "[LOC]")] * 2
    assert [pair.words.replace(" ", "") for pair in turn.pairs] == ["[tag]cat[/tag].Two", "end"]
    for pair in turn.pairs:
        ids, (seg, loc) = pair.suffix.ids, pair.suffix.slots
        assert [ids[seg], ids[loc]] == adapter.encoder.slot_ids
        assert max(seg, loc) == len(ids) - 1
    assert second.suffix.ids[: len(first.suffix.ids)] == first.suffix.ids
    assert turn.num_unpaired == 0
    assert turn.text.endswith("[SEG] end") and turn.text.startswith("One [SEG]")


def test_slots_without_their_partner_give_no_pair(make_adapter):
    adapter = make_adapter(template=TWO)
    turn = read(adapter, "here [SEG] and [SEG] and [LOC]")
    assert (len(turn.pairs), turn.num_unpaired) == (1, 1)
    turn = read(adapter, "no such thing")
    assert (turn.pairs, turn.num_unpaired, turn.text) == ((), 0, "no such thing")
    assert read(adapter, "").text == ""


def test_the_nth_routing_token_leads_the_nth_pair(make_adapter):
    adapter = make_adapter(template="paper")
    turn = read(adapter, "It is [LOC], so [DET]. It is [LOC], so [SEG]. And [LOC]")
    assert [pair.tokens for pair in turn.pairs] == [("[LOC]", "[DET]"), ("[LOC]", "[SEG]"), ("[LOC]",)]
    routes = {"[DET]": "detection", "[SEG]": "segmentation"}
    assert turn.for_task("segmentation", routes).flat == [turn.pairs[1].suffix]
    assert turn.for_task("segmentation", {"[LOC]": "segmentation"}).numbers == [[0, 1, 2]]
    assert turn.for_task("pose", routes).flat == []


@pytest.mark.parametrize("mode", ["packed", "separate"])
def test_the_states_of_pairs_are_those_of_a_pass_over_what_was_written(make_adapter, mode):
    adapter, image = make_adapter(template=TWO, position="before_loc", mode=mode), make_images()
    turn = read(adapter, "One [SEG] is [LOC]; and two [LOC] or [SEG]", Prompt("and?", "chat", history=HISTORY))
    pairs = turn.for_task("segmentation", {"[SEG]": "segmentation"})
    with torch.no_grad():
        encoded = adapter.encode_images(image)
        features = adapter.ask(encoded, [[Prompt("and?", "segmentation")] * 2], predicting=True, pairs=pairs)
        for number, pair in enumerate(turn.pairs):
            states = states_behind(adapter, image[0], adapter.text.prefix(encoded.image_text), pair.suffix)
            for token, place in zip(adapter.slots, pair.suffix.slots, strict=True):
                assert relative_difference(features.slots[token][number], states[place - 1]) <= 1e-5
    assert features.prompt_index.tolist() == [0, 1]


def test_an_answer_that_was_trained_is_written_freely_and_has_the_states_of_the_forced_one(make_adapter):
    adapter, images, prompts = make_adapter(template="paper"), make_images(), [[Prompt("cat")]]
    optimizer = torch.optim.Adam(adapter.parameters(), lr=3e-3)
    for _ in range(40):
        optimizer.zero_grad()
        adapter(images, prompts).text_losses["loss_answer"].backward()
        optimizer.step()
    with torch.no_grad():
        forced = adapter(images, prompts, predicting=True)
        encoded = adapter.encode_images(images)
        turn = adapter.write_turn(encoded, Prompt("Please find the location of cat. Respond with boxes.", "chat"))
        pairs = turn.for_task("detection", {"[DET]": "detection"})
        written = adapter.ask(encoded, prompts, predicting=True, pairs=pairs)
    assert turn.text == "Sure, the location is [LOC]. The task output is [DET]."
    assert relative_difference(written.query, forced.query) <= 1e-5


def test_words_of_a_turn_are_those_that_it_wrote(make_adapter):
    adapter = make_adapter(template=TWO)
    pairs = read(adapter, "[SEG] [LOC]; [tag]cat[/tag].").for_task("detection", {"[SEG]": "detection"})
    with torch.no_grad():
        encoded = adapter.encode_images(make_images())
        features = adapter.ask(encoded, [NAMED[:1]], extras={"words"}, predicting=True, pairs=pairs)
    assert [[words.replace(" ", "") for words in row] for row in features.extras["words"]] == [["[tag]cat[/tag]."]]

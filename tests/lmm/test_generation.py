import pytest
import torch
from helpers import make_images, relative_difference, write_texts

from lumen.errors import ConfigError, PromptError
from lumen.lmm.generation import AnswerReport, names_task, written_suffix
from lumen.lmm.nano.tokenizer import IMAGE_TOKEN
from lumen.lmm.tokens.phrases import PromptEncoder
from lumen.lmm.tokens.questions import TextEncoder
from lumen.prompts import MAX_TEXT_CHARACTERS, TaskWording
from lumen.structures import Prompt

NUM_CELLS = 24
QUESTIONS = (
    Prompt("is there a red star?", "vqa", answer="yes"),
    Prompt("how many circles are there in the picture?", "vqa", answer="three"),
    Prompt("", "caption", answer="A picture of a large blue ring and a cat."),
    Prompt("and the ring?", "chat", answer="blue", history=(("what color is the star?", "red"),)),
)
MIXED = [[Prompt("cat"), QUESTIONS[0], Prompt("red star"), QUESTIONS[2]], [QUESTIONS[3]], [Prompt("dog")], []]


def loss_alone(adapter, image, prompt):
    """Return the cross-entropy of one answer as transformers itself computes it: its mask, positions and pixels."""
    suffix = adapter.text.suffix(prompt)
    ids = torch.tensor([[*adapter.text.prefix(NUM_CELLS * IMAGE_TOKEN), *suffix.ids]])
    pixels = adapter.statistics.normalise(image[None])
    logits = adapter.base_model(input_ids=ids, attention_mask=torch.ones_like(ids), pixel_values=pixels).logits[0]
    count = suffix.num_answer_tokens
    return torch.nn.functional.cross_entropy(logits[-count - 1 : -1], ids[0, -count:], reduction="sum")


def gradients(adapter, loss):
    adapter.zero_grad()
    loss.backward()
    return {name: value.grad.clone() for name, value in adapter.named_parameters() if value.grad is not None}


# --- wording ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("template", ["compact", "paper"])
def test_a_question_reads_as_a_conversation(make_adapter, template):
    adapter = make_adapter(template=template)
    read = [
        adapter.encoder.tokenizer.decode([*adapter.text.prefix(2 * IMAGE_TOKEN), *adapter.text.suffix(prompt).ids])
        for prompt in QUESTIONS
    ]
    assert read[0] == "USER: <image><image>\nis there a red star? ASSISTANT: yes</s>"
    assert read[2] == (
        "USER: <image><image>\nDescribe this picture. ASSISTANT: A picture of a large blue ring and a cat.</s>"
    )
    assert read[3] == (
        "USER: <image><image>\nwhat color is the star? ASSISTANT: red USER: and the ring? ASSISTANT: blue</s>"
    )


def test_only_the_answer_and_its_end_are_learnt(make_adapter):
    adapter = make_adapter()
    suffix = adapter.text.suffix(QUESTIONS[3])
    assert adapter.encoder.tokenizer.decode(suffix.ids[suffix.answer :]) == " blue</s>"
    assert suffix.slots == ()


def test_the_gap_before_an_answer_is_that_of_the_chat_template(make_adapter):
    old = make_adapter().encoder
    old.tokenizer.chat_template = (
        "{% for m in messages %}<{{ m['role'] }}>{% for p in m['content'] %}"
        "{% if p['type'] == 'image' %}<image>{% else %}{{ p['text'] }}{% endif %}{% endfor %};{% endfor %}"
        "{% if add_generation_prompt %}<assistant>{% endif %}"
    )
    parts = {name: getattr(old, name) for name in ("template", "wordings", "placeholder", "image_text")}
    encoder = PromptEncoder(old.tokenizer, **parts)
    text = TextEncoder(encoder)
    assert encoder.tokenizer.decode(text.suffix(QUESTIONS[0]).ids) == "is there a red star?;<assistant>yes</s>"


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        (Prompt(" ", "vqa", answer="yes"), "a question must be a text that is not empty"),
        (Prompt("why?", "vqa"), "the answer to learn for 'why\\?' must be a text"),
        (Prompt("why?", "vqa", answer="see [LOC]"), "special tokens"),
        (Prompt("<image> again", "vqa", answer="yes"), "special tokens"),
        (Prompt("why?", "chat", answer="so", history=(("hm", "</s>"),)), "special tokens"),
        (Prompt("x" * (MAX_TEXT_CHARACTERS + 1), "vqa", answer="yes"), "at most 8192"),
    ],
)
def test_bad_questions_and_answers_are_refused(make_adapter, prompt, message):
    with pytest.raises(PromptError, match=message):
        make_adapter()(make_images(), [[prompt]])


def test_a_text_task_cannot_be_asked_as_a_phrase(make_adapter):
    with pytest.raises(PromptError, match="answered in text"):
        make_adapter().encoder.suffix("cat", "vqa")


def test_a_plug_in_adds_a_text_task(make_adapter):
    adapter = make_adapter(tasks=[{"name": "riddle", "is_text": True, "instruction": "What is it?"}])
    assert adapter.is_text("riddle")
    asked = adapter.encoder.tokenizer.decode(adapter.text.question(Prompt("", "riddle")))
    assert asked == "What is it? ASSISTANT:"
    assert adapter.describe() == make_adapter().describe()


# --- learning ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("template", ["compact", "paper"])
@pytest.mark.parametrize("mode", ["packed", "expanded", "separate"])
def test_the_text_loss_and_its_gradients_are_those_of_every_prompt_alone(make_adapter, attention, template, mode):
    images = make_images(2)
    adapter = make_adapter(attention=attention, template=template, mode=mode)
    packed = adapter(images, [QUESTIONS] * 2).text_losses["loss_text"]
    alone = sum(loss_alone(adapter, image, prompt) for image in images for prompt in QUESTIONS)
    torch.testing.assert_close(packed, alone, rtol=1e-5, atol=1e-5)
    got, wanted = gradients(adapter, packed), gradients(adapter, alone)
    largest = max(float(value.abs().max()) for value in wanted.values())
    for name, value in wanted.items():
        torch.testing.assert_close(got[name], value, rtol=1e-4, atol=1e-5 * largest)


@pytest.mark.parametrize("template", ["compact", "paper"])
def test_text_prompts_give_no_pairs_and_do_not_disturb_those_of_phrases(make_adapter, template):
    images = make_images(4)
    adapter = make_adapter(template=template, phrase_reconstruction=True)
    mixed = adapter(images, MIXED)
    phrases = [[prompt for prompt in own if prompt.task == "detection"] for own in MIXED]
    plain = adapter(images, phrases)
    assert mixed.image_index.tolist() == [0, 0, 2]
    assert mixed.prompt_index.tolist() == [0, 2, 0]
    assert relative_difference(mixed.query.detach(), plain.query.detach()) <= 1e-5
    for name, loss in plain.text_losses.items():
        torch.testing.assert_close(mixed.text_losses[name], loss)
    texts = [[prompt for prompt in own if prompt.task != "detection"] for own in MIXED]
    only_texts = adapter(images, texts)
    assert len(only_texts.query) == 0
    torch.testing.assert_close(mixed.text_losses["loss_text"], only_texts.text_losses["loss_text"])


def test_forced_and_free_tokens_are_counted_apart(make_adapter):
    adapter = make_adapter(template="paper")
    forced = [adapter.encoder.suffix(text, "detection").num_answer_tokens for text in ("cat", "red star", "dog")]
    free = [adapter.text.suffix(QUESTIONS[at]).num_answer_tokens for at in (0, 2, 3)]
    assert adapter.count_tokens(MIXED) == {"answer_tokens": sum(forced), "text_tokens": sum(free)}


@pytest.mark.parametrize("prompts", [[QUESTIONS], [[Prompt("cat")]], [[]]], ids=["texts", "phrases", "none"])
@pytest.mark.parametrize("template", ["compact", "paper"])
def test_every_parameter_has_a_gradient_whatever_a_batch_asks(make_adapter, prompts, template):
    adapter = make_adapter(template=template, phrase_reconstruction=True, add_phrase_state=True)
    features = adapter(make_images(), prompts, extras={"texts"})
    (features.query.sum() + features.grid.sum() + sum(features.text_losses.values())).backward()
    assert [name for name, parameter in adapter.named_parameters() if parameter.grad is None] == []
    assert "loss_text" in features.text_losses


# --- writing ----------------------------------------------------------------------------------------------------------


def greedy(adapter, image, prompt, max_new_tokens):
    """Return the continuation token by token, with a whole pass for each."""
    ids = [*adapter.text.prefix(NUM_CELLS * IMAGE_TOKEN), *adapter.text.question(prompt)]
    pixels, start = adapter.statistics.normalise(image[None]), len(ids)
    for _ in range(max_new_tokens):
        row = torch.tensor([ids])
        logits = adapter.base_model(input_ids=row, attention_mask=torch.ones_like(row), pixel_values=pixels).logits[
            0, -1
        ]
        if int(logits.argmax()) == adapter.encoder.tokenizer.eos_token_id:
            break
        ids.append(int(logits.argmax()))
    return adapter.encoder.tokenizer.decode(ids[start:], skip_special_tokens=True).strip()


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("max_pass_tokens", [1, 10_000])
def test_a_batch_of_answers_equals_answers_token_by_token(make_adapter, attention, max_pass_tokens):
    images = make_images(2)
    adapter = make_adapter(attention=attention, max_pass_tokens=max_pass_tokens)
    with torch.no_grad():
        encoded = adapter.encode_images(images)
        answers = adapter.generate(encoded, [QUESTIONS, QUESTIONS[:2]], 6)
        wanted = [
            [greedy(adapter, image, prompt, 6) for prompt in own]
            for image, own in zip(images, [QUESTIONS, QUESTIONS[:2]], strict=True)
        ]
    assert answers == wanted


@pytest.mark.parametrize("max_pass_tokens", [1, 10_000])
def test_answers_end_with_the_context_and_do_not_depend_on_each_other(make_adapter, max_pass_tokens):
    adapter, images = make_adapter(max_pass_tokens=max_pass_tokens), make_images()
    with torch.no_grad():
        encoded = adapter.encode_images(images)
        asked = [adapter.text.question(prompt) for prompt in QUESTIONS[:2]]
        start = len(adapter.text.prefix(encoded.image_text))
        lengths = [start + len(ids) for ids in asked]
        assert lengths[0] != lengths[1]
        adapter.base_model.config.text_config.max_position_embeddings = max(lengths) + 2
        together = adapter.generate(encoded, [QUESTIONS[:2]], 10**9)
        assert together == [[adapter.generate(encoded, [[prompt]], 10**9)[0][0] for prompt in QUESTIONS[:2]]]
        adapter.base_model.config.text_config.max_position_embeddings = max(lengths)
        with pytest.raises(PromptError, match="leaves no room for an answer in the context"):
            adapter.generate(encoded, [QUESTIONS[:2]], 1)


def test_answers_are_generated_only_where_texts_are_asked_for(make_adapter, monkeypatch):
    adapter = make_adapter(max_new_tokens=3)
    images = make_images(4)
    with torch.no_grad():
        features = adapter(images, MIXED, extras={"texts"}, predicting=True)
        assert features.text_losses == {}
        texts = features.extras["texts"]
        assert [[text is None for text in own] for own in texts] == [[True, False, True, False], [False], [True], []]
        assert texts[1] == adapter.generate(adapter.encode_images(images[1:2]), [[QUESTIONS[3]]])[0]
        monkeypatch.setattr(adapter.base_model, "generate", None)
        nothing = adapter(images, [[Prompt("cat")], [], [], []], extras={"texts"}, predicting=True)
    assert nothing.extras["texts"] == [[None], [], [], []]


def test_a_trained_answer_is_given_again(make_adapter):
    adapter, images = make_adapter(max_new_tokens=12), make_images()
    optimizer = torch.optim.Adam(adapter.parameters(), lr=3e-3)
    for _ in range(40):
        optimizer.zero_grad()
        adapter(images, [QUESTIONS]).text_losses["loss_text"].backward()
        optimizer.step()
    with torch.no_grad():
        answers = adapter.generate(adapter.encode_images(images), [QUESTIONS])
    assert answers == [[prompt.answer for prompt in QUESTIONS]]


# --- location answers in the LMM's own words --------------------------------------------------------------------------


RIGHT = " Sure, the location is [LOC]. The task output is [DET]."


def test_a_written_answer_that_equals_the_forced_one_has_its_state(make_adapter):
    images, prompts = make_images(), [[Prompt("cat"), Prompt("a red star")]]
    for position in ("loc", "before_loc"):
        options = {"template": "paper", "position": position, "add_phrase_state": True}
        with torch.no_grad():
            wanted = make_adapter(**options)(images, prompts).query
            adapter = make_adapter(**options, answer_mode="generated")
            write_texts(adapter, [RIGHT, RIGHT])
            assert relative_difference(adapter(images, prompts, predicting=True).query, wanted) <= 1e-5
            assert adapter.answer_report == AnswerReport(asked=2)


def test_an_answer_without_loc_gives_no_pair_and_is_counted(make_adapter):
    adapter = make_adapter(template="paper", answer_mode="generated")
    prompts = [[Prompt("cat"), QUESTIONS[0], Prompt("dog"), Prompt("star")], [Prompt("ring")]]
    write_texts(adapter, ["It is [LOC] [SEG]", "There is none.", RIGHT])
    with torch.no_grad():
        features = adapter(make_images(2), prompts, predicting=True)
    assert features.image_index.tolist() == [0, 0, 1]
    assert features.prompt_index.tolist() == [0, 3, 0]
    assert adapter.answer_report == AnswerReport(asked=4, lacked_loc=1, misnamed=3)
    adapter.answer_report.clear()
    assert adapter.answer_report == AnswerReport()


def test_answers_that_all_lack_loc_give_empty_features(make_adapter):
    adapter = make_adapter(template="paper", answer_mode="generated")
    with torch.no_grad():  # random weights write nothing of use
        features = adapter(make_images(2), [[Prompt("cat")], [Prompt("dog")]], predicting=True)
    assert features.query.shape == (0, 32)
    assert adapter.answer_report.asked == adapter.answer_report.lacked_loc == 2


def test_a_trained_location_answer_is_written_and_read(make_adapter):
    images, prompts = make_images(), [[Prompt("cat"), Prompt("red star")]]
    adapter = make_adapter(template="paper", answer_mode="generated")
    optimizer = torch.optim.Adam(adapter.parameters(), lr=3e-3)
    for _ in range(40):
        optimizer.zero_grad()
        adapter(images, prompts).text_losses["loss_answer"].backward()
        optimizer.step()
    with torch.no_grad():
        forced = adapter(images, prompts).query
        written = adapter(images, prompts, predicting=True).query
    assert adapter.answer_report == AnswerReport(asked=2)
    assert relative_difference(written, forced) <= 1e-5


def test_several_locs_are_read_at_the_first_one(make_adapter):
    encoder = make_adapter(template="paper").encoder
    forced = encoder.suffix("cat", "detection")
    written = encoder.ids(" here [LOC] and [LOC] [DET]")
    suffix = written_suffix(forced, written, encoder.slot_ids)
    assert suffix.ids.count(encoder.slot_ids[0]) == 1
    assert suffix.ids[suffix.slots[0]] == encoder.slot_ids[0]
    assert suffix.num_answer_tokens == 0


@pytest.mark.parametrize(
    ("written", "is_named"), [("[DET]", True), ("[SEG]", False), ("[DET] [SEG]", False), ("", False)]
)
def test_an_answer_names_its_task_by_its_token_alone(make_adapter, written, is_named):
    encoder = make_adapter().encoder
    wording = TaskWording("detection", "boxes", "[DET]")
    assert names_task(encoder.ids(f" so {written}"), wording, encoder.routing_ids) is is_named


def test_generated_answers_need_a_template_with_an_answer(make_adapter):
    with pytest.raises(ConfigError, match="no answer to generate"):
        make_adapter(answer_mode="generated")
    with pytest.raises(ConfigError, match="answer_mode must be one of"):
        make_adapter(answer_mode="free")


def test_the_answer_mode_belongs_to_the_protocol_not_to_the_checkpoint(make_adapter):
    forced, generated = make_adapter(template="paper"), make_adapter(template="paper", answer_mode="generated")
    assert forced.describe() == generated.describe()
    assert (forced.protocol["answer_mode"], generated.protocol["answer_mode"]) == ("forced", "generated")

"""A prompt has the tokens that the whole text has, however it is split into a prefix and a suffix."""

import pytest
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast
from zoo import GEMMA, IM, INST, USER, chat, sentencepiece_like

from lumen.lmm.nano.tokenizer import build_tokenizer
from lumen.lmm.tokens.phrases import PromptEncoder
from lumen.lmm.tokens.questions import TextEncoder
from lumen.lmm.tokens.shared_start import SharedStart, common_start, encode
from lumen.prompts import TEMPLATES, Wordings
from lumen.structures import Prompt

PHRASES = ("cat", "What", "7 red circles", "a caf\u00e9 (left)", "\u4e2d\u6587", "#1?", "e.g.", "'s", "x" * 40)
FRAMES = {"user": USER, "inst": INST, "im": IM, "gemma": GEMMA}
IMAGE = "<image>"


def byte_level():
    return build_tokenizer(512)


@pytest.fixture(params=[byte_level, sentencepiece_like])
def tokenizer(request):
    made = request.param()
    made.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>", "<end_of_turn>"]})
    return made


def encoder_of(tokenizer, frame, template="compact"):
    tokenizer.chat_template = chat(FRAMES[frame], "<image>\n")
    return PromptEncoder(
        tokenizer, template=TEMPLATES[template], wordings=Wordings(), placeholder=IMAGE, image_text=IMAGE
    )


def rendered(tokenizer, *turns, open_answer):
    """Return the tokens of a conversation as the model's own processor makes them, with three cells of an image."""
    messages = [
        {"role": role, "content": [{"type": "image"}] * (number == 0) + [{"type": "text", "text": text}]}
        for number, (role, text) in enumerate(zip(["user", "assistant"] * len(turns), turns, strict=False))
    ]
    text = tokenizer.apply_chat_template(messages, add_generation_prompt=open_answer, tokenize=False)
    return encode(tokenizer, text.replace(IMAGE, IMAGE * 3, 1))


@pytest.mark.parametrize("phrase", PHRASES)
@pytest.mark.parametrize("frame", FRAMES)
def test_prefix_and_question_are_the_tokens_of_the_whole_text(tokenizer, frame, phrase):
    text = TextEncoder(encoder_of(tokenizer, frame))
    prompt = Prompt(phrase, "vqa", history=(("how many?", "two"),))
    found = [*text.prefix(IMAGE * 3), *text.question(prompt)]
    assert found == rendered(tokenizer, "how many?", "two", phrase, open_answer=True)


@pytest.mark.parametrize("phrase", PHRASES)
@pytest.mark.parametrize("frame", FRAMES)
def test_a_learnt_answer_is_the_tokens_of_the_whole_text(tokenizer, frame, phrase):
    encoder = encoder_of(tokenizer, frame)
    text = TextEncoder(encoder)
    suffix = text.suffix(Prompt(phrase, "vqa", answer="red and 3"))
    whole = rendered(tokenizer, phrase, "red and 3", open_answer=False)
    ids = [*text.prefix(IMAGE * 3), *suffix.ids]
    assert ids[:-1] == whole[: len(ids) - 1]
    assert ids[-1] == encoder.end_id
    asked = [*text.prefix(IMAGE * 3), *suffix.ids[: suffix.answer]]
    assert asked == rendered(tokenizer, phrase, open_answer=True)


@pytest.mark.parametrize("phrase", PHRASES)
@pytest.mark.parametrize("template", TEMPLATES)
@pytest.mark.parametrize("frame", FRAMES)
def test_prefix_and_phrase_are_the_tokens_of_the_whole_text(tokenizer, frame, template, phrase):
    encoder = encoder_of(tokenizer, frame, template)
    suffix = encoder.suffix(phrase, "detection")
    user, answer = encoder.wordings.suffix(encoder.template, phrase, "detection")
    whole = rendered(tokenizer, encoder.template.before + user, *([answer] if answer else []), open_answer=not answer)
    ids = [*encoder.prefix(IMAGE * 3), *suffix.ids]
    count = len(ids) - bool(answer)
    assert ids[:count] == whole[:count]
    spoken = tokenizer.decode(suffix.ids[suffix.phrase[0] : suffix.phrase[1]])
    assert spoken.strip() == phrase or phrase == "e.g."  # its last full stop merges with the one behind it
    assert suffix.ids[suffix.slots[0]] == encoder.slot_ids[0]


@pytest.mark.parametrize(
    ("frame", "end"), [("user", "</s>"), ("inst", "</s>"), ("im", "<|im_end|>"), ("gemma", "<end_of_turn>")]
)
def test_an_answer_ends_as_the_template_ends_a_turn(frame, end, tokenizer):
    encoder = encoder_of(tokenizer, frame, "paper")
    assert tokenizer.convert_ids_to_tokens(encoder.suffix("cat", "detection").ids[-1]) == end
    asked = TextEncoder(encoder).suffix(Prompt("why?", "vqa", answer="so"))
    assert tokenizer.convert_ids_to_tokens(asked.ids[-1]) == end


def merging():
    """Return a tokenizer whose word ``Find x`` is one token, as no known one has it."""
    letters = {letter: number for number, letter in enumerate("Find xyo.", start=4)}
    vocabulary = {"<unk>": 0, "<s>": 1, "</s>": 2, IMAGE: 3, **letters, "Fi": 20, " x": 21, "d x": 22}
    merges = [("F", "i"), (" ", "x"), ("d", " x")]
    made = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.BPE(vocabulary, merges, unk_token="<unk>")),
        unk_token="<unk>",
        eos_token="</s>",
    )
    made.add_special_tokens({"additional_special_tokens": [IMAGE]})
    return made


def test_a_start_ends_before_what_may_merge(monkeypatch):
    tokenizer = merging()
    monkeypatch.setattr("lumen.lmm.tokens.shared_start.PROBES", ("x", "y"))
    start = SharedStart(tokenizer, "<image>Find", placeholder=IMAGE, image_text=IMAGE, joint=" ")
    assert tokenizer.convert_ids_to_tokens(start.ids(IMAGE * 2)) == [IMAGE, IMAGE, "Fi", "n"]
    assert tokenizer.convert_ids_to_tokens(start.rest(" x")) == ["d x"]
    assert tokenizer.convert_ids_to_tokens(start.rest(" yo")) == ["d", " ", "y", "o"]


def test_a_merge_that_no_probe_foresaw_is_named(monkeypatch, caplog):
    monkeypatch.setattr("lumen.lmm.tokens.shared_start.PROBES", ("y", "o"))
    start = SharedStart(merging(), "<image>Find", placeholder=IMAGE, image_text=IMAGE)
    assert len(start.rest(" y")) == 2
    assert "merges" not in caplog.text
    assert start.rest(" x") == [21]
    assert "' x' are those of the text alone" in caplog.text


@pytest.mark.parametrize(
    ("rows", "wanted"), [([[1, 2, 3], [1, 2]], [1, 2]), ([[1], [2]], []), ([[], [1]], []), ([[4, 5]], [4, 5])]
)
def test_the_common_start_of_rows(rows, wanted):
    assert common_start(rows) == wanted

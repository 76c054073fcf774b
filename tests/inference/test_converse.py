"""Conversations with a predictor: what is written is made up, what it points at is found."""

import io
from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers import check_answers_equal
from PIL import Image

from lumen import cli
from lumen.aligners.dense import DenseAligner
from lumen.decoders.detection import DetectionDecoder
from lumen.decoders.pose import PoseDecoder
from lumen.decoders.segmentation import SegmentationDecoder
from lumen.decoders.text import VqaDecoder
from lumen.errors import ConfigError, DataError, PromptError
from lumen.inference import chat
from lumen.inference.asked_image import AskedImage
from lumen.inference.predictor import LumenPredictor
from lumen.lmm.adapter import HFAdapter
from lumen.lmm.generation import Continuation
from lumen.model import Lumen
from lumen.ops.masks import decode_masks

ASKED = "Please find the location of star. Respond with masks."
POINTING = " Sure, the location is [LOC]. The task output is [SEG]."


@pytest.fixture
def predictor(tiny_nano):
    torch.manual_seed(0)
    adapter = HFAdapter(str(tiny_nano), template="paper", base={"attention": "eager"}, generation={"max_new_tokens": 4})
    aligner = {"type": DenseAligner, "channels": 32, "num_heads": 4, "mlp_channels": 64}
    decoders = [{"type": kind} for kind in (VqaDecoder, DetectionDecoder, SegmentationDecoder)]
    decoders.append({"type": PoseDecoder})
    predictor = LumenPredictor(Lumen(adapter, aligner, decoders), input_hw=(64, 64))
    predictor.set_image(np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8))
    return predictor


def write(predictor, *texts):
    """Make the LMM write these texts, one per turn; return where the tokens of each turn are noted."""
    writer, left, asked = predictor.model.lmm.writer, list(texts), []

    def go_on(runner, encoded, start, rows, bound):
        if not rows[0]:  # no text prompt beside the pairs
            return [[]]
        asked.append(writer.encoder.tokenizer.decode(rows[0][0][start:]))
        ids = writer.encoder.ids(left.pop(0))
        return [[Continuation(ids, [1.0] * len(ids))]]

    writer.go_on = go_on
    return asked


def test_an_answer_without_slots_is_a_text_alone(predictor):
    reply = predictor.converse("is it red?")  # the LMM's own words, from random weights
    assert isinstance(reply.text, str) and reply.tables == {} and reply.num_unpaired == 0
    write(predictor, "yes, it is")
    reply = predictor.converse("is it red?")
    assert (reply.text, reply.tables, reply.history) == ("yes, it is", {}, (("is it red?", "yes, it is"),))


def test_what_is_pointed_at_is_what_the_task_finds_for_the_same_words(predictor):
    """The paper's question and answer, asked as a phrase and written in a conversation."""
    forced = predictor.predict(["star"], task="segmentation", score_threshold=0.0)
    write(predictor, POINTING)
    reply = predictor.converse(ASKED, slot_routes={"[SEG]": "segmentation"}, score_threshold=0.0)
    assert list(reply.tables) == ["segmentation"] and reply.text == POINTING.strip()
    table = reply.tables["segmentation"]
    assert table.phrases == [ASKED] * len(table) and set(table.labels.tolist()) == {0}
    masks, expected = (decode_masks(each.pop("masks"), (40, 60)) for each in (table, forced))
    assert (masks != expected).float().mean() < 1e-3
    forced.phrases = table.phrases
    check_answers_equal(table, forced)


def test_tokens_lead_to_the_tasks_of_the_model_unless_told(predictor):
    write(predictor, *["It is [LOC], [SEG]. It is [LOC], [DET]. It is [LOC], [POINT]."] * 3)
    tables = predictor.converse("where?", score_threshold=0.0).tables
    assert list(tables) == ["detection", "segmentation"]  # of poses objects are asked one at a time
    for task, token in (("detection", "[SEG]"), ("segmentation", "[POINT]")):
        assert list(predictor.converse("where?", slot_routes={token: task}, score_threshold=0.0).tables) == [task]


def test_two_places_of_a_task_are_numbered(predictor):
    write(predictor, "One [LOC], [DET]. Two [LOC], [DET].", "One [LOC], [DET].")
    twice = predictor.converse("where?", score_threshold=0.0).tables["detection"]
    once = predictor.converse("where?", score_threshold=0.0).tables["detection"]
    assert set(twice.labels.tolist()) == {0, 1}
    first = twice[twice.labels == 0]
    check_answers_equal(first, once)


def test_turns_go_on_and_the_image_stands_once(predictor):
    asked = write(predictor, POINTING, "no", "a ring")
    first = predictor.converse(ASKED)
    second = predictor.converse("is it red?", first.history)
    third = predictor.converse("what else?", second.history)
    assert third.history == ((ASKED, POINTING.strip()), ("is it red?", "no"), ("what else?", "a ring"))
    places = [asked[2].index(text) for text in (ASKED, "[LOC]", "is it red?", "no", "what else?")]
    assert places == sorted(places)
    assert not any("<image>" in text for text in asked)  # it stands in the prefix
    assert predictor.model.lmm.usage.images == 1


def test_an_empty_answer_is_left_out_of_the_history(predictor):
    asked = write(predictor, "", "no")
    first = predictor.converse("is it red?")
    assert (first.text, first.history) == ("", ())
    predictor.converse("why?", first.history)
    assert "is it red?" not in asked[1]


def test_wrong_turns_and_routes_are_explained(predictor):
    known = r"\['\[LOC\]', '\[DET\]', '\[SEG\]', '\[POINT\]', '\[GROUND\]', '\[REFSEG\]'\]"
    with pytest.raises(ConfigError, match=rf"'\[BOX\]'; answers of this model point by {known}"):
        predictor.converse("where?", slot_routes={"[BOX]": "detection"})
    for task in ("vqa", "pose"):
        with pytest.raises(ConfigError, match="does not answer places"):
            predictor.converse("where?", slot_routes={"[DET]": task})
    with pytest.raises(PromptError, match="no decoder for task 'counting'"):
        predictor.converse("where?", slot_routes={"[DET]": "counting"})
    for text in (" ", "see [LOC]"):
        with pytest.raises(PromptError):
            predictor.converse(text)
    with pytest.raises(PromptError, match="pairs of texts"):
        predictor.converse("why?", ["hm"])


# --- the command line -------------------------------------------------------------------------------------------------


@pytest.fixture
def picture(tmp_path):
    path = tmp_path / "photo.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)).save(path)
    return path


def test_lines_are_answered_and_masks_are_files(predictor, picture, tmp_path, capsys):
    asked = write(predictor, "yes", POINTING)
    lines = ["is it red?", "  ", "see [LOC]", "where?"]
    options = {"masks": tmp_path / "masks", "slot_routes": {"[SEG]": "segmentation"}, "score_threshold": 0.0}
    chat.chat_about(predictor, picture, lines, **options)
    printed, errors = capsys.readouterr()
    assert printed.startswith("yes\nSure, the location is [LOC].") and "is it red?" in asked[1]
    assert errors.startswith("error: a prompt must not hold special tokens")
    files = sorted((tmp_path / "masks").glob("*.png"))
    assert len(files) == printed.count(" -> ") > 0 and files[0].name.startswith("photo_2_")
    with Image.open(files[0]) as mask:
        assert (mask.mode, mask.size) == ("L", (60, 40)) and set(mask.tobytes()) <= {0, 255}


def test_a_conversation_ends_with_the_input_and_by_ctrl_c(predictor, picture, capsys, monkeypatch):
    def interrupted():
        yield "is it red?"
        raise KeyboardInterrupt

    write(predictor, "yes")
    chat.chat_about(predictor, picture, interrupted())
    assert capsys.readouterr().out == "yes\n\n"
    given = iter(["a", "b"])

    def read(mark):
        for text in given:
            return text
        raise EOFError

    terminal = io.StringIO()
    terminal.isatty = lambda: True
    monkeypatch.setattr("sys.stdin", terminal)
    monkeypatch.setattr("builtins.input", read)
    assert list(chat.typed_lines()) == ["a", "b"]


def test_lines_of_a_file_are_bounded_and_may_hold_any_bytes(predictor, picture, capsys, monkeypatch):
    def lines_of(content):
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(content), encoding="utf-8"))
        return chat.typed_lines()

    assert list(lines_of(b"a\r\n\nb")) == ["a", "", "b"]
    write(predictor, "yes")
    chat.chat_about(predictor, picture, lines_of(b"is it \xff?\nis it red?"))
    printed, errors = capsys.readouterr()
    assert printed == "yes\n" and "half of a surrogate pair" in errors
    with pytest.raises(DataError, match="a question per line"):
        list(lines_of(b"x" * 2**20))
    monkeypatch.setattr("sys.stdin", None)
    with pytest.raises(DataError, match="is closed"):
        list(chat.typed_lines())


def test_a_terminal_obeys_no_answer(predictor, picture, capsys, monkeypatch):
    reply = predictor.converse("is it red?")
    monkeypatch.setattr(AskedImage, "converse", lambda *args, **options: replace(reply, text="\x1b[2Jyes\n\tno\x9b1m"))
    chat.chat_about(predictor, picture, ["is it red?"])
    assert capsys.readouterr().out == "\\x1b[2Jyes\n\tno\\x9b1m\n"


def test_the_command_reads_routes_and_explains_itself(picture, capsys, monkeypatch):
    assert chat.read_routes(["[SEG]=segmentation"]) == {"[SEG]": "segmentation"}
    for given in (["[SEG]"], ["=x"], ["[SEG]="], ["[SEG]=a", "[SEG]=b"]):
        with pytest.raises(ConfigError, match="takes TOKEN=TASK"):
            chat.read_routes(given)
    for words, code, part in (
        (["chat", "--help"], 0, "lumen chat photo.jpg"),
        (["chat", "gone.png"], 2, "there is no image"),
    ):
        monkeypatch.setattr("sys.argv", ["lumen", *words])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        assert ended.value.code == code
        printed = capsys.readouterr()
        assert part in printed.out + printed.err

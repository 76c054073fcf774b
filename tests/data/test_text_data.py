import json

import numpy as np
import pytest
import torch
from PIL import Image

from lumen.data.text import AskQuestions, LoadImageOrBlank, QuestionsDataset
from lumen.data.transforms import LoadImage, PackSample, ResizeToInput
from lumen.errors import ConfigError, DataError
from lumen.ops.geometry import InputTransform
from lumen.structures import Prompt

IMAGES = [
    {"id": 1, "file_name": "a.png", "width": 40, "height": 20},
    {"id": 2, "file_name": "b.png", "width": 30, "height": 30},
]
QUESTIONS = [
    {"id": 7, "image_id": 1, "question": "how many? ", "answer": "two", "form": "count"},
    {"id": 8, "image_id": 2, "question": "is it red?", "answers": ["no", "yes", "yes"]},
    {"id": 9, "image_id": 1, "question": "is there a cat?", "answer": "no", "form": "existence"},
]
TURNS = [
    {"from": "human", "value": "<image>\nwhat is it?"},
    {"from": "gpt", "value": "a star"},
    {"from": "human", "value": "which color?"},
    {"from": "gpt", "value": "red"},
]


@pytest.fixture
def make(tmp_path):
    """Write a file and two images, and return a data set over them."""
    for name, size_hw in {"a.png": (20, 40), "b.png": (30, 30)}.items():
        Image.fromarray(np.zeros((*size_hw, 3), dtype=np.uint8)).save(tmp_path / name)

    def make(content, **options):
        (tmp_path / "ann.json").write_text(json.dumps(content))
        return QuestionsDataset(ann_file="ann.json", data_root=str(tmp_path), **options)

    return make


def pipeline(load=None, **ask):
    return [load or LoadImage(), ResizeToInput(input_hw=(32, 32)), AskQuestions(**ask), PackSample()]


def test_a_sample_is_an_image_with_all_its_questions(make):
    dataset = make({"images": IMAGES, "questions": QUESTIONS}, pipeline=pipeline(shuffle=False), test_mode=True)
    assert len(dataset) == 2
    packed = dataset[0]
    sample = packed["data_samples"]
    assert packed["inputs"].shape == (3, 32, 32)
    assert sample.prompts == (Prompt("how many?", "vqa", answer="two"), Prompt("is there a cat?", "vqa", answer="no"))
    assert [question["id"] for question in sample.questions] == [7, 9]
    assert [question["form"] for question in sample.questions] == ["count", "existence"]
    assert sample.gt_instances.bboxes.shape == (0, 4)
    assert sample.gt_instances.prompt_index.dtype == torch.long
    assert len(sample.ignored_instances) == 0
    assert dataset.metainfo["ann_file"].endswith("ann.json")


def test_the_answer_to_learn_is_what_most_people_said(make):
    dataset = make({"images": IMAGES, "questions": QUESTIONS}, pipeline=pipeline())
    assert dataset[1]["data_samples"].prompts[0].answer == "yes"
    assert dataset[1]["data_samples"].questions[0]["answers"] == ("no", "yes", "yes")


def test_captions_of_an_image_are_the_answers_of_one_empty_question(make):
    rows = [{"id": at, "image_id": 1, "caption": text} for at, text in enumerate(["a cat", "one cat"])]
    np.random.seed(0)
    dataset = make(
        {"images": IMAGES, "annotations": rows}, layout="captions", pipeline=pipeline(task="caption", answer="random")
    )
    assert len(dataset) == 1  # the second image has no caption
    seen = {dataset[0]["data_samples"].prompts for _ in range(20)}
    assert seen == {(Prompt("", "caption", answer="a cat"),), (Prompt("", "caption", answer="one cat"),)}


def test_each_turn_of_a_conversation_is_a_question_with_its_history(make):
    entries = [{"id": "x", "image": "a.png", "conversations": TURNS}, {"id": "y", "conversations": TURNS[2:]}]
    steps = pipeline(LoadImageOrBlank(blank_hw=(8, 16)), task="chat", shuffle=False)
    dataset = make(entries, layout="conversations", pipeline=steps)
    with_image, without = (dataset[at]["data_samples"] for at in range(2))
    assert with_image.prompts == (
        Prompt("what is it?", "chat", answer="a star"),
        Prompt("which color?", "chat", answer="red", history=(("what is it?", "a star"),)),
    )
    assert with_image.ori_shape == (20, 40)
    assert without.prompts == (Prompt("which color?", "chat", answer="red"),)
    assert without.ori_shape == (8, 16)


def test_a_bounded_number_of_questions_is_drawn_and_stays_with_its_prompts(make):
    content = {"images": IMAGES[:1], "questions": [{**QUESTIONS[0], "id": at, "question": f"q{at}"} for at in range(9)]}
    np.random.seed(0)
    dataset = make(content, pipeline=pipeline(num_prompts=2))
    drawn = [dataset[0]["data_samples"] for _ in range(20)]
    assert len({sample.prompts for sample in drawn}) > 5
    for sample in drawn:
        assert [prompt.text for prompt in sample.prompts] == [question["question"] for question in sample.questions]


@pytest.mark.parametrize(
    ("entry", "reason"),
    [
        ("text", "question is missing or empty"),
        ({"id": 1, "image_id": 1, "question": " "}, "question is missing or empty"),
        ({"id": 1, "image_id": 5, "question": "a"}, "unknown or skipped image"),
        ({"id": 1, "image_id": 1, "question": "a", "answer": ""}, "an answer is not a text"),
        ({"id": 1, "image_id": 1, "question": "a", "answers": "yes"}, "an answer is not a text"),
        ({"id": 1, "image_id": 1, "question": "a", "answer": "b" * 8193}, "longer than 8192 characters"),
    ],
)
def test_a_broken_question_is_counted_and_too_many_are_an_error(make, entry, reason):
    content = {"images": IMAGES, "questions": [*QUESTIONS, entry]}
    with pytest.raises(DataError, match=reason):
        make(content)
    assert reason in next(iter(make(content, skip_budget=0.5).report))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"conversations": TURNS[1:]}, "turns do not alternate"),
        ({"conversations": TURNS[:1]}, "two turns or more"),
        ({"conversations": [TURNS[0], {"from": "gpt", "value": " "}]}, "a turn is empty"),
        ({"image": "../a.png"}, "leaves the image folder"),
        ({"image": ""}, "there is no image"),
        ({"conversations": [*TURNS, *TURNS]}, "<image> does not occur exactly once"),
    ],
)
def test_a_broken_conversation_is_counted(make, change, reason):
    right = {"id": "x", "image": "a.png", "conversations": TURNS}
    dataset = make([right, {**right, **change}], layout="conversations", skip_budget=0.5)
    assert len(dataset) == 1
    assert reason in next(iter(dataset.report))


@pytest.mark.parametrize(
    ("content", "layout", "message"),
    [
        ([], "questions", "a dict with the lists"),
        ({"images": IMAGES}, "captions", "'annotations' is none"),
        ({}, "conversations", "holds a list"),
        ({"images": IMAGES, "questions": []}, "questions", "no image with a usable text"),
    ],
)
def test_a_file_of_another_layout_is_refused(make, content, layout, message):
    with pytest.raises(DataError, match=message):
        make(content, layout=layout)


def test_a_file_that_is_no_json_is_refused(tmp_path):
    (tmp_path / "ann.json").write_text("{")
    with pytest.raises(DataError, match="cannot be read as json"):
        QuestionsDataset(ann_file=str(tmp_path / "ann.json"))


def test_unknown_options_are_refused(make):
    with pytest.raises(ConfigError, match="layout must be"):
        make({}, layout="vqa")
    with pytest.raises(ConfigError, match="at least 1"):
        AskQuestions(num_prompts=0)
    with pytest.raises(ConfigError, match="'majority' or 'random'"):
        AskQuestions(answer="best")


def make_results(question, answer, *, mirrored):
    frame = InputTransform.stretch((8, 8), (8, 8))
    entry = {"id": 0, "question": question, "answers": (answer,), "history": (), "form": ""}
    return {"questions": (entry,), "frame": frame.flip_horizontal() if mirrored else frame}


def test_a_mirrored_view_is_not_asked_for_a_side_unless_sides_are_exchanged():
    asked = AskQuestions()(make_results("is it left of the ring?", "yes", mirrored=True))
    assert asked["prompts"] == ()
    asked = AskQuestions(exchange_sides=True)(make_results("where?", "left of it", mirrored=True))
    assert [(prompt.text, prompt.answer) for prompt in asked["prompts"]] == [("where?", "right of it")]
    asked = AskQuestions(exchange_sides=True)(make_results("is it left?", "yes", mirrored=False))
    assert [prompt.text for prompt in asked["prompts"]] == ["is it left?"]


def test_questions_are_asked_behind_other_prompts_and_leave_targets_alone():
    results = make_results("what?", "it", mirrored=False)
    results |= {"prompts": (Prompt("star"),), "gt_instances": "own", "ignored_instances": "own"}
    results = AskQuestions()(results)
    assert [prompt.text for prompt in results["prompts"]] == ["star", "what?"]
    assert results["gt_instances"] == "own"
    assert [entry and entry["question"] for entry in results["questions"]] == [None, "what?"]


def test_a_conversation_is_learned_up_to_a_turn_that_is_too_long(make):
    later = [{"from": "human", "value": "and?"}, {"from": "gpt", "value": "b" * 8193}]
    entry = {"id": "x", "image": "a.png", "conversations": [*TURNS, *later]}
    with pytest.raises(DataError, match="longer than 8192 characters"):
        make([entry], layout="conversations")
    dataset = make([entry], layout="conversations", skip_budget=1.0)
    assert [question["answers"] for question in dataset.get_data_info(0)["questions"]] == [("a star",), ("red",)]
    assert dataset.report == {"a text is longer than 8192 characters": ["x"]}

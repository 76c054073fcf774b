"""InfMLLM: wording, readers of public layouts, metrics by hand, what each stage trains."""

import json
import sys
from pathlib import Path

import pytest
import torch
from helpers import TINY, make_images, make_sample
from mmengine.registry import DefaultScope
from mmengine.structures import InstanceData
from PIL import Image

from lumen.data.shapes.write import make_shapes
from lumen.data.text import AskQuestions, QuestionsDataset
from lumen.data.transforms import PackSample, ResizeToInput
from lumen.engine.check_config import load_config
from lumen.engine.cost import make_plan
from lumen.engine.hooks import FreezeHook, freeze_parameters
from lumen.engine.runner import LumenRunner
from lumen.errors import ConfigError, DataError
from lumen.lmm.nano.model import make_nano
from lumen.registry import MODELS
from lumen.structures import Prompt

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "projects" / "infmllm"
sys.path.append(str(FOLDER))  # as the tools do for the folder of a config

from infmllm_layouts import LAYOUTS, Source, to_content  # noqa: E402
from infmllm_metrics import ChoiceMetric, MmeMetric, choice_of  # noqa: E402
from infmllm_questions import ChainQuestions, WordShortQuestions  # noqa: E402

CHOICE = (
    "What is it?\nA. a dog\nB. a cat\nC. the A team\nAnswer with the option's letter from the given choices directly."
)


def test_a_question_in_infmllms_words():
    ask = WordShortQuestions(max_words=4)
    prompts = (Prompt('What (colour) is the "BIG" dog here?', "vqa"), Prompt("", "caption"))
    asked = ask({"prompts": prompts})["prompts"]
    assert asked[0].text == "Question:what colour is the Short answer:"
    assert asked[1] == prompts[1]
    assert WordShortQuestions()({"prompts": (Prompt("Is it red?", "vqa"),)})["prompts"][0].text == (
        "Question:is it red? Short answer:"
    )
    with pytest.raises(ConfigError, match="must hold"):
        WordShortQuestions(form="Question:")


def test_questions_become_turns():
    def entry(question, *answers):
        return {"id": question, "question": question, "answers": answers, "history": (), "form": ""}

    record = {"questions": (entry("a?", "1", "2"), entry("b?"), entry("c?", "3"), entry("d?", "4"), entry("e?", "5"))}
    chained = ChainQuestions(max_turns=3)(record)["questions"]
    assert [each["question"] for each in chained] == ["a?", "c?", "d?"]
    assert [each["history"] for each in chained] == [(), (("a?", "1"),), (("a?", "1"), ("c?", "3"))]
    assert ChainQuestions()({"questions": ()})["questions"] == ()
    assert len(ChainQuestions(key="turns")({"turns": record["questions"][:1]})["turns"]) == 1
    with pytest.raises(ConfigError, match="at least 1"):
        ChainQuestions(max_turns=0)


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        ("B", "B"),
        ("b", None),
        ("(C)", "C"),
        ("The answer is A", "A"),
        ("A.", "A"),
        ("A cat", "B"),
        ("a cat.", "B"),
        ("A bird", None),
        ("I think B because of C", "B"),
        ("D", None),
        ("", None),
    ],
)
def test_the_letter_that_an_answer_names(text, letter):
    # "A cat" is an option in words, not option A.
    assert choice_of(text, CHOICE) == letter


def test_a_question_without_options_is_an_error():
    with pytest.raises(DataError, match="one option per line"):
        choice_of("A", "What is it?")


def answered(questions, texts, img_id=0):
    """Return a sample as metrics get it."""
    sample = make_sample([Prompt(entry["question"], "vqa") for entry in questions])
    sample.set_metainfo({"questions": tuple(questions), "img_id": img_id})
    sample.pred_instances = InstanceData(texts=list(texts), prompt_index=torch.arange(len(texts)))
    return sample.to_dict()


def question(text, answer, form=""):
    return {"id": text, "question": text, "answers": (answer,), "history": (), "form": form}


def test_multiple_choice_by_hand():
    metric = ChoiceMetric()
    asked = [question(CHOICE, "B", "x"), question(CHOICE, "A", "x"), question(CHOICE, "C", "y")]
    metric.process(None, [answered(asked, ["B", "C.", "the A team"]), answered(asked[:1], ["what?"])])
    figures = metric.compute_metrics(metric.results)
    assert figures == {"accuracy": 0.5, "unparsed": 0.25, "accuracy_x": 1 / 3, "accuracy_y": 1.0}
    with pytest.raises(DataError, match="no question was answered"):
        metric.compute_metrics([])


def test_mme_by_hand():
    metric = MmeMetric()

    def pair(form):
        return [question("is it? Please answer yes or no.", "Yes", form), question("is it not?", "No", form)]

    metric.process(
        None,
        [
            answered(pair("count"), ["Yes, it is.", "no"]),  # both right
            answered(pair("count"), ["yes", "Yes"]),  # one
            answered(pair("OCR") + pair("code_reasoning"), ["maybe", "No", "yes", "No."]),  # one; both
        ],
    )
    figures = metric.compute_metrics(metric.results)
    assert figures["acc"] == 6 / 8 and figures["acc_plus"] == 2 / 4
    assert figures["score_count"] == 75 + 50 and figures["score_OCR"] == 50 and figures["score_code_reasoning"] == 200
    assert figures["perception"] == 175 and figures["cognition"] == 200
    with pytest.raises(DataError, match=r"two questions per image and subtask, got \{'count': 1\}"):
        metric.process(None, [answered(pair("count")[:1], ["yes"])])
    with pytest.raises(DataError, match="no image was asked"):
        metric.compute_metrics([])


def draw(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (40, 30), "white").save(folder / name, format="PNG")


def write(path, content):
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def vqa_files(folder):
    draw(folder, "COCO_val2014_000000000042.jpg")
    questions = {"questions": [{"image_id": 42, "question": "What is it?", "question_id": 7}]}
    answers = [{"answer": "cat", "answer_id": n} for n in range(10)]
    annotations = {"annotations": [{"question_id": 7, "image_id": 42, "answer_type": "other", "answers": answers}]}
    return Source(write(folder / "q.json", questions), write(folder / "a.json", annotations))


def gqa_files(folder):
    draw(folder, "n1.jpg")
    entry = {"imageId": "n1", "question": "Is it red?", "answer": "no", "types": {"structural": "verify"}}
    return Source(write(folder / "gqa.json", {"201": entry}))


def textvqa_files(folder):
    draw(folder, "f00.jpg")
    entry = {"image_id": "f00", "question_id": 3, "question": "what brand?", "answers": ["acme"] * 9 + ["ace"]}
    return Source(write(folder / "textvqa.json", {"data": [entry]}))


def ocrvqa_files(folder):
    draw(folder, "0001.jpg")
    entry = {"imageURL": "http://x/0001.jpg", "questions": ["Who?", "When?"], "answers": ["Ann", "1999"], "split": 3}
    return Source(write(folder / "dataset.json", {"0001": entry, "0002": {**entry, "split": 1}}))


def scienceqa_files(folder):
    draw(folder, "test/9/image.png")
    entry = {"question": "Which?", "choices": ["sun", "moon"], "answer": 1, "hint": "Look up.", "image": "image.png"}
    entry |= {"split": "test", "subject": "natural science"}
    return Source(write(folder / "p.json", {"9": entry, "8": {**entry, "image": None}, "7": {**entry, "split": "val"}}))


def pope_files(folder):
    draw(folder, "COCO_val2014_000000000001.jpg")
    lines = [{"question_id": n, "image": "COCO_val2014_000000000001.jpg", "text": "Is there a cup?", "label": "no"}
             for n in (1, 2)]  # fmt: skip
    return Source(write(folder / "coco_pope_popular.json", "\n".join(map(json.dumps, lines)) + "\n"))


def mme_files(folder):
    draw(folder, "count/1.png", "artwork/images/2.jpg")
    write(folder / "count" / "1.txt", "Are there two? Please answer yes or no.\tYes\nThree?\tNo\n")
    (folder / "artwork" / "questions_answers_YN").mkdir()
    write(folder / "artwork" / "questions_answers_YN" / "2.txt", "By Ann?\tYes\nBy Bob?\tNo\n")
    return Source(folder)


def seed_files(folder):
    draw(folder, "id_1")
    entry = {f"choice_{letter}": word for letter, word in zip("abcd", ["one", "two", "three", "four"], strict=True)}
    entry |= {"answer": "C", "data_id": "id_1", "data_type": "image", "question": "How many?", "question_id": "5"}
    content = {
        "questions": [{**entry, "question_type_id": 4}, {**entry, "question_type_id": 10, "data_type": "video"}],
        "question_type": {"Instances Counting": 4},
    }
    return Source(write(folder / "seed.json", content))


MAKE = {
    "vqa": (vqa_files, [("What is it?", "cat", 10, "other")]),
    "gqa": (gqa_files, [("Is it red?", "no", 1, "verify")]),
    "textvqa": (textvqa_files, [("what brand?", "acme", 10, "")]),
    "ocrvqa": (ocrvqa_files, [("Who?", "Ann", 1, ""), ("When?", "1999", 1, "")]),
    "scienceqa": (scienceqa_files, [("Look up.\nWhich?\nA. sun\nB. moon\nAnswer with", "B", 1, "natural science")]),
    "pope": (pope_files, [("Is there a cup?", "no", 1, "popular")] * 2),
    "mme": (
        mme_files,
        [
            ("By Ann? Please answer yes or no.", "Yes", 1, "artwork"),
            ("By Bob? Please answer yes or no.", "No", 1, "artwork"),
            ("Are there two? Please answer yes or no.", "Yes", 1, "count"),
            ("Three? Please answer yes or no.", "No", 1, "count"),
        ],
    ),
    "seed": (seed_files, [("How many?\nA. one\nB. two\nC. three\nD. four\nAnswer", "C", 1, "Instances Counting")]),
}


def test_there_is_a_file_for_every_layout():
    assert set(MAKE) == set(LAYOUTS)


@pytest.mark.parametrize("layout", MAKE)
def test_a_public_layout_becomes_questions_of_samples(layout, tmp_path):
    make, wanted = MAKE[layout]
    source = make(tmp_path)
    write(tmp_path / "questions.json", to_content(layout, source, tmp_path))
    pipeline = [ResizeToInput(input_hw=(32, 32)), AskQuestions(shuffle=False), PackSample()]
    dataset = QuestionsDataset(
        ann_file="questions.json",
        data_root=str(tmp_path),
        pipeline=[lambda record: {**record, "image": torch.zeros(30, 40, 3, dtype=torch.uint8).numpy()}, *pipeline],
    )
    found = [entry for index in range(len(dataset)) for entry in dataset[index]["data_samples"].questions]
    assert len(found) == len(wanted) and dataset.report == {}
    for entry, (text, answer, count, form) in zip(found, wanted, strict=True):
        assert entry["question"].startswith(text)
        assert (entry["answers"][0], len(entry["answers"]), entry["form"]) == (answer, count, form)


def test_what_is_not_of_a_layout_is_an_error(tmp_path):
    source = vqa_files(tmp_path)
    with pytest.raises(DataError, match="give --answers"):
        to_content("vqa", Source(source.questions), tmp_path)
    with pytest.raises(DataError, match="no answers to question 7"):
        empty = write(tmp_path / "none.json", {"annotations": []})
        to_content("vqa", Source(source.questions, empty), tmp_path)
    with pytest.raises(DataError, match="is not of layout 'gqa': AttributeError"):
        to_content("gqa", source, tmp_path)
    with pytest.raises(DataError, match="expected a dict with the list 'data'"):
        to_content("textvqa", source, tmp_path)
    with pytest.raises(DataError, match="is not json"):
        to_content("gqa", Source(write(tmp_path / "broken.json", "{")), tmp_path)
    with pytest.raises(DataError, match="holds no question"):
        to_content("scienceqa", Source(scienceqa_files(tmp_path).questions, split="train"), tmp_path)
    with pytest.raises(DataError, match="cannot be read"):
        to_content("vqa", source, tmp_path / "elsewhere")


def test_a_broken_line_or_a_lost_image_of_mme_is_an_error(tmp_path):
    source = mme_files(tmp_path)
    write(tmp_path / "count" / "1.txt", "Are there two?\tperhaps\n")
    with pytest.raises(DataError, match="a tab and Yes or No"):
        to_content("mme", source, tmp_path)
    (tmp_path / "count" / "1.png").unlink()
    with pytest.raises(DataError, match="there is no image of this name"):
        to_content("mme", source, tmp_path)


STAGES = ("s1", "s2", "s3")


def stage(name):
    return load_config(FOLDER / f"infmllm_{name}.py", {}, tool_root=ROOT)


def frozen_model(config, nano):
    """Return the model of a stage on a tiny nano, frozen as it is while training."""
    config.model.lmm.name_or_path = str(nano)
    config.model.lmm.pop("readout", None)  # the tiny nano has no words of boxes
    with DefaultScope.overwrite_default_scope("lumen"):
        model = MODELS.build(config.model)
    for hook in config.custom_hooks:
        assert hook["type"] is FreezeHook
        freeze_parameters(model, hook["freeze"], hook.get("trainable", ()))
    return model


@pytest.mark.parametrize("size", ["nano", "7b"])
def test_each_stage_trains_exactly_its_parts(tiny_nano, size):
    place = "lmm.base_model.model"
    connector = {f"{place}.multi_modal_projector.mlp.{layer}.{kind}" for layer in (0, 2) for kind in ("weight", "bias")}
    queries_and_values = {
        f"{place}.language_model.layers.{layer}.self_attn.{name}_proj.weight" for layer in (0, 1) for name in "qv"
    }
    for name in STAGES:
        model = frozen_model(stage(f"{name}_{size}"), tiny_nano)
        names = {name for name, _ in model.named_parameters()}
        tower = {name for name in names if name.startswith(f"{place}.vision_tower.")}
        wanted = {
            "s1": connector,
            "s2": connector | tower | queries_and_values,
            "s3": names - tower,  # no decoder and no aligner has parameters
        }[name]
        assert {name for name, value in model.named_parameters() if value.requires_grad} == wanted
        assert tower and queries_and_values < names and "lmm.base_model.lm_head.weight" in names


@pytest.mark.slow
def test_memory_grows_stage_by_stage_at_full_size():
    plans = []
    for name in STAGES:
        config = stage(f"{name}_7b")
        model_config = FOLDER / "vicuna7b_eva_g.json"
        plans.append(make_plan(config, model_config=model_config, all_prompts=4, text_tokens=100))
    peaks = [plan.peak_bytes for plan in plans]
    assert peaks[0] < peaks[1] < peaks[2]
    held = [plan.memory["weights"] + plan.memory["gradients"] + plan.memory["optimizer"] for plan in plans]
    assert held[0] < held[1] < held[2]
    assert plans[0].parameters["connector"] == (22_552_576, 0)
    assert plans[1].parameters["llm"][0] == 2 * 32 * 4096**2  # q and v of 32 layers
    assert plans[1].parameters["vision"][1] == 0 and plans[2].parameters["vision"][0] == 0


@pytest.mark.slow
def test_the_three_stages_follow_each_other(tmp_path, monkeypatch):
    """Sixty steps through S1, S2 and S3, each from the checkpoint of the one before; then boxes are written."""
    make_nano(tmp_path / "data" / "nano", sizes=TINY)
    make_shapes(tmp_path / "data" / "shapes", num_train=8, num_val=2, num_test=2, workers=1)
    monkeypatch.setenv("LUMEN_DATA", str(tmp_path / "data"))
    monkeypatch.chdir(tmp_path)
    before: dict[str, torch.Tensor] = {}
    for name in STAGES:
        config = stage(f"{name}_nano")
        config.model.lmm.name_or_path = str(tmp_path / "data" / "nano")
        config.model.lmm.pop("readout")  # this nano has no words of boxes
        config.work_dir, config.train_cfg.max_iters = str(tmp_path / name), 20
        config.train_dataloader.batch_size = 2
        config.default_hooks.checkpoint.interval = 20
        config.load_from = str(tmp_path / f"s{int(name[1]) - 1}" / "iter_20.pth") if before else None
        runner = LumenRunner.from_cfg(config)
        runner.train()
        after = {key: value.detach().clone() for key, value in runner.model.state_dict().items()}
        trained = {key for key, value in runner.model.named_parameters() if value.requires_grad}
        moved = {key for key in trained if key in before and not torch.equal(before[key], after[key])}
        still = {key for key in after.keys() - trained if key in before and torch.equal(before[key], after[key])}
        assert not before or (moved == trained and set(dict(runner.model.named_parameters())) - trained <= still)
        before = after
    prompts = [[Prompt("the red circle", "written_boxes")]]
    with torch.no_grad():
        features = runner.model.lmm(make_images(1, (320, 320)), prompts, extras={"texts"}, predicting=True)
    assert len(features.extras["places"]) == 1
    assert runner.model.lmm.answer_report.questions == 1

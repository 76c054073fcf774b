"""u-LLaVA: what it asks and answers, its decoder, its data, its figures, what each stage trains."""

import dataclasses
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import make_sample, make_shared
from mmengine.registry import DefaultScope
from mmengine.structures import InstanceData
from PIL import Image

from lumen.data.refer import ReferDataset
from lumen.data.shapes import make_shapes
from lumen.data.transforms import LoadImage, PackSample, ResizeToInput
from lumen.decoders.detection import DetectionDecoder
from lumen.engine.check_config import load_config
from lumen.errors import ConfigError, DataError
from lumen.lmm.sam_prompted import SamPrompted
from lumen.ops.masks import decode_masks, tight_boxes
from lumen.registry import DATASETS
from lumen.structures import Prompt

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "projects" / "ullava"
sys.path.append(str(FOLDER))  # as the tools do for the folder of a config

from ullava_decoder import UllavaDecoder, merge_targets  # noqa: E402
from ullava_fusion import fuse_boxes  # noqa: E402
from ullava_metrics import FusedBoxAccuracy, TagAccuracy  # noqa: E402
from ullava_salient import MARGIN, SalientDataset, make_salient, salience_of  # noqa: E402
from ullava_samples import AskNames, AskReferring, AskSalient, QuestionPool, UniteMasks, parse_tag, tag_words  # noqa: E402

SAM = {"encoder": "shared", "sizes": {"num_attention_heads": 2, "mlp_dim": 32}}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Return a folder with few shapes, and the salient objects among them."""
    root = tmp_path_factory.mktemp("data")
    make_shapes(root / "shapes", 12, 4, seed=0, workers=1, num_test=6)
    for split in ("train", "test"):
        make_salient(root / "shapes", root / "salient", split)
    return root


# --- words and questions ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "tag"),
    [
        ("[tag]Dog[/tag].", "dog"),
        ("so: [tag] red cup [/tag]. Explanation: [tag]x[/tag]", "red cup"),
        ("[tag]dog", None),
        ("dog[/tag] [tag]", None),
        ("[tag] [/tag]", None),
        ("", None),
    ],
)
def test_a_tag_is_what_stands_between_the_first_pair_of_tokens(words, tag):
    assert parse_tag(words) == tag


def test_words_are_those_of_the_public_data():
    assert tag_words("Dog") == "[tag]dog[/tag]."
    assert tag_words("Dog", "It Runs.") == "[tag]dog[/tag]. Explanation: it runs."
    assert parse_tag(tag_words("traffic light", "big")) == "traffic light"


def test_questions_are_drawn_in_training_and_fixed_in_evaluation():
    training, fixed = QuestionPool("referring", training=True), QuestionPool("referring", training=False)
    drawn = {training.ask("dog", "").text for _ in range(60)}
    assert len(drawn) == 9 and all("dog" in text for text in drawn)
    assert fixed.ask("dog", "").text == "Output the segmentation mask of the dog in the image."
    assert fixed.ask("the lowest circle", "").text == "Output the segmentation mask of the lowest circle in the image."
    assert fixed.ask("theatre", "").text == "Output the segmentation mask of the theatre in the image."
    assert QuestionPool("salient", training=False).ask("", "").text == "Find the salient object in the image."
    with pytest.raises(ConfigError, match=r"there is no pool 'other' of questions; known are \['referring'"):
        QuestionPool("other", training=True)


# --- boxes ------------------------------------------------------------------------------------------------------------

REGION = torch.tensor([[0.0, 0, 10, 10], [0.0, 0, 10, 10], [0.0, 0, 10, 10]])
MASK = torch.tensor([[0.0, 0, 10, 12], [20.0, 20, 30, 30], [0.0, 0, 0, 0]])


def test_boxes_that_agree_are_averaged_and_others_are_those_of_the_mask():
    assert fuse_boxes(REGION, MASK).tolist() == [[0, 0, 10, 11], [20, 20, 30, 30], [0, 0, 10, 10]]
    assert torch.equal(fuse_boxes(REGION, MASK, rule="region"), REGION)
    assert fuse_boxes(REGION, MASK, rule="mask").tolist() == [[0, 0, 10, 12], [20, 20, 30, 30], [0, 0, 10, 10]]


def test_a_detector_gives_the_box_closest_to_that_of_the_mask_or_none():
    found = [torch.tensor([[0.0, 0, 9, 12], [5, 5, 9, 9]]), torch.zeros(0, 4), torch.tensor([[50.0, 50, 60, 60]])]
    fused = fuse_boxes(REGION, MASK, found, rule="external")
    assert fused.tolist() == [[0, 0, 9, 12], [20, 20, 30, 30], [50, 50, 60, 60]]
    assert fuse_boxes(REGION[:0], MASK[:0], [], rule="external").shape == (0, 4)
    with pytest.raises(ConfigError, match="with boxes of a detector for each of the 3 answers"):
        fuse_boxes(REGION, MASK, rule="external")
    with pytest.raises(ConfigError, match="rule must be one of"):
        fuse_boxes(REGION, MASK, rule="both")


def test_the_detector_may_be_lumens_own_asked_for_the_tags():
    """Its answers to the tags are what ``external`` takes; a tag that it does not find keeps the box of the mask."""
    torch.manual_seed(0)
    detector = DetectionDecoder(32).eval()
    with torch.no_grad():
        detector.head.layers[-1].weight.zero_()
        detector.head.layers[-1].bias.zero_()  # a box of two cells of 16 pixels around each peak
    shared = make_shared((0, 0), (0, 1))
    with torch.no_grad():
        shared.heat_logits[0, 0, 1, 2] = 4.0
        shared.heat_logits[0, 0, 3, 5] = 3.0
    (answer,) = detector.predict(shared, [make_sample([parse_tag(tag_words(tag)) for tag in ("cat", "dog")])])
    found = [answer.bboxes[(answer.prompt_index == prompt) & (answer.scores > 0.5)].detach() for prompt in (0, 1)]
    assert [len(boxes) for boxes in found] == [2, 0]
    mask = torch.tensor([[26.0, 10, 50, 38], [60.0, 20, 80, 40]])
    assert fuse_boxes(mask + 1, mask, found, rule="external").tolist() == [[24, 8, 56, 40], [60, 20, 80, 40]]


def test_a_box_is_tight_around_the_cells_of_a_mask():
    masks = torch.zeros(3, 4, 8, dtype=torch.bool)
    masks[0, 1:3, 2:7] = True
    masks[1, 3, 0] = masks[1, 0, 7] = True
    # cells of 4 x 8 pixels
    assert tight_boxes(masks, (16, 64)).tolist() == [[16, 4, 56, 12], [0, 0, 64, 16], [0, 0, 0, 0]]
    assert tight_boxes(masks[:0], (16, 64)).shape == (0, 4)


# --- the decoder ------------------------------------------------------------------------------------------------------


def decoder_with(**options):
    torch.manual_seed(0)
    return UllavaDecoder(32, sam=SamPrompted(channels=32, **SAM), **options).eval()


def shared_with(image_index, prompt_index, words):
    shared = make_shared(image_index, prompt_index, num_images=len(words))
    generator = torch.Generator().manual_seed(0)
    slots = {slot: torch.randn(len(image_index), 32, generator=generator) for slot in ("[SEG]", "[LOC]")}
    dense = torch.randn(shared.dense.shape, generator=generator)
    return dataclasses.replace(
        shared, heat_logits=None, presence_logits=None, dense=dense, slots=slots, extras={"words": words}
    )


def sample_with(count, boxes=(), prompt_index=()):
    sample = make_sample([Prompt(f"thing {place}", "ullava") for place in range(count)], boxes, prompt_index)
    masks = torch.zeros(len(boxes), 64, 96, dtype=torch.bool)
    for mask, (x1, y1, x2, y2) in zip(masks, boxes, strict=True):
        mask[y1:y2, x1:x2] = True
    sample.gt_instances.masks = masks
    return sample


def test_several_targets_of_a_pair_are_one():
    sample = sample_with(2, [[0, 0, 8, 8], [16, 8, 24, 24], [4, 4, 6, 6]], [1, 1, 0])
    targets = sample.gt_instances
    targets.pair_index = targets.prompt_index
    pair, masks, boxes = merge_targets(targets)
    assert pair.tolist() == [0, 1]
    assert boxes.tolist() == [[4, 4, 6, 6], [0, 0, 24, 24]]
    assert masks.sum((1, 2)).tolist() == [4, 64 + 128]


def test_each_answer_has_a_mask_three_boxes_and_words():
    decoder, words = decoder_with(), [["[tag]cat[/tag]."], ["", "[tag]dog[/tag]."]]
    shared = shared_with([0, 1], [0, 1], words)
    with torch.no_grad():
        answers = decoder.predict(shared, [sample_with(1), sample_with(2)])
    assert [answer.texts for answer in answers] == [["[tag]cat[/tag]."], ["[tag]dog[/tag]."]]
    assert answers[1].prompt_index.tolist() == [1] and answers[1].scores.tolist() == [1.0]
    for answer in answers:
        box = tight_boxes(answer.masks > 0.5, (64, 96))
        assert torch.equal(answer.mask_corners.view(-1, 4), box)
        fused = fuse_boxes(answer.region_corners.view(-1, 4), box)
        torch.testing.assert_close(answer.bboxes, fused)
        assert bool((answer.region_corners >= 0).all())


def test_the_slots_have_their_own_tasks():
    decoder, samples = decoder_with(), [sample_with(1)]
    shared = shared_with([0], [0], [["a"]])
    other = {slot: vector + 1 for slot, vector in shared.slots.items()}
    with torch.no_grad():
        plain = decoder.predict(shared, samples)[0]
        moved = decoder.predict(dataclasses.replace(shared, slots={**shared.slots, "[LOC]": other["[LOC]"]}), samples)[
            0
        ]
        masked = decoder.predict(dataclasses.replace(shared, slots={**shared.slots, "[SEG]": other["[SEG]"]}), samples)[
            0
        ]
    assert torch.equal(moved.masks, plain.masks) and not torch.equal(moved.region_corners, plain.region_corners)
    assert not torch.equal(masked.masks, plain.masks) and torch.equal(masked.region_corners, plain.region_corners)


def test_words_are_needed_to_answer_and_not_to_learn():
    decoder, sample = decoder_with(), sample_with(1, [[8, 8, 40, 40]], [0])
    shared = dataclasses.replace(shared_with([0], [0], [["a"]]), extras={})
    losses = decoder.loss(shared, [sample])
    assert set(losses) == {"loss_mask", "loss_dice", "loss_l1", "loss_giou"}
    assert all(float(loss.detach()) > 0 for loss in losses.values())
    with pytest.raises(ConfigError, match="needs the words"):
        decoder.predict(shared, [sample])


# --- samples ----------------------------------------------------------------------------------------------------------


def dataset_of(config_dict):
    with DefaultScope.overwrite_default_scope("lumen"):
        return DATASETS.build(config_dict)


def test_sentences_become_questions_whose_words_name_the_class(data):
    dataset = ReferDataset(
        ann_file="annotations/refs_test.json",
        layout="shapes",
        instances_file="annotations/instances_test.json",
        data_root=str(data / "shapes"),
        data_prefix={"img": "test"},
        with_masks=True,
        test_mode=True,
        pipeline=[LoadImage(), ResizeToInput(input_hw=(160, 160)), AskReferring(num_prompts=None, shuffle=False),
                  PackSample()],
    )  # fmt: skip
    checked = 0
    for number in range(len(dataset)):
        sample, record = dataset[number]["data_samples"], dataset.get_data_info(number)
        refs = [ref for ref in record["refs"] if len(ref["ann_ids"]) == 1]
        assert len(sample.prompts) == len(sample.gt_instances) == len(sample.target_rles) == len(refs)
        for prompt, ref in zip(sample.prompts, refs, strict=True):
            row = record["instances"]["ann_ids"].tolist().index(ref["ann_ids"][0])
            name = dataset.metainfo["classes"][record["instances"]["labels"][row]]
            assert prompt.task == "ullava" and ref["sentence"] in prompt.text
            assert parse_tag(prompt.answer) == name and name in ref["sentence"]
            checked += 1
    assert checked > 5


def test_names_ask_for_all_objects_of_a_class_as_one(data):
    config = load_config(FOLDER / "ullava_eval_semantic_nano.py", tool_root=ROOT).test_dataloader.dataset
    pipeline = [LoadImage(), UniteMasks(), ResizeToInput(input_hw=(160, 160)),
                AskNames(num_prompts=8, shuffle=False), PackSample()]  # fmt: skip
    dataset = dataset_of({**config.to_dict(), "data_root": str(data / "shapes"), "pipeline": pipeline})
    for number in range(len(dataset)):
        sample = dataset[number]["data_samples"]
        for place, (prompt, code) in enumerate(zip(sample.prompts, sample.target_rles, strict=True)):
            own = sample.gt_instances.prompt_index == place
            assert parse_tag(prompt.answer) == dataset.metainfo["classes"][prompt.label]
            assert torch.equal(decode_masks([code], (160, 160))[0], sample.gt_instances.masks[own].any(0))


# --- salient objects --------------------------------------------------------------------------------------------------


def test_the_largest_object_that_differs_most_stands_out():
    image = np.full((10, 10, 3), 100, np.uint8)
    masks = np.zeros((2, 10, 10), bool)
    masks[0, :4, :4], masks[1, 6:, 6:] = True, True
    image[masks[0]], image[masks[1]] = 200, 110
    assert salience_of(image, masks).best == 0
    image[masks[1]] = 190  # as large, and nearly as bright: no one stands out by the margin
    found = salience_of(image, masks)
    assert found.best is None and found.scores[0] / found.scores[1] == pytest.approx(100 / 90) and MARGIN == 1.3
    assert salience_of(image, masks[:1]).best == 0
    assert salience_of(image, masks[:0]).best is None


def test_the_generator_gives_the_same_files_again(data, tmp_path):
    figures = make_salient(data / "shapes", tmp_path, "test")
    assert 0 < figures["salient"] <= figures["images"] == 6
    assert 0 <= figures["random_object_ciou"] <= 1
    for path in sorted(tmp_path.rglob("*.*")):
        assert path.read_bytes() == (data / "salient" / path.relative_to(tmp_path)).read_bytes()


def salient(data, **changes):
    settings = {
        "ann_file": "salient/salient_test.json",
        "data_root": str(data),
        "data_prefix": {"img": "shapes", "mask": "salient"},
        "pipeline": [LoadImage(), ResizeToInput(input_hw=(160, 160)), AskSalient(shuffle=False), PackSample()],
        "test_mode": True,
    }
    return SalientDataset(**settings | changes)


def test_a_salient_object_is_asked_for_without_its_name_and_explained(data):
    dataset = salient(data)
    entries = json.loads((data / "salient" / "salient_test.json").read_text())
    assert len(dataset) == len(entries) > 0
    for number, entry in enumerate(entries):
        sample = dataset[number]["data_samples"]
        (prompt,) = sample.prompts
        assert prompt.text == "Find the salient object in the image."
        assert prompt.answer == f"[tag]{entry['tag']}[/tag]. Explanation: {entry['reason']}"
        mask = np.array(Image.open(data / "salient" / entry["mask"])) > 127
        assert np.array_equal(sample.gt_instances.masks[0].numpy(), mask)
        assert np.array_equal(decode_masks(list(sample.target_rles), (160, 160))[0].numpy(), mask)


def test_unusable_entries_are_counted_or_an_error(data, tmp_path):
    good = json.loads((data / "salient" / "salient_test.json").read_text())[0]
    bad = [{**good, "tag": " "}, {**good, "image": "../x.jpg"}, {"image": "a"}, "text"]
    shutil.copytree(data / "salient", tmp_path / "salient")
    (tmp_path / "salient" / "mixed.json").write_text(json.dumps([*bad, good]))
    options = {"ann_file": str(tmp_path / "salient" / "mixed.json")}
    with pytest.raises(DataError, match="4 of 5 would be skipped"):
        salient(data, **options).full_init()
    dataset = salient(data, **options, skip_budget=0.9)
    assert len(dataset) == 1
    assert dataset.report == {
        "tag is empty": [0],
        "image or mask is not a file name, or leaves its folder": [1],
        "not a dict with the texts ('image', 'mask', 'reason', 'tag')": [2, 3],
    }
    Image.new("L", (160, 160)).save(tmp_path / "salient" / good["mask"])
    with pytest.raises(DataError, match="nothing is above 127"):
        salient(data, **options, data_prefix={"img": "shapes", "mask": str(tmp_path / "salient")}, skip_budget=0.9)[0]
    (tmp_path / "salient" / "mixed.json").write_text("{}")
    with pytest.raises(DataError, match="expected a list"):
        salient(data, **options).full_init()


# --- figures ----------------------------------------------------------------------------------------------------------


def answered(region, mask, prompt_index, texts):
    """Return a sample of three prompts with one target each, and some answers."""
    sample = make_sample(
        [Prompt("x", "ullava", answer=tag_words(name)) for name in ("cat", "dog", "dog")],
        [[0, 0, 10, 10], [20, 0, 30, 10], [40, 0, 50, 10]],
        [0, 1, 2],
    )
    sample.pred_instances = InstanceData(
        region_corners=torch.tensor(region, dtype=torch.float32).view(-1, 2, 2),
        mask_corners=torch.tensor(mask, dtype=torch.float32).view(-1, 2, 2),
        prompt_index=torch.tensor(prompt_index, dtype=torch.long),
        texts=texts,
    )
    return sample.to_dict()


def test_tags_that_are_wrong_or_missing_count():
    boxes = [[0, 0, 1, 1]] * 2
    metric = TagAccuracy()
    metric.process(None, [answered(boxes, boxes, [0, 2], ["[tag]Cat[/tag].", "dog"])])
    figures = metric.evaluate(1)
    assert figures["ullava_tag/accuracy"] == pytest.approx(1 / 3)
    assert figures["ullava_tag/missing"] == pytest.approx(2 / 3)
    assert figures["ullava_tag/blind"] == pytest.approx(2 / 3)
    assert metric.compute_metrics([]) == {"accuracy": -1.0, "missing": -1.0, "blind": -1.0}


def test_boxes_are_judged_by_each_rule_on_the_same_answers():
    # first prompt: both right; second: the region only; third: no answer. An IoU of .5 alone is not enough.
    region, mask = [[0, 0, 10, 10], [20, 0, 30, 10]], [[0, 0, 10, 9], [20, 0, 30, 5]]
    metric = FusedBoxAccuracy()
    metric.process(None, [answered(region, mask, [0, 1], ["", ""])])
    figures = metric.evaluate(1)
    assert figures["ullava_box/region"] == pytest.approx(2 / 3)
    assert figures["ullava_box/mask"] == pytest.approx(1 / 3)
    assert figures["ullava_box/agree"] == pytest.approx(2 / 3)
    metric = FusedBoxAccuracy()
    metric.process(None, [answered([], [], [], [])])
    assert set(metric.evaluate(1).values()) == {0.0}


def test_the_figures_read_what_the_decoder_writes():
    assert TagAccuracy.needs | FusedBoxAccuracy.needs <= UllavaDecoder.spec.predictions


# --- the chain --------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_stages_follow_each_other_and_the_answers_are_judged(data, tiny_nano, tmp_path):
    def run(tool, config, *options):
        command = [sys.executable, str(ROOT / "tools" / tool), str(FOLDER / f"{config}.py"), *options]
        done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=1800)
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
        return done.stdout + done.stderr

    (tmp_path / "data").symlink_to(data)
    common = ["--cfg-options", f"model.lmm.name_or_path={tiny_nano}"]
    short = ["train_cfg.max_iters=60", "train_dataloader.batch_size=4", "default_hooks.logger.interval=10"]
    run("train.py", "ullava_s1_nano", "--work-dir", "first", *common, *short)
    log = run(
        "train.py", "ullava_s2_nano", "--work-dir", "second", *common, *short, "load_from.checkpoint=first/iter_60.pth"
    )
    assert "loaded weights from first/iter_60.pth" in log
    losses = [float(value) for value in re.findall(r"  loss: ([\d.]+)", log)]
    assert len(losses) >= 6 and losses[-1] < 0.8 * losses[0]
    for kind in ("referring", "salient", "semantic"):
        figures = run("test.py", f"ullava_eval_{kind}_nano", "second", *common)
        assert "ullava/ciou" in figures and "ullava_tag/accuracy" in figures and "ullava_box/agree" in figures
    written = run(
        "test.py", "ullava_eval_salient_nano", "second", *common, "model.lmm.generation.answer_mode=generated"
    )
    assert "ullava/ciou" in written

import json
import os
import pickle

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lumen.data.refer import AskSentences, ReferDataset, ShuffledReferDataset, exchange_sentences
from lumen.data.refer_files import load_plain_pickle, read_refer
from lumen.data.shapes import make_shapes
from lumen.data.transforms import AskClasses, LoadImage, PackSample, ResizeToInput
from lumen.errors import ConfigError, DataError
from lumen.ops.geometry import InputTransform
from lumen.ops.masks import decode_masks
from lumen.registry import DATASETS

VIEW = [LoadImage(), ResizeToInput(input_hw=(16, 32))]
ASK_ALL = [*VIEW, AskSentences(num_prompts=None, shuffle=False), PackSample()]
SENTENCE_KEYS = {"sentence", "ann_ids", "kind", "ref_id"}


def refcoco(*refs, key="sent"):
    """Make the list of objects of RefCOCO from rows (image, target, split, sentences)."""
    rows = enumerate(refs)
    return [
        {
            "ref_id": number,
            "image_id": image,
            "ann_id": target,
            "split": split,
            "category_id": 7,
            "file_name": f"COCO_train2014_{image:012d}_{number}.jpg",
            "sentences": [{"raw": text.upper(), "sent": text, "tokens": text.split(), "sent_id": 0} for text in texts],
        }
        for number, (image, target, split, texts) in rows
    ]


@pytest.fixture
def make_refer(make_coco):
    """Write a set in the layout of RefCOCO and return its folder."""

    def make(refs=None, **changes):
        root = make_coco(**changes)
        if refs is None:
            refs = refcoco(
                (1, 10, "val", ["left dog", "the dog"]),
                (5, 14, "val", ["tiny cat"]),
                (1, 11, "train", ["cat on the right"]),
                (5, 13, "testA", ["big cat"]),
                (5, 13, "testAB", ["cat below"]),
            )
        (root / "refs.p").write_bytes(pickle.dumps(refs, protocol=2))
        return root

    return make


def build(root, kind=ReferDataset, **kwargs):
    options = {"ann_file": "refs.p", "layout": "refer", "instances_file": "ann.json", "split": "val"}
    options |= {"data_root": str(root), "data_prefix": {"img": "img"}, "pipeline": ASK_ALL}
    return kind(**options | kwargs)


def texts(sample):
    return [prompt.text for prompt in sample.prompts]


def read(root, refs, layout="grefcoco", **kwargs):
    (root / "refs.json").write_text(json.dumps(refs))
    options = {"instances_file": root / "ann.json", "split": "val"} | kwargs
    return read_refer(root / "refs.json", layout=layout, **{k: v for k, v in options.items() if v is not None})


# The layouts.


def test_refcoco_gives_each_image_with_all_objects_and_the_sentences_of_the_split(make_refer):
    dataset = build(make_refer())
    assert len(dataset) == 2 and dataset.metainfo["classes"] == ("dog", "cat", "bird")
    first, second = dataset.get_data_info(0), dataset.get_data_info(1)
    assert (first["img_id"], second["img_id"]) == (1, 5)
    assert first["instances"]["ann_ids"].tolist() == [10, 11, 12]
    assert [ref["sentence"] for ref in first["refs"]] == ["left dog", "the dog"]
    assert [ref["ann_ids"].tolist() for ref in first["refs"]] == [[10], [10]]
    assert [ref["ref_id"] for ref in first["refs"] + second["refs"]] == [0, 1, 2]
    assert set(first["refs"][0]) == SENTENCE_KEYS


@pytest.mark.parametrize(("split", "number"), [("train", 1), ("testA", 2), ("testB", 1), ("test", 2), ("testAB", 1)])
def test_test_splits_overlap_as_in_the_refer_interface(make_refer, split, number):
    dataset = build(make_refer(), split=split)
    assert sum(len(dataset.get_data_info(i)["refs"]) for i in range(len(dataset))) == number


def test_a_split_that_the_file_lacks_is_an_error_that_lists_its_splits(make_refer):
    with pytest.raises(DataError, match=r"'testC' is empty; the file has \['testA', 'testAB', 'train', 'val'\]"):
        build(make_refer(), split="testC")


def test_grefcoco_sentences_have_several_targets_or_none(make_coco):
    refs = refcoco((5, [13, 14], "val", ["both cats"]), (1, [-1], "val", ["a horse"]), (1, [], "val", ["a cow"]))
    records = read(make_coco(), refs).records
    assert [[ref["ann_ids"].tolist() for ref in record["refs"]] for record in records] == [[[], []], [[13, 14]]]


def mdetr_content():
    box = {"category_id": 7, "iscrowd": 0, "area": 25, "tokens_positive": [[0, 3]]}
    image = {"file_name": "c.png", "width": 20, "height": 40, "original_id": 5, "dataset_name": "refcoco"}
    return {
        "images": [
            image | {"id": 100, "caption": "big cat"},
            image | {"id": 101, "caption": "both cats"},
            image | {"id": 102, "caption": "a horse"},
        ],
        "annotations": [
            box | {"id": 0, "image_id": 100, "original_id": 13, "bbox": [5, 5, 5, 5]},
            box | {"id": 1, "image_id": 101, "original_id": 13, "bbox": [5, 5, 5, 5]},
            box | {"id": 2, "image_id": 101, "original_id": 14, "bbox": [1, 1, 2, 2]},
            {"id": 3, "image_id": 102, "original_id": -1, "bbox": [0, 0, 0, 0], "category_id": -1, "empty": True},
        ],
        "categories": [{"id": 7, "name": "cat"}],
    }


def test_mdetr_entries_of_one_image_become_one_record(make_coco):
    root = make_coco()
    (record,) = read(root, mdetr_content(), "mdetr", instances_file=None, split=None).records
    assert (record["img_id"], record["img_path"], record["ori_hw"]) == (5, "c.png", (40, 20))
    assert record["instances"]["ann_ids"].tolist() == [13, 14]
    assert [(ref["sentence"], ref["ann_ids"].tolist()) for ref in record["refs"]] == [
        ("big cat", [13]),
        ("both cats", [13, 14]),
        ("a horse", []),
    ]
    assert len(record["absent_labels"]) == 0


def test_mdetr_captions_with_several_phrases_are_refused(make_coco):
    content = mdetr_content()
    content["annotations"][2]["tokens_positive"] = [[5, 9]]
    with pytest.raises(DataError, match="several phrases"):
        read(make_coco(), content, "mdetr", instances_file=None, split=None)
    content["images"][1]["id"] = 100
    with pytest.raises(DataError, match="id 100 occurs twice"):
        read(make_coco(), content, "mdetr", instances_file=None, split=None)


def test_masks_of_all_targets_are_joined(make_coco):
    boxes = {13: [5, 5, 10, 10], 14: [1, 1, 3, 3]}
    corners = {i: [[x1, y1, x2, y1, x2, y2, x1, y2]] for i, (x1, y1, x2, y2) in boxes.items()}
    annotations = [
        {"id": i, "image_id": 5, "category_id": 7, "bbox": [1, 1, 9, 9], "segmentation": corners[i]} for i in boxes
    ]
    refs = refcoco((5, [13, 14], "val", ["both"]), (5, [14], "val", ["tiny"]), (5, [-1], "val", ["none"]))
    root = make_coco(annotations=annotations)
    refs = read(root, refs, with_masks=True).records[0]["refs"]
    assert [int(decode_masks([ref["target_rle"]], (40, 20)).sum()) for ref in refs[:2]] == [29, 4]
    assert refs[2]["target_rle"] is None


@pytest.mark.parametrize(
    ("layout", "options", "message"),
    [
        ("odvg", {}, "layout must be one of"),
        ("refer", {"split": None}, "split is for"),
        ("shapes", {}, "split is left out, or 'groups'"),
        ("refer", {"instances_file": None}, "instances_file is for"),
        ("mdetr", {"split": None}, "instances_file is for"),
    ],
)
def test_arguments_that_do_not_belong_to_the_layout_are_refused(make_refer, layout, options, message):
    with pytest.raises(ConfigError, match=message):
        build(make_refer(), layout=layout, **options)


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ((1, 10, "val", [""]), "sentence is missing, empty"),
        ((1, 10, "val", ["x" * 513]), "sentence is missing, empty"),
        ((3, 10, "val", ["a"]), "unknown or skipped image"),
        (([1], 10, "val", ["a"]), "unknown or skipped image"),
        ((1, 13, "val", ["a"]), "unknown or skipped annotation"),
        ((1, None, "val", ["a"]), "unknown or skipped annotation"),
        ((1, [10, "11"], "val", ["a"]), "unknown or skipped annotation"),
        ((1, 12, "val", ["all the birds"]), "crowd or an ignored annotation"),
    ],
)
def test_faulty_sentences_are_counted_and_limited(make_coco, row, reason):
    image, target, split, sentences = row
    refs = refcoco((1, 10, "val", ["the dog"]))
    refs += [refs[0] | {"image_id": image, "ann_id": target, "split": split, "sentences": [{"sent": sentences[0]}]}]
    root = make_coco()
    content = read(root, refs, skip_budget=0.5)
    assert [ids for why, ids in content.report.items() if reason in why] == [[1]]
    assert sum(len(record["refs"]) for record in content.records) == 1
    with pytest.raises(DataError, match="1 of 2 would be skipped"):
        read(root, refs)


@pytest.mark.parametrize("content", [{}, 3, [3], [{"split": "val", "sentences": 3}], [{"split": ["val"]}]])
def test_a_file_of_another_form_is_refused(make_coco, content):
    with pytest.raises(DataError):
        read(make_coco(), content)


def test_a_shapes_file_without_refs_is_refused(make_coco):
    with pytest.raises(DataError, match="'refs'"):
        read(make_coco(), [], "shapes", split=None)


# Pickles.


class Malice:
    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        return os.mkdir, (str(self.target),)


@pytest.mark.parametrize("protocol", range(6))
def test_a_pickle_that_calls_something_is_refused_and_nothing_runs(tmp_path, protocol):
    (tmp_path / "refs.p").write_bytes(pickle.dumps([{"split": Malice(tmp_path / "made")}], protocol=protocol))
    with pytest.raises(DataError, match=r"mkdir; only lists, dicts, texts and numbers"):
        load_plain_pickle(tmp_path / "refs.p")
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize("value", [np.float64(1), {1, 2}.__class__, Malice, print, os.getcwd])
def test_classes_and_functions_are_refused_even_harmless_ones(tmp_path, value):
    (tmp_path / "refs.p").write_bytes(pickle.dumps([value]))
    with pytest.raises(DataError, match="only lists, dicts"):
        load_plain_pickle(tmp_path / "refs.p")


def test_pickles_of_python_2_are_read(tmp_path):
    # What Python 2 wrote for [{'sent': 'caf\xc3\xa9', 'n': 5L}].
    (tmp_path / "refs.p").write_bytes(b"(lp0\n(dp1\nS'sent'\np2\nS'caf\\xc3\\xa9'\np3\nsS'n'\np4\nL5L\nsa.")
    assert load_plain_pickle(tmp_path / "refs.p") == [{"sent": "caf\u00e9", "n": 5}]


@settings(max_examples=200, deadline=None)
@given(noise=st.binary(max_size=60), at=st.integers(0, 200))
def test_broken_pickles_are_data_errors(tmp_path_factory, noise, at):
    whole = pickle.dumps(refcoco((1, 10, "val", ["left dog"])), protocol=2)
    # LONG_BINPUT with a huge index makes CPython reserve as much memory.
    broken = (whole[:at] + noise + whole[at + len(noise) :]).replace(b"r", b"q")
    path = tmp_path_factory.mktemp("p") / "refs.p"
    path.write_bytes(broken)
    try:
        load_plain_pickle(path)
    except DataError as error:
        assert str(path) in str(error)


# Samples.


def test_samples_ask_every_sentence_and_name_its_targets(make_refer):
    sample = build(make_refer())[0]["data_samples"]
    assert texts(sample) == ["left dog", "the dog"]
    assert {(prompt.task, prompt.label) for prompt in sample.prompts} == {("grounding", -1)}
    table = sample.gt_instances
    assert (table.prompt_index.tolist(), table.labels.tolist()) == ([0, 1], [-1, -1])
    torch.testing.assert_close(table.bboxes[1], torch.tensor([1.6, 2.4, 9.6, 6.4]))  # 40 x 20 drawn into 32 x 16
    assert len(sample.ignored_instances) == 0 and set(sample.ignored_instances.keys()) == set(table.keys())
    assert (sample.ref_ids, sample.kinds) == ((0, 1), ("", ""))


def test_a_sentence_without_target_is_a_prompt_without_rows(make_coco):
    root = make_coco()
    refs = refcoco((1, [-1], "val", ["a horse"]), (1, [10, 11], "val", ["both"]))
    (root / "refs.json").write_text(json.dumps(refs))
    sample = build(root, ann_file="refs.json", layout="grefcoco")[0]["data_samples"]
    assert texts(sample) == ["a horse", "both"] and sample.gt_instances.prompt_index.tolist() == [1, 1]
    without = [*VIEW, AskSentences(no_target=False), PackSample()]
    sample = build(root, ann_file="refs.json", layout="grefcoco", pipeline=without)[0]["data_samples"]
    assert texts(sample) == ["both"] and sample.gt_instances.prompt_index.tolist() == [0, 0]


def test_classes_and_sentences_of_an_image_are_asked_together(make_refer):
    ask = [AskClasses(num_prompts=None, shuffle=False), AskSentences(shuffle=False)]
    sample = build(make_refer(), pipeline=[*VIEW, *ask, PackSample()])[0]["data_samples"]
    assert texts(sample) == ["dog", "cat", "bird", "left dog", "the dog"]
    assert [prompt.task for prompt in sample.prompts] == ["detection"] * 3 + ["grounding"] * 2
    assert sample.gt_instances.prompt_index.tolist() == [0, 1, 3, 4]
    assert sample.gt_instances.labels.tolist() == [0, 1, -1, -1]
    assert sample.ignored_instances.prompt_index.tolist() == [2]
    torch.testing.assert_close(sample.gt_instances.bboxes[0], sample.gt_instances.bboxes[2])
    assert sample.ref_ids == (-1, -1, -1, 0, 1)


def record(sentences, *, masks=None, ignored=(), frame=None):
    """Make results as ResizeToInput leaves them: objects 1 and 2, sentences given as (text, targets)."""
    instances = {
        "bboxes": torch.tensor([[0.0, 0, 4, 4], [4, 4, 8, 8]]),
        "labels": np.array([0, 0]),
        "is_ignored": np.isin([1, 2], ignored),
        "ann_ids": np.array([1, 2]),
    } | ({} if masks is None else {"masks": masks})
    refs = [
        {"sentence": text, "ann_ids": np.array(targets, dtype=np.int64), "kind": "k", "ref_id": number}
        for number, (text, targets) in enumerate(sentences)
    ]
    frame = frame or InputTransform.stretch((8, 8), (8, 8))
    return {"instances": instances, "refs": refs, "frame": frame, "img_path": "a.png", "ori_hw": (8, 8)}


def asked(results):
    return [prompt.text for prompt in results["prompts"]]


def test_masks_follow_their_targets():
    masks = torch.zeros(2, 8, 8, dtype=torch.bool)
    masks[1, 4:, 4:] = True
    ask = AskSentences(task="referring_segmentation", shuffle=False)
    results = ask(record([("second", [2]), ("none", []), ("both", [2, 1])], masks=masks))
    assert results["gt_instances"]["prompt_index"].tolist() == [0, 2, 2]
    assert results["gt_instances"]["masks"].flatten(1).sum(1).tolist() == [16, 0, 16]
    assert results["ignored_instances"]["masks"].shape == (0, 8, 8)


def test_a_sentence_whose_target_cannot_be_seen_is_left_out():
    sentences = [("first", [1]), ("second", [2]), ("both", [1, 2]), ("gone", [3]), ("none", [])]
    assert asked(AskSentences(shuffle=False)(record(sentences, ignored=[2]))) == ["first", "none"]
    # All sentences are asked for evaluation, also of a target too small to be trained on.
    results = AskSentences(num_prompts=None, shuffle=False)(record(sentences[:3], ignored=[2]))
    assert results["gt_instances"]["prompt_index"].tolist() == [0, 1, 2, 2]
    with pytest.raises(DataError, match="has left the view"):
        AskSentences(num_prompts=None)(record(sentences))


@pytest.mark.parametrize(
    ("frame", "kept"),
    [
        (InputTransform.stretch((8, 8), (8, 8)).flip_horizontal(), ["the highest", "a cat", "cupboard"]),
        (InputTransform.stretch((8, 8), (8, 8)).flip_vertical(), ["Leftmost", "a cat", "cupboard"]),
    ],
)
def test_a_mirrored_image_is_not_asked_for_the_mirrored_side(frame, kept):
    sentences = [(text, [1]) for text in ("Leftmost", "the highest", "a cat", "cupboard")]
    assert asked(AskSentences(shuffle=False)(record(sentences, frame=frame))) == kept
    with pytest.raises(DataError, match="mirrored"):
        AskSentences(num_prompts=None)(record(sentences, frame=frame))


def test_sides_are_exchanged_in_a_mirrored_view_if_asked_for():
    sentences = [("the leftmost star", [1]), ("the highest", [1])]
    mirrored = InputTransform.stretch((8, 8), (8, 8)).flip_horizontal()
    ask = AskSentences(shuffle=False, exchange_sides=True)
    assert asked(ask(record(sentences, frame=mirrored))) == ["the rightmost star", "the highest"]
    assert asked(ask(record(sentences))) == ["the leftmost star", "the highest"]


def test_sentences_of_some_kinds_are_asked_behind_others():
    results = record([("one", [1]), ("two", [2])])
    results["refs"][0]["kind"], results["refs"][1]["kind"] = "relation", "group"
    for kind in ("group", "relation"):
        results = AskSentences(shuffle=False, kinds=(kind,))(results)
    assert asked(results) == ["two", "one"]
    assert results["kinds"] == ("group", "relation") and results["ref_ids"] == (1, 0)
    assert results["gt_instances"]["prompt_index"].tolist() == [0, 1]


def test_sentences_are_chosen_at_random_and_keep_their_targets():
    sentences = [(str(number), [1 + number % 2]) for number in range(20)]
    seen = set()
    for seed in range(30):
        np.random.seed(seed)
        results = AskSentences(num_prompts=3)(record(sentences))
        seen |= set(asked(results))
        assert len(asked(results)) == 3
        assert results["ref_ids"] == tuple(map(int, asked(results)))
        assert (results["gt_instances"]["bboxes"][:, 0] / 4).tolist() == [int(text) % 2 for text in asked(results)]
    assert len(seen) == 20


def test_an_image_without_usable_sentences_is_asked_nothing():
    results = AskSentences()(record([]))
    assert results["prompts"] == () and results["gt_instances"]["bboxes"].shape == (0, 4)


@pytest.mark.parametrize("options", [{"num_prompts": 0}, {"task": "detection"}])
def test_wrong_options_are_refused(options):
    with pytest.raises(ConfigError):
        AskSentences(**options)


# The data set as MMEngine sees it.


def test_it_is_built_from_a_config_by_name(make_refer):
    root = make_refer()
    pipeline = [
        {"type": "lumen.LoadImage"},
        {"type": "lumen.ResizeToInput", "input_hw": [16, 32]},
        {"type": "lumen.AskSentences"},
        {"type": "lumen.PackSample"},
    ]
    config = {"type": "ReferDataset", "ann_file": "refs.p", "layout": "refer", "split": "val"}
    config |= {"data_root": str(root), "instances_file": "ann.json", "data_prefix": {"img": "img"}}
    assert DATASETS.build(config | {"pipeline": pipeline})[0]["inputs"].shape == (3, 16, 32)


def test_a_missing_image_is_replaced_in_training_and_grey_in_test_mode(make_refer):
    root = make_refer()
    (root / "img" / "a.png").unlink()
    dataset = build(root, skip_budget=0.5)
    assert dataset[0]["data_samples"].img_id == 5 and [*dataset.report.values()] == [[1]]
    assert "a.png" in build(root, test_mode=True)[0]["data_samples"].fault
    with pytest.raises(DataError, match="1 of 2 images cannot be used"):
        build(root)[0]


def test_exchanged_sentences_never_stay_with_their_image(make_coco):
    rng = np.random.default_rng(0)
    counts = [5, 1, 3, 2, 4]
    records = [
        {"img_id": i, "refs": [{"sentence": f"{i} {j}", "ann_ids": rng.integers(0, 9, 1)} for j in range(count)]}
        for i, count in enumerate(counts)
    ]
    for seed in range(20):
        exchanged = exchange_sentences(records, seed=seed)
        pairs = [(r["img_id"], ref["sentence"]) for r in exchanged for ref in r["refs"]]
        assert [len(r["refs"]) for r in exchanged] == counts
        assert all(text.split()[0] != str(img_id) for img_id, text in pairs)
        assert {text for _, text in pairs} == {ref["sentence"] for r in records for ref in r["refs"]}
        assert all(a["ann_ids"] is b["ann_ids"] for r, s in zip(exchanged, records, strict=True)
                   for a, b in zip(r["refs"], s["refs"], strict=True))  # fmt: skip
    assert exchange_sentences(records, seed=1) == exchange_sentences(records, seed=1)
    assert records[0]["refs"][0]["sentence"] == "0 0"
    with pytest.raises(DataError, match="5 of all 8 sentences"):
        exchange_sentences([records[0], records[2]], seed=0)


def test_a_set_with_exchanged_sentences_keeps_its_targets(make_refer):
    refs = refcoco((1, 10, "val", ["a dog"]), (5, 13, "val", ["a cat"]))
    dataset = build(make_refer(refs), kind=ShuffledReferDataset)
    assert texts(dataset[0]["data_samples"]) == ["a cat"]
    assert dataset.get_data_info(0)["refs"][0]["ann_ids"].tolist() == [10]


def test_generated_shapes_go_through_the_pipeline(tmp_path):
    make_shapes(tmp_path / "shapes", num_train=0, num_val=8, num_test=0, workers=1)
    files = {name: f"annotations/{name}_val.json" for name in ("refs", "instances")}
    dataset = ReferDataset(
        ann_file=files["refs"],
        instances_file=files["instances"],
        layout="shapes",
        data_root=str(tmp_path / "shapes"),
        data_prefix={"img": "val"},
        with_masks=True,
        skip_budget=0.0,
        test_mode=True,
        pipeline=[
            LoadImage(),
            ResizeToInput(input_hw=(80, 80)),
            AskSentences(num_prompts=None, shuffle=False, task="referring_segmentation"),
            PackSample(),
        ],
    )
    raw = json.loads((tmp_path / "shapes" / files["refs"]).read_text())["refs"]
    samples = [dataset[index]["data_samples"] for index in range(len(dataset))]
    assert sum(len(sample.prompts) for sample in samples) == len(raw) > 0
    for sample in samples:
        num_targets = np.bincount(sample.gt_instances.prompt_index, minlength=len(sample.prompts))
        assert [rle is None for rle in sample.target_rles] == (num_targets == 0).tolist()
        assert set(sample.kinds) <= {"attribute", "relation"} and set(texts(sample)) <= {ref["sentence"] for ref in raw}
        # Masks and boxes are of one object: half the scale, a quarter of the pixels.
        areas = [int(decode_masks([rle], (160, 160)).sum()) for rle in sample.target_rles if rle]
        seen = sample.gt_instances.masks.flatten(1).sum(1)
        torch.testing.assert_close(seen.float(), torch.tensor(areas).float() / 4, rtol=0.15, atol=6)

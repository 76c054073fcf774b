import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from lumen.data.transforms import AskClasses, BlackenImage, LoadImage, PackSample, Photometric, ResizeToInput
from lumen.errors import ConfigError
from lumen.ops.geometry import InputTransform
from lumen.ops.masks import encode_masks

CLASSES = ("ant", "bee", "cat", "dog")


def instances(labels, ignored=None, boxes=None):
    labels = np.asarray(labels, dtype=np.int64)
    boxes = np.tile(np.float32([2, 2, 8, 8]), (len(labels), 1)) if boxes is None else np.float32(boxes).reshape(-1, 4)
    is_ignored = np.zeros(len(labels), bool) if ignored is None else np.asarray(ignored, bool)
    return {"bboxes": boxes, "labels": labels, "is_ignored": is_ignored, "ann_ids": np.arange(len(labels))}


def ask(labels, ignored=None, *, results=None, seed=0, **kwargs):
    np.random.seed(seed)
    table = instances(labels, ignored)
    table["bboxes"] = torch.from_numpy(table["bboxes"])
    return AskClasses(**kwargs)({"classes": CLASSES, "instances": table} | (results or {}))


def asked_labels(results):
    return [prompt.label for prompt in results["prompts"]]


def test_all_classes_are_asked_in_order():
    results = ask([2, 0, 2], num_prompts=None, shuffle=False)
    assert [prompt.text for prompt in results["prompts"]] == list(CLASSES)
    assert asked_labels(results) == [0, 1, 2, 3]
    assert results["gt_instances"]["prompt_index"].tolist() == [0, 2, 2]
    assert results["gt_instances"]["labels"].tolist() == [0, 2, 2]


def test_every_prompt_gets_the_objects_of_its_class_in_any_order():
    for seed in range(5):
        results = ask([2, 0, 2, 3], num_prompts=None, seed=seed)
        assert sorted(asked_labels(results)) == [0, 1, 2, 3]
        table = results["gt_instances"]
        assert [results["prompts"][i].label for i in table["prompt_index"].tolist()] == table["labels"].tolist()
        assert sorted(table["labels"].tolist()) == [0, 2, 2, 3]


def test_present_classes_come_before_absent_ones():
    for seed in range(10):
        assert set(asked_labels(ask([3, 1], num_prompts=3, seed=seed))) > {1, 3}
        assert set(asked_labels(ask([3, 1, 0], num_prompts=2, seed=seed))) < {0, 1, 3}
    assert set(asked_labels(ask([3, 1], num_prompts=4, max_absent=0))) == {1, 3}
    assert len(asked_labels(ask([], num_prompts=8))) == 4


def test_a_class_with_only_ignored_boxes_is_neither_present_nor_absent():
    for seed in range(10):
        assert set(asked_labels(ask([0, 1], [False, True], num_prompts=4, seed=seed))) == {0, 2, 3}


def test_ignored_boxes_of_asked_classes_are_kept_apart():
    results = ask([1, 1, 2], [True, False, True], num_prompts=None, shuffle=False)
    assert results["gt_instances"]["prompt_index"].tolist() == [1]
    assert results["ignored_instances"]["prompt_index"].tolist() == [1, 2]


def test_only_verified_labels_count_as_absent():
    results = ask([0], num_prompts=4, results={"absent_labels": [2]})
    assert set(asked_labels(results)) == {0, 2}


def test_each_wording_is_its_own_prompt_with_its_own_rows():
    results = ask([2], num_prompts=None, shuffle=False, wording={"cat": ["cat", "kitten"]}, every_wording=True)
    assert [prompt.text for prompt in results["prompts"]] == ["ant", "bee", "cat", "kitten", "dog"]
    assert asked_labels(results) == [0, 1, 2, 2, 3]
    assert results["gt_instances"]["prompt_index"].tolist() == [2, 3]
    assert results["gt_instances"]["labels"].tolist() == [2, 2]


def test_one_wording_is_chosen_otherwise():
    texts = {
        p.text
        for seed in range(20)
        for p in ask([2], num_prompts=1, seed=seed, wording={"cat": ["puss", "kitten"]})["prompts"]
    }
    assert texts == {"puss", "kitten"}
    fixed = ask([2], num_prompts=1, shuffle=False, wording={"cat": ["puss", "kitten"]})
    assert fixed["prompts"][0].text == "puss"


def test_the_task_is_written_into_the_prompts():
    assert ask([], num_prompts=1, task="counting")["prompts"][0].task == "counting"


@pytest.mark.parametrize("wording", [{"cat": []}, {"cat": [""]}, {"cat": "kitten"}, {"cat": [" "]}])
def test_empty_wording_is_an_error(wording):
    with pytest.raises(ConfigError, match="wording"):
        AskClasses(wording=wording)


def test_wording_of_unknown_classes_and_empty_classes_are_errors():
    with pytest.raises(ConfigError, match="unknown classes"):
        ask([], wording={"cow": ["cow"]})
    with pytest.raises(ConfigError, match="not empty"):
        ask([], results={"classes": ("cat", " ")})
    with pytest.raises(ConfigError, match="at least 1"):
        AskClasses(num_prompts=0)


def frame(table, size_hw=(10, 20), seed=0, **kwargs):
    np.random.seed(seed)
    image = np.random.randint(0, 256, (*size_hw, 3), dtype=np.uint8)
    return ResizeToInput(**kwargs)({"image": image, "ori_hw": size_hw, "instances": table})


def test_boxes_move_with_the_image():
    results = frame(instances([0], boxes=[[2, 2, 8, 6]]), input_hw=(20, 40))
    assert results["image"].shape == (20, 40, 3)
    assert results["instances"]["bboxes"].tolist() == [[4, 4, 16, 12]]
    flipped = frame(instances([0], boxes=[[2, 2, 8, 6]]), input_hw=(20, 40), flip_probability=1.0)
    assert flipped["instances"]["bboxes"].tolist() == [[24, 4, 36, 12]]
    stretched = frame(instances([0], boxes=[[2, 2, 8, 6]]), input_hw=(20, 20), mode="stretch")
    assert stretched["instances"]["bboxes"].tolist() == [[2, 4, 8, 12]]


def test_no_boxes_stay_no_boxes():
    results = frame(instances([]), input_hw=(20, 40), scale_range=(0.5, 2.0))
    assert results["instances"]["bboxes"].shape == (0, 4)


def test_hidden_objects_become_ignored_and_vanished_ones_leave(monkeypatch):
    # The view shows the right half of the image: x from 10 to 20.
    view = InputTransform((10, 20), (10, 10), (1.0, 1.0), (-10.0, 0.0))
    monkeypatch.setattr(ResizeToInput, "draw_frame", lambda self, ori_hw: view)
    boxes = [[0, 0, 8, 8], [1, 0, 11, 8], [5, 0, 15, 8], [0, 0, 10, 8]]
    results = frame(instances([0, 1, 2, 3], boxes=boxes), input_hw=(10, 10), min_visible=0.25)
    assert results["instances"]["labels"].tolist() == [1, 2]
    assert results["instances"]["is_ignored"].tolist() == [True, False]
    assert results["instances"]["ann_ids"].tolist() == [1, 2]
    assert results["instances"]["bboxes"].tolist() == [[0, 0, 1, 8], [0, 0, 5, 8]]


def boxed(labels, boxes, size_hw):
    """Return instances whose masks fill their boxes, which lie on whole pixels."""
    table = instances(labels, boxes=boxes)
    masks = torch.zeros(len(labels), *size_hw, dtype=torch.bool)
    for mask, (x1, y1, x2, y2) in zip(masks, np.int64(boxes).reshape(-1, 4), strict=True):
        mask[y1:y2, x1:x2] = True
    return table | {"segmentations": np.array(encode_masks(masks), dtype=object)}


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from(["letterbox", "stretch"]))
def test_the_box_of_a_mask_is_the_box_within_a_pixel(seed, mode):
    results = frame(
        boxed([0, 1, 2], [[3, 4, 21, 17], [0, 0, 30, 20], [25, 2, 29, 19]], (20, 30)),
        size_hw=(20, 30),
        seed=seed,
        input_hw=(48, 56),
        mode=mode,
        scale_range=(0.7, 2.0),
        flip_probability=0.5,
        vertical_flip_probability=0.5,
    )["instances"]
    assert "segmentations" not in results
    assert len(results["masks"]) == len(results["bboxes"]) == len(results["is_ignored"])
    assert results["masks"].shape[1:] == (48, 56)
    for mask, box, is_ignored in zip(results["masks"], results["bboxes"], results["is_ignored"], strict=True):
        if is_ignored:
            continue
        rows, cols = mask.any(1).nonzero()[:, 0], mask.any(0).nonzero()[:, 0]
        found = torch.tensor([cols[0], rows[0], cols[-1] + 1, rows[-1] + 1], dtype=torch.float32)
        assert (found - box).abs().max() <= 1


def test_an_object_without_a_mask_in_view_is_ignored(monkeypatch):
    # The box of the L reaches into the view, x from 10 to 20, but its one pixel lies left of it.
    view = InputTransform((10, 20), (10, 10), (1.0, 1.0), (-10.0, 0.0))
    monkeypatch.setattr(ResizeToInput, "draw_frame", lambda self, ori_hw: view)
    table = boxed([0, 1], [[0, 0, 1, 1], [12, 2, 15, 5]], (10, 20))
    table["bboxes"] = np.float32([[0, 0, 20, 8], [12, 2, 15, 5]])
    results = frame(table, input_hw=(10, 10), min_visible=0.1)["instances"]
    assert results["is_ignored"].tolist() == [True, False]
    assert results["masks"].flatten(1).sum(1).tolist() == [0, 9]


def test_masks_follow_the_rows_of_the_prompts():
    results = frame(boxed([2, 0, 2], [[0, 0, 4, 4], [8, 0, 9, 1], [0, 8, 5, 9]], (10, 20)), input_hw=(10, 20))
    results["instances"]["is_ignored"][1] = True
    results = AskClasses(num_prompts=None, shuffle=False)(results | {"classes": CLASSES})
    assert results["gt_instances"]["masks"].flatten(1).sum(1).tolist() == [16, 5]
    assert results["ignored_instances"]["masks"].flatten(1).sum(1).tolist() == [1]
    empty = frame(boxed([], [], (10, 20)), input_hw=(10, 20))
    assert AskClasses()(empty | {"classes": CLASSES})["gt_instances"]["masks"].shape == (0, 10, 20)


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 60), st.integers(1, 60), st.sampled_from(["letterbox", "stretch"]))
def test_random_views_agree_with_their_frame(seed, height, width, mode):
    box = [[width * 0.25, height * 0.25, width * 0.75, height * 0.75]]
    results = frame(
        instances([0], boxes=box),
        size_hw=(height, width),
        seed=seed,
        input_hw=(24, 32),
        mode=mode,
        scale_range=(0.5, 2.0),
        aspect_range=(0.7, 1.4),
        flip_probability=0.5,
        min_visible=0.0,
    )
    assert results["image"].shape == (24, 32, 3)
    found = results["instances"]["bboxes"]
    expected = results["frame"].boxes_to_input(torch.tensor(box, dtype=torch.float32))
    for row in found:
        torch.testing.assert_close(row, torch.minimum(expected[0].clamp(min=0), torch.tensor([32.0, 24, 32, 24])))


def test_a_zoom_keeps_the_view_full_or_the_image_whole():
    transform = ResizeToInput(input_hw=(20, 20), scale_range=(0.5, 2.0))
    for seed in range(40):
        np.random.seed(seed)
        found = transform.draw_frame((20, 20))
        left, size = found.shift_xy[0], 20 * found.scale_xy[0]
        assert (left >= 0 and left + size <= 20.001) or (left <= 0 and left + size >= 19.999)


@pytest.mark.parametrize("bad", [{"mode": "crop"}, {"scale_range": (2, 1)}, {"aspect_range": (0, 1)}])
def test_impossible_views_are_an_error(bad):
    with pytest.raises(ConfigError, match="must be"):
        ResizeToInput(input_hw=(8, 8), **bad)


def test_colours_change_but_not_shapes():
    image = np.random.default_rng(0).integers(0, 256, (8, 9, 3), dtype=np.uint8)
    drawn = []
    for seed in range(8):
        np.random.seed(seed)
        drawn.append(Photometric()({"image": image.copy()})["image"])
    assert all(d.shape == image.shape and d.dtype == np.uint8 and d.flags.writeable for d in drawn)
    assert sum(not np.array_equal(d, image) for d in drawn) >= 4


def test_colours_stay_without_range():
    image = np.random.default_rng(0).integers(0, 256, (8, 9, 3), dtype=np.uint8)
    transform = Photometric(brightness=0.0, contrast=(1.0, 1.0), saturation=(1.0, 1.0))
    for seed in range(8):
        np.random.seed(seed)
        np.testing.assert_array_equal(transform({"image": image})["image"], image)


def test_cached_images_are_read_once_and_not_changed(tmp_path):
    Image.fromarray(np.zeros((4, 6, 3), np.uint8)).save(tmp_path / "a.png")
    record = {"img_path": str(tmp_path / "a.png"), "img_root": str(tmp_path), "ori_hw": (4, 6)}
    load, draw = LoadImage(cache_mb=1), ResizeToInput(input_hw=(4, 6))
    first = draw(load(dict(record, instances=instances([]))))
    (tmp_path / "a.png").unlink()
    first["image"][:] = 255
    assert (load(dict(record))["image"] == 0).all()


def test_packing_does_not_copy_metainfo():
    results = ask([2, 0, 2], num_prompts=None, shuffle=False)
    image = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)
    frame_ = InputTransform.stretch((4, 8), (2, 4))
    packed = PackSample()(results | {"image": image, "frame": frame_, "img_id": 3, "img_path": "x"})
    sample = packed["data_samples"]
    assert sample.frame is frame_
    assert sample.metainfo["img_shape"] == (2, 4) and sample.metainfo["ori_shape"] == (4, 8)
    assert packed["inputs"][:, 1, 2].tolist() == image[1, 2].tolist()
    assert packed["inputs"].is_contiguous()
    assert sample.to_dict()["gt_instances"]["bboxes"].shape == (3, 4)


def test_blackened_images_show_nothing():
    image = np.full((2, 2, 3), 9, dtype=np.uint8)
    assert BlackenImage(share=1.0)({"image": image})["image"].max() == 0
    assert BlackenImage(share=0.0)({"image": image})["image"] is image
    with pytest.raises(ConfigError, match="share"):
        BlackenImage(share=2.0)


def test_negatives_are_asked_beside_the_classes_without_an_object():
    options = {"num_prompts": 2, "negatives": ["boat", "a cup", "lamp"], "num_negatives": 2}
    drawn = set()
    for seed in range(20):
        results = ask([0, 1], seed=seed, **options)
        added = results["prompts"][2:]
        assert [prompt.label for prompt in added] == [-1, -1]
        assert sorted(results["gt_instances"]["prompt_index"].tolist()) == [0, 1]
        drawn |= {prompt.text for prompt in added}
    assert drawn == {"boat", "a cup", "lamp"}


def test_negatives_that_share_words_with_classes_are_left_out_or_refused():
    results = ask([0], num_prompts=1, negatives=["a big Ant", "boat"], wording={"bee": ["a wasp"]})
    assert [prompt.text for prompt in results["prompts"]] == ["ant", "boat"]
    with pytest.raises(ConfigError, match="shares a word with a class"):
        ask([0], negatives=["wasp"], wording={"bee": ["a wasp"]})
    with pytest.raises(ConfigError, match="no vocabulary 'nowhere'"):
        AskClasses(negatives="nowhere")
    with pytest.raises(ConfigError, match=r"num_negatives must be .*, got -1"):
        AskClasses(negatives=["boat"], num_negatives=-1)

"""Samples to and from mmdet's, and answers drawn by its visualizer."""

import numpy as np
import pytest
import torch
from helpers import make_instances
from mmengine.structures import InstanceData

from lumen.errors import DataError
from lumen.interop.mmdet.samples import draw_by_mmdet, from_det_data_sample, to_det_data_sample
from lumen.ops.geometry import InputTransform
from lumen.ops.masks import decode_masks, encode_masks
from lumen.structures import PerceptionSample, Prompt

pytest.importorskip("mmdet")
pytestmark = pytest.mark.filterwarnings("ignore::ImportWarning", "ignore::DeprecationWarning")

NAMES = ("dog", "cat")


def some_masks(number, size_hw):
    masks = torch.zeros(number, *size_hw, dtype=torch.bool)
    for place in range(number):
        masks[place, 1 : 3 + place, 2:5] = True
    return masks


def make_sample(number, frame):
    boxes = torch.arange(4.0 * number).reshape(-1, 4)
    sample = PerceptionSample()
    sample.gt_instances = make_instances(
        boxes, [0, 1][:number], labels=[0, 1][:number], masks=some_masks(number, frame.input_hw)
    )
    sample.ignored_instances = make_instances(masks=some_masks(0, frame.input_hw))
    sample.pred_instances = InstanceData(
        bboxes=boxes,
        labels=torch.arange(number),
        scores=torch.linspace(0.9, 0.5, number),
        prompt_index=torch.arange(number),
        masks=encode_masks(some_masks(number, frame.ori_hw)),
    )
    prompts = tuple(Prompt(name, label=label) for label, name in enumerate(NAMES))
    about = {"prompts": prompts, "classes": NAMES, "frame": frame, "img_id": 7, "img_path": "a.jpg"}
    for key, value in {**about, "ori_shape": frame.ori_hw, "img_shape": frame.input_hw}.items():
        sample.set_field(value, key, field_type="metainfo")
    return sample


def frames():
    plain = InputTransform.letterbox((40, 60), (32, 32))
    return [plain, plain.flip_horizontal(), plain.flip_vertical().flip_horizontal()]


@pytest.mark.parametrize("frame", frames(), ids=["plain", "flipped", "turned"])
@pytest.mark.parametrize("number", [0, 2])
def test_there_and_back(number, frame):
    sample = make_sample(number, frame)
    theirs = to_det_data_sample(sample)
    assert theirs.gt_instances.masks.masks.shape == (number, 32, 32)
    assert theirs.pred_instances.masks.shape == (number, 40, 60)
    back = from_det_data_sample(theirs)
    assert back.metainfo == sample.metainfo
    for name in ("gt_instances", "ignored_instances", "pred_instances"):
        table, found = sample.get(name), back.get(name)
        assert set(found.keys()) == set(table.keys()), name
        for key in set(table.keys()) - {"masks"}:
            assert torch.equal(found[key], table[key]), (name, key)
        if name == "pred_instances":
            assert found.masks == table.masks
        else:
            assert torch.equal(found.masks, table.masks)


@pytest.mark.parametrize("frame", frames(), ids=["plain", "flipped", "turned"])
def test_the_frame_is_read_from_what_mmdet_states(frame):
    theirs = to_det_data_sample(make_sample(2, frame))
    for key in ("frame", "prompts", "classes"):
        theirs.pop(key)
    for table in (theirs.gt_instances, theirs.pred_instances):
        del table.prompt_index
    back = from_det_data_sample(theirs, classes=NAMES, task="segmentation")
    points = torch.tensor([[3.0, 5.0], [60.0, 40.0]])
    assert torch.allclose(back.frame.points_to_input(points), frame.points_to_input(points))
    assert [(prompt.text, prompt.task, prompt.label) for prompt in back.prompts] == [
        *(("dog", "segmentation", 0), ("cat", "segmentation", 1))
    ]
    assert back.gt_instances.prompt_index.tolist() == [0, 1]


def test_names_that_are_given_are_those_of_the_sample():
    theirs = to_det_data_sample(make_sample(1, frames()[0]))
    theirs.pop("prompts")
    back = from_det_data_sample(theirs, classes=("hound", "kitten"))
    assert back.classes == ("hound", "kitten") and [prompt.text for prompt in back.prompts] == ["hound", "kitten"]


def test_what_mmdet_packs_is_read():
    from mmdet.datasets.transforms import LoadAnnotations, PackDetInputs, RandomFlip, Resize

    polygon = [[4, 6, 24, 6, 24, 30, 4, 30]]
    results = {"img": np.zeros((40, 60, 3), dtype=np.uint8), "img_shape": (40, 60), "ori_shape": (40, 60), "height": 40}
    results |= {"width": 60, "img_id": 3, "img_path": "a.jpg"}
    results["instances"] = [{"bbox": [4, 6, 24, 30], "bbox_label": 1, "ignore_flag": 0, "mask": polygon}]
    for step in (
        LoadAnnotations(with_bbox=True, with_mask=True),
        Resize(scale=(30, 20)),
        RandomFlip(prob=1.0),
        PackDetInputs(),
    ):
        results = step(results)
    sample = from_det_data_sample(results["data_samples"], classes=NAMES)
    assert sample.gt_instances.bboxes.tolist() == [[18, 3, 28, 15]]
    assert sample.frame.boxes_to_original(sample.gt_instances.bboxes).tolist() == [[4, 6, 24, 30]]
    assert sample.gt_instances.masks.shape == (1, 20, 30) and sample.gt_instances.masks[0, 5, 20]


def test_a_crop_is_refused():
    with pytest.raises(DataError, match="not a shift"):
        to_det_data_sample(make_sample(0, InputTransform.crop((40, 60), (10, 10, 30, 20), (32, 32))))


def test_a_sample_without_sizes_or_names_is_refused():
    from mmdet.structures import DetDataSample

    with pytest.raises(DataError, match="meta_keys of PackDetInputs"):
        from_det_data_sample(DetDataSample(), classes=NAMES)
    sample = DetDataSample(metainfo={"ori_shape": (4, 6), "img_shape": (4, 6)})
    sample.gt_instances = InstanceData(bboxes=torch.zeros(1, 4), labels=torch.tensor([2]))
    with pytest.raises(DataError, match="do not fit 2 names"):
        from_det_data_sample(sample, classes=NAMES)


def test_answers_are_drawn(tmp_path):
    image = np.full((80, 120, 3), 127, dtype=np.uint8)
    answer = InstanceData(
        bboxes=torch.tensor([[10.0, 20, 50, 60], [70, 10, 110, 40]]),
        labels=torch.tensor([0, 1]),
        scores=torch.tensor([0.9, 0.1]),
        phrases=["dog", "cat"],
    )
    drawn = draw_by_mmdet(image, answer, classes=NAMES, out_file=tmp_path / "answers.png")
    assert drawn.shape == image.shape and (tmp_path / "answers.png").is_file()
    changed = (drawn != image).any(axis=2)
    # The frame of the dog, and nothing of the cat, whose score is below 0.3.
    assert changed[58:62, 15:45].any() and not changed[:, 75:].any()
    answer.masks = encode_masks(some_masks(2, (80, 120)))
    with_masks = draw_by_mmdet(image, answer, classes=NAMES)
    assert decode_masks(answer.masks[:1], (80, 120))[0, 1, 2] and (with_masks[1, 2] != 127).any()
    assert np.array_equal(draw_by_mmdet(image, answer[:0], classes=NAMES), image)


def test_what_cannot_be_drawn_is_refused():
    image = np.zeros((8, 8, 3), dtype=np.uint8)
    with pytest.raises(DataError, match="draws bboxes or masks"):
        draw_by_mmdet(image, InstanceData(counts=torch.ones(1)), classes=NAMES)
    row = {"bboxes": torch.ones(1, 4), "labels": torch.tensor([-1]), "scores": torch.ones(1)}
    with pytest.raises(DataError, match="do not fit 2 names"):
        draw_by_mmdet(image, InstanceData(**row), classes=NAMES)

import os
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.dataset import ConcatDataset

from lumen.data.coco import UNREADABLE, CocoDataset
from lumen.data.image import PAD_VALUE
from lumen.data.transforms import AskClasses, LoadImage, PackSample, ResizeToInput
from lumen.errors import DataError
from lumen.registry import DATASETS

PIPELINE = [
    LoadImage(),
    ResizeToInput(input_hw=(16, 32)),
    AskClasses(num_prompts=None, shuffle=False),
    PackSample(),
]


def build(root, **kwargs):
    return CocoDataset(
        **(
            {"ann_file": "ann.json", "data_root": str(root), "data_prefix": {"img": "img"}, "pipeline": PIPELINE}
            | kwargs
        )
    )


def test_samples_hold_what_the_network_needs(make_coco):
    dataset = build(make_coco())
    assert len(dataset) == 3
    assert dataset.metainfo["classes"] == ("dog", "cat", "bird")
    assert dataset.metainfo["cat_ids"] == (90, 7, 16)
    assert "ann_file" not in dataset.metainfo
    assert build(make_coco(), test_mode=True).metainfo["ann_file"].endswith("ann.json")
    packed = dataset[0]
    sample = packed["data_samples"]
    assert packed["inputs"].dtype == torch.uint8 and packed["inputs"].shape == (3, 16, 32)
    assert [prompt.text for prompt in sample.prompts] == ["dog", "cat", "bird"]
    # 40 x 20 drawn into 32 x 16: a scale of 0.8.
    torch.testing.assert_close(sample.gt_instances.bboxes[0], torch.tensor([1.6, 2.4, 9.6, 6.4]))
    assert sample.gt_instances.prompt_index.tolist() == [0, 1]
    assert sample.gt_instances.labels.tolist() == [0, 1]
    assert sample.ignored_instances.prompt_index.tolist() == [2]
    assert (sample.ori_shape, sample.img_shape, sample.img_id) == ((20, 40), (16, 32), 1)
    assert len(dataset[1]["data_samples"].gt_instances) == 0


def test_it_is_built_from_a_config_by_name(make_coco):
    root = make_coco()
    pipeline = [
        {"type": "lumen.LoadImage"},
        {"type": "lumen.ResizeToInput", "input_hw": [16, 32]},
        {"type": "lumen.AskClasses"},
        {"type": PackSample},
    ]
    config = {"type": "CocoDataset", "ann_file": str(root / "ann.json"), "data_prefix": {"img": str(root / "img")}}
    dataset = DATASETS.build(config | {"pipeline": pipeline})
    assert dataset[0]["inputs"].shape == (3, 16, 32)


def test_empty_images_leave_only_when_asked(make_coco):
    dataset = build(make_coco(), filter_empty=True)
    assert [dataset.get_data_info(i)["img_id"] for i in range(len(dataset))] == [1, 5]
    with pytest.raises(DataError, match="no usable image"):
        build(make_coco(annotations=[]), filter_empty=True)


def test_an_error_names_the_command_that_checks_the_data_set(make_coco):
    root = make_coco(categories=[])
    with pytest.raises(DataError, match=r"'categories' is empty.*lumen check-data .*ann.json --images .*img") as caught:
        build(root)
    assert str(caught.value).count("lumen check-data") == 1


def test_indices_keep_some_records(make_coco):
    assert len(build(make_coco()).get_subset(2)) == 2


def test_two_sets_can_be_joined_when_their_classes_agree(make_coco):
    root = make_coco()
    joined = ConcatDataset([build(root), build(root)])
    assert len(joined) == 6 and joined.metainfo["cat_ids"] == (90, 7, 16)
    assert joined[4]["data_samples"].img_id == 2
    with pytest.raises(ValueError, match="does not match"):
        ConcatDataset([build(root), build(root, classes=["cat", "dog", "bird"])])


def test_an_unreadable_image_is_replaced_by_the_next_counted_and_limited(make_coco):
    root = make_coco()
    (root / "img" / "a.png").write_bytes(b"broken")
    dataset = build(root, skip_budget=0.5)
    assert dataset[0]["data_samples"].img_id == 2
    assert dataset[0]["data_samples"].img_id == 2
    assert dataset.report == {UNREADABLE: [1]}
    with pytest.raises(DataError, match="1 of 3 images cannot be used"):
        build(root)[0]


def test_an_unreadable_image_is_grey_with_a_fault_in_test_mode(make_coco):
    root = make_coco()
    (root / "img" / "a.png").unlink()
    packed = build(root, test_mode=True)[0]
    assert "a.png: cannot be read" in packed["data_samples"].fault
    assert (packed["inputs"] == PAD_VALUE).all()
    assert len(packed["data_samples"].gt_instances)
    assert "fault" not in build(root, test_mode=True)[1]["data_samples"]


def test_when_no_image_can_be_read_it_is_an_error(make_coco):
    root = make_coco()
    for path in (root / "img").iterdir():
        path.write_bytes(b"")
    with pytest.raises(DataError, match="not one image"):
        build(root, skip_budget=1.0)[0]


def test_an_image_of_another_size_than_annotated_is_not_used(make_coco):
    root = make_coco(images=[{"id": 1, "file_name": "a.png", "width": 41, "height": 20}])
    # The other annotations now name unknown images.
    sample = build(root, skip_budget=1.0, test_mode=True)[0]["data_samples"]
    assert re.search(r"\(20, 40\).*\(20, 41\)", sample.fault)


def test_images_may_not_be_links_to_the_outside(make_coco):
    root = make_coco()
    (root / "img" / "a.png").rename(root / "outside.png")
    (root / "img" / "a.png").symlink_to(root / "outside.png")
    assert "leaves the folder" in build(root, test_mode=True)[0]["data_samples"].fault


@pytest.mark.skipif("LUMEN_DATA" not in os.environ, reason="set LUMEN_DATA to a folder with bccd and tiny_coco")
@pytest.mark.parametrize(
    ("ann_file", "prefix", "num_images", "num_objects"),
    [
        ("bccd/annotations/instances_test.json", "bccd/images", 72, 945),
        ("tiny_coco/annotations/instances_val2017.json", "tiny_coco/val2017", 50, 382),
    ],
)
def test_real_sets_are_read_whole(ann_file, prefix, num_images, num_objects):
    root = Path(os.environ["LUMEN_DATA"])
    dataset = build(root, ann_file=ann_file, data_prefix={"img": prefix}, skip_budget=0.0, test_mode=True)
    samples = [dataset[index]["data_samples"] for index in range(len(dataset))]
    assert len(samples) == num_images
    assert sum(len(s.gt_instances) + len(s.ignored_instances) for s in samples) == num_objects
    assert all(len(s.prompts) == len(dataset.metainfo["classes"]) for s in samples)


def test_records_are_copies(make_coco):
    dataset = build(make_coco())
    first = dataset[0]["data_samples"].gt_instances.bboxes.clone()
    dataset[0]["data_samples"].gt_instances.bboxes.zero_()
    np.testing.assert_array_equal(dataset[0]["data_samples"].gt_instances.bboxes, first)

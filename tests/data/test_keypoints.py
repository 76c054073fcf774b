import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lumen.data.keypoint_transforms import AskKeypoints, CropInstance
from lumen.data.keypoints import CocoKeypointsDataset
from lumen.data.transforms import LoadImage, PackSample
from lumen.errors import ConfigError, DataError

CATEGORIES = [
    {"id": 3, "name": "person", "keypoints": ["nose", "left_hand", "right_hand"], "skeleton": [[1, 2], [1, 3]]},
    {"id": 9, "name": "clock", "keypoints": ["centre", "tip"]},
]
ANNOTATIONS = [
    {"id": 10, "image_id": 1, "category_id": 3, "bbox": [2, 3, 10, 5], "keypoints": [4, 4, 2, 0, 0, 0, 9.5, 6, 1]},
    {"id": 11, "image_id": 1, "category_id": 3, "bbox": [20, 3, 10, 5], "keypoints": [0] * 9, "num_keypoints": 0},
    {"id": 12, "image_id": 1, "category_id": 3, "bbox": [0, 0, 40, 20], "keypoints": [4, 4, 2] * 3, "iscrowd": 1},
    {"id": 13, "image_id": 5, "category_id": 9, "bbox": [5, 5, 9, 9], "keypoints": [9, 9, 2, 9, 5, 2]},
    {"id": 14, "image_id": 5, "category_id": 9, "bbox": [5, 5, 9, 9]},
]
PIPELINE = [
    {"type": LoadImage},
    {"type": CropInstance, "input_hw": (32, 32)},
    {"type": AskKeypoints},
    {"type": PackSample},
]


@pytest.fixture
def make(tmp_path):
    """Write two images and their file, changed as told, and return the data set."""

    def make(detections=None, annotations=ANNOTATIONS, categories=CATEGORIES, **options):
        images = [
            {"id": 1, "file_name": "a.png", "width": 40, "height": 20},
            {"id": 5, "file_name": "c.png", "width": 20, "height": 40},
        ]
        for image in images:
            Image.new("RGB", (image["width"], image["height"])).save(tmp_path / image["file_name"])
        content = {"images": images, "categories": categories, "annotations": annotations}
        (tmp_path / "ann.json").write_text(json.dumps(content))
        if detections is not None:
            (tmp_path / "found.json").write_text(json.dumps(detections))
            options["detections"] = str(tmp_path / "found.json")
        options = {"test_mode": True} | options
        return CocoKeypointsDataset(ann_file="ann.json", data_root=str(tmp_path), **options)

    return make


def test_a_record_is_one_object_with_labelled_keypoints(make):
    dataset = make()
    assert [record["instance_id"] for record in dataset] == [10, 13]
    first, second = dataset[0], dataset[1]
    assert first["keypoints"].tolist() == [[4, 4, 2], [0, 0, 0], [9.5, 6, 1]]
    assert (first["box"], first["box_label"], first["box_score"]) == ((2, 3, 12, 8), 0, 1.0)
    assert first["keypoint_names"] == ("nose", "left_hand", "right_hand")
    assert second["keypoint_names"] == ("centre", "tip")
    assert second["instances"]["labels"].tolist() == [1]
    assert dataset.get_cat_ids(1) == [1]


def test_names_and_bones_are_in_metainfo(make):
    meta = make().metainfo
    assert meta["keypoint_names"] == (("nose", "left_hand", "right_hand"), ("centre", "tip"))
    assert meta["skeletons"] == (((0, 1), (0, 2)), ())
    assert meta["boxes"] == "annotated"
    assert "boxes" not in make(test_mode=False).metainfo


def test_classes_are_chosen_and_named_anew(make):
    dataset = make(classes=["clock"], keypoint_names={"clock": ["middle", "hand"]})
    assert [record["instance_id"] for record in dataset] == [13]
    assert dataset.metainfo["keypoint_names"] == (("middle", "hand"),)


def test_the_whole_pipeline_gives_samples_of_two_skeletons(make):
    samples = [data["data_samples"] for data in make(pipeline=PIPELINE)]
    assert [len(sample.prompts) for sample in samples] == [3, 2]
    assert samples[0].gt_instances.labels.tolist() == [0, 2]
    # from the box (2, 3, 12, 8), padded to 12.5 wide around (7, 5.5): 32 / 12.5 pixels each
    expected = [16 + (4 - 7) * 2.56, 16 + (4 - 5.5) * 2.56]
    assert samples[0].gt_instances.bboxes[0, :2].tolist() == pytest.approx(expected, abs=1e-4)
    restored = samples[0].frame.points_to_original(samples[0].gt_instances.bboxes[:, :2])
    np.testing.assert_allclose(restored, [[4, 4], [9.5, 6]], atol=1e-4)
    assert samples[0].ignored_instances.prompt_index.tolist() == [1]


DETECTIONS = [
    {"image_id": 1, "category_id": 3, "bbox": [30, 10, 20, 5], "score": 0.75},
    {"image_id": 1, "category_id": 77, "bbox": [0, 0, 5, 5], "score": 0.9},
    {"image_id": 5, "category_id": 9, "bbox": [0, 0, 5, 5], "score": 0.1},
    {"image_id": 5, "category_id": 3, "bbox": [0, 0, 5, 5], "score": 0.5},
]


def test_detected_boxes_take_the_place_of_annotated_ones(make):
    dataset = make(DETECTIONS, min_box_score=0.2, pipeline=PIPELINE)
    first, second = (data["data_samples"] for data in dataset)
    assert (first.instance_id, first.box, first.box_score, first.box_label) == (0, (30, 10, 40, 15), 0.75, 0)
    assert (second.instance_id, second.img_id) == (3, 5)
    assert len(first.gt_instances) == 0
    assert len(first.ignored_instances) == 3
    assert dataset.metainfo["boxes"].endswith("found.json")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"image_id": 8}, "unknown or skipped image"),
        ({"bbox": [50, 0, 5, 5]}, "without area in its image"),
        ({"bbox": [0, 0, 5]}, "not four finite numbers"),
        ({"score": float("nan")}, "not finite"),
        ({"score": None}, "not finite"),
    ],
)
def test_faulty_detections_are_reported_within_the_budget(make, change, reason):
    detections = [DETECTIONS[0] | change, DETECTIONS[3]]
    dataset = make(detections, skip_budget=0.5)
    assert [record["instance_id"] for record in dataset] == [1]
    assert any(reason in told and ids == [0] for told, ids in dataset.report.items())
    with pytest.raises(DataError, match=reason):
        make(detections)


def test_detections_must_be_a_list_and_for_testing(make):
    with pytest.raises(DataError, match="holds a list, this one a dict"):
        make({})
    with pytest.raises(DataError, match="no usable image"):
        make([])
    with pytest.raises(ConfigError, match="no keypoints to train on"):
        make(DETECTIONS, test_mode=False)


@pytest.mark.parametrize(
    ("keypoints", "further", "reason"),
    [
        ([1, 1, 2] * 2, {}, "keypoints are not"),
        ([1, 1, 3] * 3, {}, "keypoints are not"),
        ([1, 1, float("inf")] * 3, {}, "keypoints are not"),
        ([1, "1", 2] * 3, {}, "keypoints are not"),
        ("keypoints", {}, "keypoints are not"),
        ([1, 1, 2] * 3, {"num_keypoints": 2}, "num_keypoints is not"),
    ],
)
def test_faulty_keypoints_are_reported_within_the_budget(make, keypoints, further, reason):
    annotations = [ANNOTATIONS[0] | {"keypoints": keypoints} | further, *ANNOTATIONS[1:]]
    dataset = make(annotations=annotations, skip_budget=0.5)
    assert [record["instance_id"] for record in dataset] == [13]
    assert any(told.startswith(reason) and ids == [10] for told, ids in dataset.report.items())
    with pytest.raises(DataError, match=reason):
        make(annotations=annotations)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"keypoints": None}, "needs a list of keypoint names"),
        ({"keypoints": []}, "needs a list of keypoint names"),
        ({"keypoints": ["nose", " ", "ear"]}, "needs a list of keypoint names"),
        ({"keypoints": ["nose", "nose", "ear"]}, "names a keypoint twice"),
        ({"skeleton": [[1, 4]]}, "a bone joins two"),
        ({"skeleton": [[0, 1]]}, "a bone joins two"),
    ],
)
def test_broken_skeletons_are_an_error(make, change, match):
    with pytest.raises(DataError, match=match):
        make(categories=[CATEGORIES[0] | change, CATEGORIES[1]])


def test_names_for_an_unknown_class_are_an_error(make):
    with pytest.raises(ConfigError, match="keypoint_names for"):
        make(keypoint_names={"cow": ["tail"]})


@pytest.mark.skipif("LUMEN_DATA" not in os.environ, reason="set LUMEN_DATA to a folder with bccd and tiny_coco")
def test_real_persons_are_read_whole():
    dataset = CocoKeypointsDataset(
        ann_file="annotations/person_keypoints_val2017.json",
        data_root=str(Path(os.environ["LUMEN_DATA"]) / "tiny_coco"),
        data_prefix={"img": "val2017"},
        pipeline=PIPELINE,
        skip_budget=0.0,
        test_mode=True,
    )
    samples = [data["data_samples"] for data in dataset]
    assert len(samples) == 46
    assert all(len(sample.prompts) == 17 for sample in samples)
    assert samples[0].prompts[5].text == "left shoulder of the person"
    assert all(len(sample.gt_instances) + len(sample.ignored_instances) == 17 for sample in samples)
    # COCO's padding of 1.25 leaves few labelled keypoints outside
    assert sum(len(sample.gt_instances) for sample in samples) > 400

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lumen.data.keypoint_transforms import AskKeypoints, CropInstance, flip_order
from lumen.data.transforms import PackSample
from lumen.errors import ConfigError

NAMES = ("nose", "left_hand", "right_hand")


def record(points, *, box=(10, 5, 18, 13), names=NAMES, size_hw=(20, 40)):
    """Return what the data set and LoadImage give for one object; the image counts its columns."""
    image = np.repeat(np.arange(size_hw[1], dtype=np.uint8)[None, :, None], size_hw[0], 0).repeat(3, 2)
    return {
        "image": image,
        "ori_hw": size_hw,
        "img_id": 4,
        "img_path": "a.png",
        "classes": ("teddy_bear", "person"),
        "instances": {
            "bboxes": np.float32([box]),
            "labels": np.array([1]),
            "is_ignored": np.array([False]),
            "ann_ids": np.array([7]),
        },
        "keypoints": np.float32(points).reshape(-1, 3),
        "keypoint_names": names,
        "box": tuple(map(float, box)),
        "box_label": 1,
        "box_score": 1.0,
        "instance_id": 7,
    }


POINTS = [[14, 9, 2], [10, 5, 1], [18, 13, 2]]


def test_a_crop_holds_the_padded_box_and_moves_the_points():
    # the box of 8 around (14, 9), padded to 16, fills 32 pixels: twice as large
    results = CropInstance(input_hw=(32, 32), padding=2.0)(record(POINTS))
    assert results["keypoints"].tolist() == [[16, 16, 2], [8, 8, 1], [24, 24, 2]]
    assert results["instances"]["bboxes"].tolist() == [[8, 8, 24, 24]]
    assert results["image"].shape == (32, 32, 3)
    assert results["image"][16, 16, 0] in (13, 14)  # column 14 of the original


def test_a_flip_swaps_left_and_right():
    results = CropInstance(input_hw=(32, 32), padding=2.0, flip_probability=1.0)(record(POINTS))
    # mirrored: (16, 16), (24, 8), (8, 24); the left hand's row now holds what was the right hand
    assert results["keypoints"].tolist() == [[16, 16, 2], [8, 24, 2], [24, 8, 1]]
    assert results["frame"].is_flipped


def test_partners_at_a_flip_are_found_by_name():
    assert flip_order(("nose", "left_eye", "right_eye")) == [0, 2, 1]
    assert flip_order(("top left corner", "top right corner", "upright bar")) == [1, 0, 2]
    assert flip_order(("Right Hand", "Left Hand")) == [1, 0]
    assert flip_order(("left", "left inner right", "right", "right inner left")) == [2, 3, 0, 1]


def test_given_pairs_replace_the_names():
    assert flip_order(("l_eye", "r_eye", "left"), [("l_eye", "r_eye"), ("l_toe", "r_toe")]) == [1, 0, 2]


def test_a_side_without_a_partner_is_an_error():
    with pytest.raises(ConfigError, match=r"'left_eye'.*have no partner"):
        flip_order(("nose", "left_eye"))


@pytest.mark.parametrize("bad", [{"padding": 0.0}, {"scale_range": (2, 1)}, {"max_shift": 0.6}, {"max_shift": -0.1}])
def test_impossible_crops_are_an_error(bad):
    with pytest.raises(ConfigError, match="must be positive"):
        CropInstance(input_hw=(8, 8), **bad)


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 2**32 - 1), st.floats(0, 30), st.floats(0, 15), st.floats(0.5, 10), st.floats(0.5, 5), st.booleans()
)
def test_random_crops_move_points_as_their_frame_says(seed, x, y, width, height, is_flipped):
    np.random.seed(seed)
    crop = CropInstance(
        input_hw=(24, 32), scale_range=(0.7, 1.4), max_shift=0.5, flip_probability=float(is_flipped), padding=1.0
    )
    results = crop(record(POINTS, box=(x, y, x + width, y + height)))
    expected = results["frame"].points_to_input(torch.tensor(POINTS)[:, :2].float())
    torch.testing.assert_close(results["keypoints"][:, :2], expected[[0, 2, 1]] if is_flipped else expected)
    assert results["frame"].is_flipped == is_flipped


def ask(points, *, seed=0, padding=2.0, **options):
    np.random.seed(seed)
    return AskKeypoints(**options)(CropInstance(input_hw=(32, 32), padding=padding)(record(points)))


def test_labelled_keypoints_in_view_are_targets_and_the_others_are_silenced():
    # visible, covered, not labelled: the crop goes from (6, 1) to (22, 17)
    results = ask([[14, 9, 2], [10, 5, 1], [0, 0, 0]])
    assert [prompt.text for prompt in results["prompts"]] == [
        "nose of the person",
        "left hand of the person",
        "right hand of the person",
    ]
    assert {prompt.task for prompt in results["prompts"]} == {"pose"}
    assert [prompt.label for prompt in results["prompts"]] == [0, 1, 2]
    assert results["gt_instances"]["bboxes"].tolist() == [[16, 16, 16, 16], [8, 8, 8, 8]]
    assert results["gt_instances"]["labels"].tolist() == [0, 1]
    assert results["gt_instances"]["prompt_index"].tolist() == [0, 1]
    assert results["ignored_instances"]["bboxes"].tolist() == [[0, 0, 32, 32]]
    assert results["ignored_instances"]["prompt_index"].tolist() == [2]


def test_keypoints_outside_the_input_are_silenced():
    # x 22 and y 17 map to 32, the first pixel beyond; x 6, y 1 to the first one inside
    results = ask([[22, 9, 2], [6, 1, 2], [14, 17, 2]])
    assert results["gt_instances"]["prompt_index"].tolist() == [1]
    assert results["ignored_instances"]["prompt_index"].tolist() == [0, 2]


def test_no_labelled_keypoint_gives_no_target():
    results = ask(np.zeros((3, 3)))
    assert results["gt_instances"]["bboxes"].shape == (0, 4)
    assert results["ignored_instances"]["labels"].tolist() == [0, 1, 2]


def test_a_limited_number_of_prompts_takes_labelled_ones_first():
    for seed in range(8):
        results = ask([[14, 9, 0], [10, 5, 1], [14, 5, 2]], seed=seed, num_prompts=2)
        assert [prompt.label for prompt in results["prompts"]] == [1, 2]
        assert results["gt_instances"]["labels"].tolist() == [1, 2]
        assert results["gt_instances"]["prompt_index"].tolist() == [0, 1]
    assert len(ask(POINTS, num_prompts=9)["prompts"]) == 3
    drawn = {ask(POINTS, seed=seed, num_prompts=1)["prompts"][0].label for seed in range(20)}
    assert drawn == {0, 1, 2}


def test_wording_may_leave_the_category_out():
    assert ask(POINTS, wording="the {keypoint}")["prompts"][1].text == "the left hand"


@pytest.mark.parametrize("wording", ["point", "{keypoint} of {person}", "{keypoint", "{}", "{keypoint:9999999999}"])
def test_wording_without_a_keypoint_is_an_error(wording):
    with pytest.raises(ConfigError, match=r"wording must hold \{keypoint\}"):
        AskKeypoints(wording=wording)
    with pytest.raises(ConfigError, match="num_prompts"):
        AskKeypoints(num_prompts=0)


def test_packing_passes_on_which_object_it_is():
    sample = PackSample()(ask(POINTS))["data_samples"]
    assert (sample.instance_id, sample.box_label, sample.box_score) == (7, 1, 1.0)
    assert sample.box == (10, 5, 18, 13)

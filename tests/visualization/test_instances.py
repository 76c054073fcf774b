import numpy as np
import pytest
import torch

from lumen.errors import DataError
from lumen.ops.masks import encode_masks
from lumen.visualization import draw_counts, draw_masks, draw_skeletons, phrase_colour


def _grey(height, width):
    return np.full((height, width, 3), 100, np.uint8)


def _codes(*windows, size_hw=(400, 640)):
    masks = torch.zeros(len(windows), *size_hw, dtype=torch.bool)
    for mask, (top, bottom, left, right) in zip(masks, windows, strict=True):
        mask[top:bottom, left:right] = True
    return encode_masks(masks)


def test_a_mask_is_mixed_into_the_image_with_a_solid_outline():
    picture = draw_masks(_grey(400, 640), _codes((100, 200, 100, 300)), [3], alpha=0.25)
    colour = np.array(phrase_colour(3))
    assert (picture[100, 150] == colour).all() and (picture[199, 299] == colour).all()
    assert np.abs(picture[150, 200] - (75 + colour * 0.25)).max() <= 0.5
    assert (picture[99, 150] == 100).all() and (picture[200, 150] == 100).all()


def test_a_small_mask_lies_on_top_of_a_large_one():
    codes = _codes((150, 160, 150, 160), (100, 300, 100, 300))
    picture = draw_masks(_grey(400, 640), codes, [0, 1], alpha=1.0)
    assert tuple(picture[155, 155]) == phrase_colour(0)
    assert tuple(picture[200, 200]) == phrase_colour(1)


def test_masks_are_magnified_with_a_small_image():
    picture = draw_masks(_grey(80, 160), _codes((20, 40, 40, 80), size_hw=(80, 160)), [0], alpha=1.0)
    rows, cols = (picture == np.array(phrase_colour(0))).all(-1).nonzero()
    assert picture.shape == (320, 640, 3)
    assert (rows.min(), rows.max(), cols.min(), cols.max()) == (80, 159, 160, 319)


def test_nothing_to_draw_leaves_the_image_as_it_is():
    image = _grey(640, 640)
    assert np.array_equal(draw_masks(image, [], []), image)
    assert np.array_equal(draw_skeletons(image, np.zeros((0, 3, 2)), np.zeros((0, 3)), [(0, 1)]), image)
    assert np.array_equal(draw_counts(image, [], []), image)


def test_masks_that_do_not_fit_are_told():
    with pytest.raises(ValueError, match="1 masks, 2 labels"):
        draw_masks(_grey(400, 640), _codes((0, 9, 0, 9)), [0, 1])
    with pytest.raises(DataError, match="a mask has size"):
        draw_masks(_grey(10, 10), _codes((0, 9, 0, 9)), [0])


def test_keypoints_have_the_colours_of_their_prompts_and_bones_join_them():
    points = np.array([[[100.0, 100.0], [300.0, 100.0], [300.0, 300.0]]])
    picture = draw_skeletons(_grey(640, 640), points, np.array([[0.9, 0.5, 0.1]]), [(0, 1), (1, 2)])
    assert tuple(picture[100, 100]) == phrase_colour(0)
    assert tuple(picture[100, 300]) == phrase_colour(1)
    assert tuple(picture[100, 200]) == phrase_colour(1), "a bone has the colour of its second end"
    assert (picture[300, 300] == 100).all() and (picture[200, 300] == 100).all(), "too weak, and so is its bone"


def test_a_keypoint_that_is_not_finite_is_left_out():
    points = np.array([[[np.nan, 100.0], [300.0, 100.0]]])
    picture = draw_skeletons(_grey(640, 640), points, np.ones((1, 2)), [(0, 1)])
    assert (picture[100, 200] == 100).all()


def test_keypoints_that_do_not_fit_are_told():
    with pytest.raises(ValueError, match=r"scores \(1, 3\)"):
        draw_skeletons(_grey(9, 9), np.zeros((1, 2, 2)), np.zeros((1, 3)), [])
    with pytest.raises(ValueError, match="edges join two of 2 keypoints"):
        draw_skeletons(_grey(9, 9), np.zeros((1, 2, 2)), np.zeros((1, 2)), [(0, 2)])


def test_counts_stand_below_the_image_in_the_colours_of_their_phrases():
    picture = draw_counts(_grey(640, 640), ["red star", "ring"], [2, 3.4])
    assert picture.shape[0] > 640 and picture.shape[1] == 640
    assert (picture[:640] == 100).all()
    for label in range(2):
        assert (picture[640:] == np.array(phrase_colour(label))).all(-1).sum() > 200
    with pytest.raises(ValueError, match="1 phrases, 2 counts"):
        draw_counts(_grey(9, 9), ["a"], [1, 2])

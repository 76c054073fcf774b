import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lumen.errors import DataError
from lumen.ops.geometry import InputTransform
from lumen.ops.masks import (
    codes_to_input,
    decode_masks,
    encode_masks,
    maps_to_original,
    mask_area,
    mask_boxes,
    masks_to_input,
    masks_to_original,
    merge_masks,
    segmentation_to_rle,
)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 1000), size=st.tuples(st.integers(1, 9), st.integers(1, 9)), number=st.integers(0, 3))
def test_masks_come_back_from_run_lengths(seed, size, number):
    masks = torch.rand(number, *size, generator=torch.Generator().manual_seed(seed)) > 0.5
    assert torch.equal(decode_masks(encode_masks(masks), size), masks)


def test_polygons_and_counts_become_run_lengths():
    square = segmentation_to_rle([[1, 1, 3, 1, 3, 3, 1, 3]], (4, 4))
    assert decode_masks([square], (4, 4)).sum() == 4
    assert segmentation_to_rle(square, (4, 4)) == square
    listed = segmentation_to_rle({"size": [2, 2], "counts": [1, 2, 1]}, (2, 2))
    assert decode_masks([listed], (2, 2))[0].tolist() == [[False, True], [True, False]]


@pytest.mark.parametrize(
    "segmentation",
    [
        None,
        3,
        {"counts": "11"},
        [[1, 2]],
        [[1, 2, 3, 4, 5, float("nan")]],
        [[0, 0, 1e9, 0, 1e9, 1e9]],
        [[0, 0, "a", 0, 1, 1]],
        {"size": [9, 9], "counts": [81]},
        {"size": [4, 4], "counts": [5, 5]},
        {"size": [4, 4], "counts": [20, -4]},
        {"size": [4, 4], "counts": []},
        {"counts": [16]},
        {"size": [4, 4], "counts": ""},
        {"size": [4, 4], "counts": "zz"},
        {"size": [4, 4], "counts": "oooooooooo0"},
        {"size": [4, 4], "counts": "\x00"},
    ],
)
def test_a_broken_segmentation_is_an_error(segmentation):
    with pytest.raises(DataError, match="segmentation"):
        segmentation_to_rle(segmentation, (4, 4))


@settings(max_examples=200, deadline=None)
@given(st.text(st.characters(min_codepoint=40, max_codepoint=120), max_size=12))
def test_any_counts_give_a_mask_or_an_error(counts):
    try:
        mask = decode_masks([{"size": [3, 5], "counts": counts}], (3, 5))
    except DataError:
        return
    assert torch.equal(decode_masks(encode_masks(mask), (3, 5)), mask)


def test_a_mask_of_another_size_is_an_error():
    with pytest.raises(DataError, match="size"):
        decode_masks(encode_masks(torch.ones(1, 2, 2, dtype=torch.bool)), (2, 3))


@pytest.mark.parametrize("mirror", [False, True])
def test_a_mask_lands_where_its_image_lands_and_comes_back(mirror):
    frame = InputTransform.letterbox((4, 8), (8, 8))
    frame = frame.flip_horizontal() if mirror else frame
    mask = torch.zeros(1, 4, 8, dtype=torch.bool)
    mask[0, :2, :3] = True
    there = masks_to_input(mask, frame)
    expected = torch.zeros(8, 8, dtype=torch.bool)
    expected[:2, 5:] = True
    assert torch.equal(there[0], expected if mirror else expected.flip(1))
    back = masks_to_original(there.float(), frame)
    assert torch.equal(decode_masks(back, (4, 8)), mask)


def test_a_coarse_map_covers_the_whole_input():
    frame = InputTransform.stretch((8, 8), (16, 16))
    read = maps_to_original(torch.tensor([[[0.0, 1.0]]]), frame)
    assert read.shape == (1, 8, 8)
    assert read[0, :, 0].eq(0).all() and read[0, :, 7].eq(1).all()


def test_no_masks_stay_no_masks():
    frame = InputTransform.stretch((8, 8), (16, 16))
    assert encode_masks(torch.zeros(0, 8, 8, dtype=torch.bool)) == []
    assert decode_masks([], (8, 8)).shape == (0, 8, 8)
    assert masks_to_original(torch.zeros(0, 4, 4), frame) == []
    assert masks_to_input(torch.zeros(0, 8, 8, dtype=torch.bool), frame).shape == (0, 16, 16)


def test_codes_are_joined_and_cut_without_decoding():
    masks = torch.zeros(2, 4, 6, dtype=torch.bool)
    masks[0, :2, :4] = True
    masks[1, 1:, 3:] = True
    codes = encode_masks(masks)
    assert decode_masks([merge_masks(codes)], (4, 6))[0].equal(masks.any(0))
    assert decode_masks([merge_masks(codes, intersect=True)], (4, 6))[0].equal(masks.all(0))
    assert [mask_area(code) for code in codes] == [8, 9]
    assert merge_masks(codes[:1]) == codes[0]


def test_a_mask_has_a_tightest_box():
    masks = torch.zeros(2, 6, 8, dtype=torch.bool)
    masks[0, 2:4, 3:7] = True
    assert mask_boxes(encode_masks(masks)).tolist() == [[3, 2, 7, 4], [0, 0, 0, 0]]
    assert mask_boxes([]).shape == (0, 4)


def test_codes_are_read_a_few_at_a_time(monkeypatch):
    masks = torch.rand(5, 8, 6, generator=torch.Generator().manual_seed(0)) > 0.5
    frame = InputTransform.letterbox((8, 6), (16, 16))
    whole = codes_to_input(encode_masks(masks), frame)
    monkeypatch.setattr("lumen.ops.masks._NUMBERS_AT_ONCE", 2 * 8 * 6)
    assert torch.equal(codes_to_input(encode_masks(masks), frame), whole)
    assert torch.equal(whole, masks_to_input(masks, frame))
    assert codes_to_input([], frame).shape == (0, 16, 16)

import json
import math
from urllib.parse import parse_qs, urlsplit
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from mmengine.structures import InstanceData

from lumen.errors import DataError
from lumen.interop.brush import pack_mask, unpack_mask
from lumen.interop.label_studio import labelling_config, make_task
from lumen.interop.label_studio_export import NOT_ANNOTATED, to_coco
from lumen.ops.masks import decode_masks, encode_masks

SIZE = (50, 80)


def answer(masks=None):
    table = InstanceData(
        bboxes=torch.tensor([[8.0, 5.0, 48.0, 30.0], [0.0, 0.0, 80.0, 50.0]]),
        scores=torch.tensor([0.75, 0.25]),
        labels=torch.tensor([1, 0]),
    )
    table.phrases = ["red ring", "star"]
    if masks is not None:
        table.masks = encode_masks(masks)
    return table


def annotated(regions, **fields):
    """Return a task whose annotation holds regions."""
    return {"id": 7, "data": {"image": "/data/upload/1/a.jpg"}, "annotations": [{"result": regions, **fields}]}


def region(kind, value, labels=("star",)):
    shape = {"original_height": 50, "original_width": 80, "image_rotation": 0}
    return {"type": kind, **shape, "value": {**value, kind: list(labels)}}


def box(x=10, y=20, width=50, height=40, **more):
    return region("rectanglelabels", {"x": x, "y": y, "width": width, "height": height, **more})


# ---- brush masks


def test_a_mask_becomes_the_bits_of_the_format():
    # 2 x 1 pixels of 4 channels: 8 values; words of 8 bits; lengths of 3, 4, 8, 16 bits; two runs of 4 values.
    head = f"{8:032b}" + "00111" + "0010" + "0011" + "0111" + "1111"
    runs = "1" + "00" + "011" + "00000000" + "1" + "00" + "011" + "11111111"
    bits = head + runs
    bits += "0" * (-len(bits) % 8)
    expected = [int(bits[at : at + 8], 2) for at in range(0, len(bits), 8)]
    assert pack_mask(np.array([[False], [True]])) == expected
    assert unpack_mask(expected, (2, 1)).tolist() == [[False], [True]]


def test_single_values_are_read_as_a_browser_writes_them():
    # One chunk of four values that differ: the fourth, alpha, is what counts.
    bits = f"{4:032b}" + "00111" + "0010" + "0011" + "0111" + "1111" + "0" + "00" + "011"
    bits += f"{1:08b}{2:08b}{3:08b}{9:08b}"
    bits += "0" * (-len(bits) % 8)
    packed = [int(bits[at : at + 8], 2) for at in range(0, len(bits), 8)]
    assert unpack_mask(packed, (1, 1)).tolist() == [[True]]


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 40), st.integers(1, 40), st.floats(0, 1), st.integers(0, 9))
def test_masks_come_back_as_they_were(height, width, share, seed):
    mask = np.random.default_rng(seed).random((height, width)) < share
    np.testing.assert_array_equal(unpack_mask(pack_mask(mask), (height, width)), mask)


def test_a_run_of_any_length_comes_back():
    for size in ((1, 2), (1, 4), (1, 64), (128, 128), (128, 129), (200, 200)):  # 8, 16, 256 and 65536 values, and more
        mask = np.ones(size, dtype=bool)
        np.testing.assert_array_equal(unpack_mask(pack_mask(mask), size), mask)


def test_a_broken_mask_is_an_error():
    packed = pack_mask(np.ones((4, 4), dtype=bool))
    for broken in (packed[:6], packed[:-2], [999], []):
        with pytest.raises(DataError, match="a brush mask cannot be read"):
            unpack_mask(broken, (4, 4))
    with pytest.raises(DataError, match="64 values instead of 256"):
        unpack_mask(packed, (8, 8))


# ---- there and back


@pytest.mark.parametrize("has_masks", [False, True])
def test_what_is_sent_and_confirmed_comes_back(has_masks):
    masks = torch.zeros(2, *SIZE, dtype=torch.bool)
    masks[0, 5:30, 8:48], masks[1, ::3] = True, True
    table = answer(masks if has_masks else None)
    task = json.loads(json.dumps(make_task("sub/a b.jpg", "photos", SIZE, table, "lumen 1")))
    address = urlsplit(task["data"]["image"])
    assert address.path == "/data/local-files/" and parse_qs(address.query) == {"d": ["photos/sub/a b.jpg"]}
    assert task["predictions"][0]["score"] == 0.5
    config = ElementTree.fromstring(labelling_config(["star", "red ring"], has_masks=has_masks))
    known = {tag.get("name"): {each.get("value") for each in tag} for tag in config if tag.get("toName") == "image"}
    for each in task["predictions"][0]["result"]:
        assert set(each["value"][each["type"]]) <= known[each["from_name"]]
    task["annotations"] = [{"result": task["predictions"][0]["result"], "was_cancelled": False}]
    content, left_out = to_coco([task], ["star", "red ring"])
    assert not +left_out
    assert content["images"] == [{"id": 1, "file_name": "sub/a b.jpg", "height": 50, "width": 80}]
    assert [each["category_id"] for each in content["annotations"]] == [2, 1]
    found = [each["bbox"] for each in content["annotations"]]
    assert found == [[8, 5, 40, 25], [0, 0, 80, 49]] if has_masks else [[8, 5, 40, 25], [0, 0, 80, 50]]
    if has_masks:
        codes = [each["segmentation"] for each in content["annotations"]]
        assert torch.equal(decode_masks(codes, SIZE), masks)
        assert content["annotations"][0]["area"] == 25 * 40


def test_shapes_become_objects():
    # A rectangle of 40 x 20 pixels, turned by 90 degrees around its first corner (24, 20): it then lies left of it.
    turned = box(30, 40, 50, 40, rotation=90)
    triangle = region("polygonlabels", {"points": [[0, 0], [50, 0], [0, 80]]}, labels=["ring", "star"])
    content, left_out = to_coco([annotated([box(), turned, triangle])])
    assert content["categories"] == [{"id": 1, "name": "ring"}, {"id": 2, "name": "star"}]
    boxes = [(each["category_id"], each["bbox"]) for each in content["annotations"]]
    assert boxes == [(2, [8, 10, 40, 20]), (2, [4, 20, 20, 30]), (1, [0, 0, 40, 40]), (2, [0, 0, 40, 40])]
    assert content["annotations"][2]["segmentation"] == [[0, 0, 40, 0, 0, 40]]
    assert content["images"][0]["file_name"] == "a.jpg" and not +left_out


def test_the_annotation_that_counts_is_chosen():
    first, second = ({"result": [box(x=x)], "created_at": f"2026-01-0{x}"} for x in (1, 2))

    def left(*annotations):
        content, left_out = to_coco([{"data": {"file": "a.jpg"}, "annotations": list(annotations)}])
        return [each["bbox"][0] for each in content["annotations"]], dict(+left_out)

    assert left(second, first) == ([1.6], {}), "the newest"
    assert left(second, first | {"ground_truth": True}) == ([0.8], {})
    assert left(second | {"was_cancelled": True}, first) == ([0.8], {})
    assert left(second | {"was_cancelled": True}) == ([], {NOT_ANNOTATED: 1})
    assert left() == ([], {NOT_ANNOTATED: 1})


def test_what_is_no_object_is_counted():
    regions = [box(width=0), box(x=120), region("keypointlabels", {"x": 1, "y": 2}), {"type": "choices", "value": {}}]
    regions += [region("polygonlabels", {"points": [[0, 0], [9, 9]]}), region("rectanglelabels", box()["value"], ())]
    content, left_out = to_coco([annotated(regions)], ["star"])
    assert content["annotations"] == [] and len(content["images"]) == 1
    assert dict(+left_out) == {
        "regions without area": 3,
        "regions of type keypointlabels": 1,
        "regions of type choices": 1,
        "regions without a label": 1,
    }


def test_a_picture_without_objects_needs_a_size():
    task = annotated([])
    with pytest.raises(DataError, match=r"a\.jpg has no region, and so no size: .* --images"):
        to_coco([task])
    content, _ = to_coco([task], read_size=lambda name: (50, 80))
    assert content["images"] == [{"id": 1, "file_name": "a.jpg", "height": 50, "width": 80}]
    assert to_coco([]) == ({"images": [], "annotations": [], "categories": []}, {})


@pytest.mark.parametrize(
    ("tasks", "message"),
    [
        ({"images": []}, "expected a list of tasks"),
        ([{"image": "a.jpg", "label": []}], "choose JSON as the export format"),
        ([annotated([box()]) | {"data": {"text": "no image"}}], "task 7 names no image file"),
        ([annotated([region("rectanglelabels", {"x": "left"})])], "task 7 cannot be read"),
        ([annotated([box(x=math.nan)])], "not finite"),
        ([annotated([box(rotation=math.nan)])], "not finite"),
        (
            [annotated([box(), box() | {"value": {**box()["value"], "rectanglelabels": "star"}}])],
            "labels are a list of texts",
        ),
        ([annotated([region("rectanglelabels", box()["value"], [None, "star"])])], "labels are a list of texts"),
        ([annotated([box() | {"original_height": -1}])], "whole sides above 0"),
        ([annotated([box() | {"original_width": math.nan}])], "task 7 cannot be read"),
        ([annotated([box()]) | {"data": {"file": "a\n.png"}}], "an image has a name"),
        ([annotated([region("brushlabels", {"rle": [1, 2]})])], "a brush mask cannot be read"),
        ([annotated([box()])], "labels \\['star'\\], which are none of the categories \\['ring'\\]"),
    ],
)
def test_what_cannot_be_read_is_an_error(tasks, message):
    with pytest.raises(DataError, match=message):
        to_coco(tasks, ["ring"])


def test_a_category_is_named_once():
    with pytest.raises(DataError, match="name each category once"):
        to_coco([annotated([box()])], ["star", "star"])

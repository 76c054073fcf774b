"""Large pictures tile by tile: which tiles there are, how their answers are joined, and what small shapes gain."""

import json
from contextlib import nullcontext
from itertools import pairwise

import numpy as np
import pytest
import torch
from mmengine.structures import InstanceData
from PIL import Image
from typer.testing import CliRunner

from lumen import cli
from lumen.data.shapes import draw_scene
from lumen.decoders.counting import CountingDecoder
from lumen.decoders.detection import DetectionDecoder
from lumen.decoders.grounding import GroundingDecoder
from lumen.decoders.segmentation import SegmentationDecoder
from lumen.decoders.semantic_segmentation import SemanticSegmentationDecoder
from lumen.errors import ConfigError, PromptError
from lumen.inference.bare import bare_predictor
from lumen.inference.predictor import LumenPredictor
from lumen.inference.reports import Request
from lumen.inference.tiled import join_views, require_tileable
from lumen.inference.tiles import Tiles
from lumen.ops.geometry import box_iou
from lumen.ops.masks import decode_masks, encode_masks, mask_boxes

PHRASES = ["star", "ring", "square"]
SIDE = 160


@pytest.fixture(scope="module")
def nano():
    """Return the packaged nano, which reads pictures of 160 x 160."""
    return bare_predictor("nano")


@pytest.fixture(scope="module")
def mosaic():
    """Return nine scenes of shapes in one picture of 480 x 480, and the boxes of each phrase."""
    picture, boxes = np.zeros((3 * SIDE, 3 * SIDE, 3), dtype=np.uint8), {phrase: [] for phrase in PHRASES}
    for number in range(9):
        top, left = SIDE * (number // 3), SIDE * (number % 3)
        scene, objects = draw_scene(0, "val", number)
        picture[top : top + SIDE, left : left + SIDE] = scene
        for item in objects:
            if item.category in boxes:
                box = mask_boxes(encode_masks(torch.from_numpy(item.mask)[None]))[0]
                boxes[item.category].append(box + torch.tensor([left, top, left, top]))
    return picture, {phrase: torch.stack(some) for phrase, some in boxes.items()}


def rows(boxes, scores=None, labels=None, masks=None):
    table = InstanceData(
        bboxes=torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
        scores=torch.tensor(scores or [0.5] * len(boxes)),
        labels=torch.tensor(labels or [0] * len(boxes), dtype=torch.long),
    )
    table.phrases = [("star", "ring")[label] for label in table.labels.tolist()]
    if masks is not None:
        table.masks = masks
    return table


# A picture of 100 x 180 in two tiles of 100 x 100, which share the columns 80 to 100.
WHOLE, LEFT, RIGHT = VIEWS = [(0, 0, 180, 100), (0, 0, 100, 100), (80, 0, 180, 100)]


def joined(*tables):
    return join_views(tables, VIEWS, (100, 180))


def test_tiles_cover_a_picture_evenly_and_overlap_enough():
    assert Tiles(100).boxes((100, 180)) == [LEFT, RIGHT]
    assert Tiles(100).boxes((60, 100)) == [(0, 0, 100, 60)], "not larger than a tile"
    assert Tiles(100, 0.0).boxes((200, 100)) == [(0, 0, 100, 100), (0, 100, 100, 200)]
    boxes = Tiles(64, 0.3).boxes((150, 333))
    assert {(x2 - x1, y2 - y1) for x1, y1, x2, y2 in boxes} == {(64, 64)}
    starts = sorted({box[0] for box in boxes})
    assert starts[0] == 0 and starts[-1] + 64 == 333
    assert max(b - a for a, b in pairwise(starts)) <= 64 - Tiles(64, 0.3).shared


def test_an_object_that_two_tiles_show_whole_is_one_row():
    table = joined(rows([]), rows([[82, 10, 96, 30]], [0.6]), rows([[83, 10, 97, 30]], [0.8]))
    assert table.bboxes.tolist() == [[83, 10, 97, 30]]
    assert table.scores.tolist() == [pytest.approx(0.8)]


def test_a_part_gives_way_to_the_whole_object_even_with_a_better_score():
    table = joined(rows([]), rows([[85, 10, 100, 30]], [0.9]), rows([[85, 10, 130, 30]], [0.4]))
    assert table.bboxes.tolist() == [[85, 10, 130, 30]], "whole in the right tile"
    parts = rows([[70, 10, 100, 30]], [0.9]), rows([[80, 10, 115, 30]], [0.8])
    table = joined(rows([[70, 10, 115, 30]], [0.4]), *parts)
    assert table.bboxes.tolist() == [[70, 10, 115, 30]], "whole in the whole picture alone"
    assert table.scores.tolist() == [pytest.approx(0.4)]


def test_parts_that_no_view_shows_whole_are_joined():
    masks = [torch.zeros(1, 100, 180, dtype=torch.bool) for _ in range(2)]
    masks[0][:, 10:30, 40:100], masks[1][:, 10:30, 80:150] = True, True
    left = rows([[40, 10, 100, 30]], [0.6], masks=encode_masks(masks[0]))
    right = rows([[80, 10, 150, 30]], [0.7], masks=encode_masks(masks[1]))
    table = joined(rows([], masks=[]), left, right)
    assert table.bboxes.tolist() == [[40, 10, 150, 30]]
    assert table.scores.tolist() == [pytest.approx(0.7)]
    assert torch.equal(decode_masks(table.masks, (100, 180)), masks[0] | masks[1])


def test_other_objects_stay_apart():
    # Of another name; beside each other; of one view; parts that do not agree in the shared columns.
    names = joined(rows([]), rows([[82, 10, 96, 30]], labels=[0]), rows([[82, 10, 96, 30]], labels=[1]))
    assert len(names) == 2 and sorted(names.phrases) == ["ring", "star"]
    assert len(joined(rows([]), rows([[60, 10, 84, 30]]), rows([[86, 10, 99, 30]]))) == 2
    assert len(joined(rows([]), rows([[10, 10, 30, 30], [11, 10, 31, 30]]), rows([]))) == 2
    assert len(joined(rows([]), rows([[60, 10, 100, 30]]), rows([[80, 40, 120, 60]]))) == 2
    assert len(joined(rows([]), rows([]), rows([]))) == 0


def test_small_shapes_are_found_in_tiles(nano, mosaic):
    picture, truth = mosaic
    nano.set_image(picture)

    def num_found(tiles):
        table = nano.predict(PHRASES, task="written_boxes", tiles=tiles)
        assert torch.equal(table.scores, table.scores.sort(descending=True).values)
        assert [PHRASES[label] for label in table.labels.tolist()] == table.phrases
        found = [box_iou(boxes, table.bboxes[table.labels == PHRASES.index(phrase)]) for phrase, boxes in truth.items()]
        return sum(int((overlaps > 0.5).any(1).sum()) for overlaps in found)

    assert num_found(None) == 0 and num_found(Tiles(SIDE, 0.25)) >= 5


def test_a_picture_that_is_not_larger_than_a_tile_is_asked_as_without(nano, mosaic):
    nano.set_image(mosaic[0][:SIDE, :SIDE])
    plain, tiled = (nano.predict(PHRASES, task="written_boxes", tiles=tiles) for tiles in (None, SIDE))
    assert set(plain.keys()) == set(tiled.keys()) and len(plain) > 0 and plain.phrases == tiled.phrases
    assert all(torch.equal(plain[key], tiled[key]) for key in ("bboxes", "scores", "labels"))


def test_the_command_asks_tile_by_tile(mosaic, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Image.fromarray(mosaic[0][: SIDE + 60, :SIDE]).save("big.png")
    words = ["predict", "big.png", "star", "--lmm", "nano", "--tiles", str(SIDE)]
    done = CliRunner().invoke(cli.app, [*words, "--overlap", "0.1"], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    report = json.loads((tmp_path / "out" / "big.json").read_text())
    assert report["tiles"] == {"side": SIDE, "overlap": 0.1}
    with pytest.raises(ConfigError, match="leave --heatmaps or --tiles out"):
        CliRunner().invoke(cli.app, [*words, "--heatmaps"], catch_exceptions=False)
    with pytest.raises(ConfigError, match="--overlap belongs to --tiles"):
        CliRunner().invoke(cli.app, [*words[:5], "--overlap", "0.1"], catch_exceptions=False)
    with pytest.raises(ConfigError, match="got task 'pose'"):
        Request(("star",), "pose", None, ("top tip",), tiles=Tiles(SIDE))


@pytest.mark.parametrize(
    ("kind", "is_fine"),
    [
        (DetectionDecoder, True),
        (SegmentationDecoder, True),
        (CountingDecoder, False),
        (GroundingDecoder, False),
        (SemanticSegmentationDecoder, False),
    ],
)
def test_tiles_are_for_objects_alone(kind, is_fine):
    with nullcontext() if is_fine else pytest.raises(PromptError, match="cannot be asked tile by tile"):
        require_tileable(kind.spec)


def test_numbers_that_make_no_tiles_are_refused(tiny_lumen):
    predictor = LumenPredictor(tiny_lumen, input_hw=(64, 64))
    predictor.set_image(np.zeros((90, 120, 3), dtype=np.uint8))
    assert set(predictor.predict(["star"], tiles=64, score_threshold=0).keys()) == {
        "bboxes", "scores", "labels", "peak_scores", "phrases"
    }  # fmt: skip
    for tiles in (8, True):
        with pytest.raises(ConfigError, match="whole number of at least 16"):
            predictor.predict(["star"], tiles=tiles)
    for overlap in (0.9, -0.1, float("nan")):
        with pytest.raises(ConfigError, match="overlap of tiles"):
            Tiles(64, overlap)

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.structures import InstanceData
from PIL import Image

from lumen.aligners.dense import DenseAligner
from lumen.decoders.counting import CountingDecoder
from lumen.decoders.detection import DetectionDecoder
from lumen.decoders.pose import PoseDecoder
from lumen.decoders.segmentation import SegmentationDecoder
from lumen.decoders.semantic_segmentation import SemanticSegmentationDecoder
from lumen.decoders.text import CaptionDecoder, VqaDecoder
from lumen.errors import ConfigError
from lumen.inference.predictor import LumenPredictor
from lumen.inference.reports import Output, Request, describe_answer, predict_files, slug, unique_stems, write_json
from lumen.lmm.adapter import HFAdapter
from lumen.model import Lumen
from lumen.ops.masks import decode_masks

DECODERS = (
    *(DetectionDecoder, SegmentationDecoder, SemanticSegmentationDecoder, CountingDecoder, PoseDecoder),
    *(VqaDecoder, CaptionDecoder),
)
COMMON = {"image", "height", "width", "task", "phrases", "labels", "model"}


@pytest.fixture(scope="module")
def predictor(tiny_nano):
    torch.manual_seed(0)
    adapter = HFAdapter(str(tiny_nano), base={"attention": "eager"}, generation={"max_new_tokens": 4})
    aligner = {"type": DenseAligner, "channels": 32, "num_heads": 4, "mlp_channels": 64}
    return LumenPredictor(Lumen(adapter, aligner, [{"type": kind} for kind in DECODERS]), input_hw=(64, 64))


@pytest.fixture
def images(tmp_path):
    rng = np.random.default_rng(0)
    for name in ("a.png", "b.png"):
        Image.fromarray(rng.integers(0, 256, (40, 60, 3), dtype=np.uint8)).save(tmp_path / name)
    return [tmp_path / "a.png", tmp_path / "b.png"]


def answer(predictor, path, request, **output):
    folder = path.parent / "out"
    assert predict_files(predictor, [path], request, Output(folder, **output)) == 0
    return json.loads((folder / "a.json").read_text()), sorted(file.name for file in folder.iterdir())


def test_boxes_give_pictures_and_json(predictor, images, capsys):
    report, names = answer(predictor, images[0], Request(("star", "red ring"), threshold=0.0), heatmaps=True)
    assert names == ["a.json", "a.png", "a_heat_1_star.png", "a_heat_2_red-ring.png"]
    assert set(report) == COMMON | {"bboxes_xyxy", "scores", "peak_scores"}
    assert (report["height"], report["width"], report["task"]) == (40, 60, "detection")
    assert report["phrases"] == ["star", "red ring"]
    assert len(report["bboxes_xyxy"]) == len(report["scores"]) == len(report["labels"]) > 0
    assert set(report["labels"]) <= {0, 1}
    assert max(box[2] for box in report["bboxes_xyxy"]) <= 60
    assert report["model"]["tasks"].startswith("detection")
    assert "found" in capsys.readouterr().out


@pytest.mark.parametrize("task", ["segmentation", "semantic_segmentation"])
def test_masks_are_written_as_run_lengths(predictor, images, task):
    request = Request(("star", "red ring"), task, threshold=0.0)
    report, names = answer(predictor, images[0], request, heatmaps=False)
    assert names == ["a.json", "a.png"]
    assert decode_masks(report["masks"], (40, 60)).shape == (len(report["labels"]), 40, 60)
    assert ("bboxes_xyxy" in report) == (task == "segmentation")


def test_poses_name_their_keypoints(predictor, images):
    request = Request(("star",), "pose", 0.0, ("top tip", "left tip"), ((0, 1),))
    report, names = answer(predictor, images[0], request)
    assert names == ["a.json", "a.png"]
    further = {"keypoints", "keypoint_scores", "scores", "bboxes_xyxy", "box_scores", "keypoint_names", "bones"}
    assert set(report) == COMMON | further
    assert (report["keypoint_names"], report["bones"]) == (["top tip", "left tip"], [[0, 1]])
    assert np.array(report["keypoints"]).shape == (len(report["labels"]), 2, 2)


def test_counts_are_written_and_said(predictor, images, capsys):
    report, names = answer(predictor, images[0], Request(("star", "ring"), "counting"), heatmaps=False)
    assert names == ["a.json", "a.png"]
    assert set(report) == COMMON | {"counts", "scores"}
    said = f"{report['counts'][0]:g} star, {report['counts'][1]:g} ring"
    assert said in capsys.readouterr().out


@pytest.mark.parametrize(("task", "phrase"), [("vqa", "is it red?"), ("caption", "")])
def test_answers_in_words_have_no_pictures(predictor, images, task, phrase):
    report, names = answer(predictor, images[0], Request((phrase,), task))
    assert names == ["a.json"]
    assert set(report) == COMMON | {"texts"}
    assert len(report["texts"]) == 1 and isinstance(report["texts"][0], str)


def test_one_json_holds_all_images(predictor, images, capsys):
    file, folder = images[0].parent / "deep" / "all.json", images[0].parent / "out"
    output = Output(folder, json=file, pictures=False, heatmaps=False)
    assert predict_files(predictor, images, Request(("star",), threshold=0.0), output) == 0
    assert list(folder.iterdir()) == []
    content = json.loads(file.read_text())
    assert [report["image"] for report in content["images"]] == [str(path) for path in images]
    assert all(set(report) == (COMMON - {"model"}) | {"bboxes_xyxy", "scores", "peak_scores"}
               for report in content["images"])  # fmt: skip
    assert content["model"]["tasks"].startswith("detection")
    assert capsys.readouterr().err == "", "no bar without a terminal"


def test_an_unreadable_file_is_reported_and_passed_over(predictor, images, capsys):
    broken = images[0].parent / "broken.png"
    broken.write_bytes(b"not an image")
    folder = images[0].parent / "out"
    output = Output(folder, heatmaps=False)
    assert predict_files(predictor, [broken, images[0]], Request(("star",)), output) == 1
    assert capsys.readouterr().err.startswith("error: ")
    assert sorted(path.name for path in folder.iterdir()) == ["a.json", "a.png"]


def test_numbers_are_rounded_and_lists_stay_as_they_are():
    masks = [{"size": [4, 6], "counts": "abc"}]
    table = InstanceData(
        bboxes=torch.tensor([[0.12345, 1.0, 2.0, 3.0]]),
        scores=torch.tensor([0.1234567]),
        labels=torch.tensor([1]),
        masks=masks,
        phrases=["b"],
    )
    report = describe_answer(Path("x.png"), (4, 6), Request(("a", "b"), "segmentation"), table)
    assert report["bboxes_xyxy"] == [[0.123, 1.0, 2.0, 3.0]]
    assert report["scores"] == [0.12346]
    assert report["labels"] == [1]
    assert report["masks"] == masks
    assert report["phrases"] == ["a", "b"]


@pytest.mark.parametrize("content", [{}, {"a": 1, "b": []}, {"a": [{"x": 1}, {"x": [2]}], "b": {"c": "d"}}])
def test_written_json_is_read_back(tmp_path, content):
    write_json(tmp_path / "a.json", content)
    assert json.loads((tmp_path / "a.json").read_text()) == content


def test_a_request_that_makes_no_sense_is_explained():
    with pytest.raises(ConfigError, match="at least one phrase"):
        Request(())
    with pytest.raises(ConfigError, match="keypoints belong to task pose"):
        Request(("star",), "detection", None, ("tip",))
    with pytest.raises(ConfigError, match="one category and its keypoints"):
        Request(("star", "ring"), "pose", None, ("tip",))


def test_equal_names_do_not_overwrite_each_other():
    paths = [Path("x/a.png"), Path("y/a.png"), Path("a-2.jpg"), Path("b.png")]
    assert unique_stems(paths) == ["a", "a-2", "a-2-2", "b"]


@pytest.mark.parametrize(
    ("phrase", "expected"),
    [("Red Ring", "red-ring"), ("a/../b", "a-b"), ("\u661f", "phrase"), ("x" * 99, "x" * 40), ("a'b", "a-b")],
)
def test_a_phrase_becomes_part_of_a_file_name(phrase, expected):
    assert slug(phrase) == expected

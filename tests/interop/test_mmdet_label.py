"""``lumen label --teacher``: a detector of mmdet labels a folder."""

import json

import numpy as np
import pytest
from mmdet_tiny import make_tiny_detector
from pages import run
from PIL import Image

from lumen.errors import ConfigError
from lumen.inference.sources import DetectorFiles, open_model
from lumen.interop.mmdet.detector import MMDetDetector

pytest.importorskip("mmdet")
pytestmark = pytest.mark.filterwarnings("ignore::ImportWarning", "ignore::DeprecationWarning", "ignore:torch.meshgrid")


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    return make_tiny_detector(tmp_path_factory.mktemp("detector"))


@pytest.fixture
def photos(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    rng = np.random.default_rng(0)
    for number in range(3):
        pixels = rng.integers(0, 256, (40, 50 + 10 * (number % 2), 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "photos" / f"{number}.png")
    return tmp_path / "photos"


def test_labels_are_the_answers_of_the_detector(files, photos, tmp_path, monkeypatch, capsys):
    words = ["lumen", "label", "photos", "ring", "person", "--out", "labels", "--threshold", "0", "--device", "cpu"]
    assert run([*words, "--teacher", *map(str, files)], monkeypatch) == 0, capsys.readouterr().err
    content = json.loads((tmp_path / "labels/coco.json").read_text())
    assert content["categories"] == [{"id": 1, "name": "ring"}, {"id": 2, "name": "person"}]
    detector = MMDetDetector.from_files(*files, device="cpu")
    for image in content["images"]:
        expected = detector.predict(photos / image["file_name"], ["ring", "person"], score_threshold=0.0)
        found = [entry for entry in content["annotations"] if entry["image_id"] == image["id"]]
        assert [entry["category_id"] for entry in found] == (expected.labels + 1).tolist()
        boxes = np.array([entry["bbox"] for entry in found])
        boxes[:, 2:] += boxes[:, :2]
        np.testing.assert_allclose(boxes, expected.bboxes, atol=0.02)
    assert content["annotations"]


@pytest.mark.parametrize(
    ("further", "message"),
    [
        (["--lmm", "nano"], "give --teacher alone"),
        (["--dialect", "decimals"], "belong to --lmm"),
        (["--threshold", "nan"], "must be a finite number"),
        (["--task", "counting"], "answers task detection"),
        (["--dtype", "bfloat16"], "computes in float32"),
    ],
)
def test_what_does_not_go_with_a_teacher_is_refused(files, photos, further, message, monkeypatch, capsys):
    words = ["lumen", "label", "photos", "ring", "--out", "labels", "--device", "cpu", "--teacher", *map(str, files)]
    assert run([*words, *further], monkeypatch) == 2
    assert message in capsys.readouterr().err


def test_other_names_are_refused_before_anything_is_labelled(files, photos, tmp_path, monkeypatch, capsys):
    words = ["lumen", "label", "photos", "dog", "--out", "labels", "--device", "cpu", "--teacher", *map(str, files)]
    assert run(words, monkeypatch) == 2
    assert "a detector knows its own classes alone" in capsys.readouterr().err
    assert not list((tmp_path / "labels").glob("parts/*.jsonl"))


def test_a_detector_is_opened_like_a_model(files):
    assert isinstance(open_model(DetectorFiles(*files), "cpu"), MMDetDetector)
    with pytest.raises(ConfigError, match="float32"):
        open_model(DetectorFiles(*files), "cpu", "bfloat16")

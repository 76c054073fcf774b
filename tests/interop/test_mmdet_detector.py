"""Detectors of mmdet, tiny and with random weights: answers, boxes for poses, and what is refused."""

import json

import numpy as np
import pytest
import torch
from mmdet_layouts import annotation, coco, picture, write
from mmdet_tiny import CLASSES, make_tiny_detector
from mmengine.registry import DefaultScope

from lumen.data.keypoints import CocoKeypointsDataset
from lumen.errors import CheckpointError, ConfigError, PromptError
from lumen.interop.mmdet.detector import MMDetDetector, write_detections

pytest.importorskip("mmdet")
pytestmark = pytest.mark.filterwarnings("ignore::ImportWarning", "ignore::DeprecationWarning", "ignore:torch.meshgrid")


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    return make_tiny_detector(tmp_path_factory.mktemp("detector"))


@pytest.fixture(scope="module")
def detector(files):
    return MMDetDetector.from_files(*files, device="cpu")


@pytest.fixture(scope="module")
def image():
    return np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)


def test_it_answers_names_of_its_classes(detector, image):
    table = detector.predict(image, score_threshold=0.0)
    assert len(table) > 1 and set(table.keys()) == {"bboxes", "scores", "labels", "phrases"}
    assert table.phrases == [CLASSES[label] for label in table.labels.tolist()]
    assert (table.scores[1:] <= table.scores[:-1]).all()
    assert table.bboxes.min() >= 0 and table.bboxes[:, 2].max() <= 60 and table.bboxes[:, 3].max() <= 40
    assert len(detector.predict(image)) == int((table.scores >= 0.3).sum())


def test_answers_are_those_of_mmdet(files, detector, image):
    from mmdet.apis import inference_detector

    detector.model.cfg = detector_config(files[0])
    with DefaultScope.overwrite_default_scope("mmdet"):
        found = inference_detector(detector.model, np.ascontiguousarray(image[..., ::-1])).pred_instances
    table = detector.predict(image, score_threshold=0.0)
    assert torch.equal(table.bboxes, found.bboxes) and torch.equal(table.scores, found.scores)


def detector_config(path):
    from mmengine import Config

    return Config.fromfile(path)


def test_labels_are_places_among_the_names(detector, image):
    whole = detector.predict(image, score_threshold=0.0)
    some = detector.predict(image, ["ring", "person"], score_threshold=0.0)
    assert len(some) == sum(name != "star" for name in whole.phrases)
    assert [("ring", "person")[label] for label in some.labels.tolist()] == some.phrases


def test_the_scope_of_names_stays(detector, image):
    with DefaultScope.overwrite_default_scope("lumen"):
        detector.predict(image)
        assert DefaultScope.get_current_instance().scope_name == "lumen"


def test_boxes_for_poses_are_written(detector, tmp_path):
    for name in ("1.jpg", "2.jpg"):
        picture(tmp_path / "images" / name)
    person = annotation(1, 1, 5, [4, 6, 20, 24], keypoints=[8, 9, 2], num_keypoints=1)
    content = coco(("person", "horse"), [person], ids=(5, 9))
    content["categories"][0] |= {"keypoints": ["nose"], "skeleton": []}
    write(tmp_path / "truth.json", content)
    out = tmp_path / "found.json"
    count = write_detections(detector, tmp_path / "truth.json", tmp_path / "images", out, score_threshold=0.0)
    rows = json.loads(out.read_text())
    assert count == len(rows) > 0 and {row["category_id"] for row in rows} == {5}
    data = CocoKeypointsDataset(
        ann_file=str(tmp_path / "truth.json"),
        data_prefix={"img": str(tmp_path / "images")},
        classes=["person"],
        detections=str(out),
        test_mode=True,
    )
    assert len(data) == count
    assert data.get_data_info(0)["box_score"] == rows[0]["score"]


def test_other_names_and_tasks_are_refused(detector, image, tmp_path):
    with pytest.raises(PromptError, match=r"it has no \['dog'\]"):
        detector.predict(image, ["star", "dog"])
    with pytest.raises(PromptError, match="each asked once"):
        detector.predict(image, ["star", "star"])
    with pytest.raises(ConfigError, match="answers task detection, got 'segmentation'"):
        detector.describe("segmentation")
    write(tmp_path / "truth.json", coco(("horse",), []))
    with pytest.raises(ConfigError, match="knows none of"):
        write_detections(detector, tmp_path / "truth.json", tmp_path, tmp_path / "out.json")


def test_checkpoints_that_cannot_be_used_are_refused(files, tmp_path):
    torch.save({"state_dict": {}, "meta": {"own": getattr}}, tmp_path / "code.pth")
    with pytest.raises(CheckpointError, match=r"cannot be read as data .*publish_model"):
        MMDetDetector.from_files(files[0], tmp_path / "code.pth")
    with pytest.raises(CheckpointError, match="FileNotFoundError"):
        MMDetDetector.from_files(files[0], tmp_path / "none.pth")
    torch.save({"state_dict": {"x": torch.zeros(1)}, "meta": {}}, tmp_path / "other.pth")
    with pytest.raises(CheckpointError, match="does not fit"):
        MMDetDetector.from_files(files[0], tmp_path / "other.pth")
    without = make_tiny_detector(tmp_path, meta={})
    with pytest.raises(CheckpointError, match="names no classes"):
        MMDetDetector.from_files(*without)


def test_configs_that_are_not_whole_are_refused(files, tmp_path):
    (tmp_path / "part.py").write_text("model = dict(type='RTMDet')\n")
    with pytest.raises(ConfigError, match=r"has no \['test_dataloader'\]"):
        MMDetDetector.from_files(tmp_path / "part.py", files[1])
    with pytest.raises(ConfigError, match="cannot be read as a config"):
        MMDetDetector.from_files(tmp_path / "none.py", files[1])

"""Labels for Label Studio and FiftyOne, and the way back to a file that Lumen trains on."""

import base64
import io
import json
import sys
import zlib

import numpy as np
import pytest

from lumen import cli
from lumen.data.check_other import check_data
from lumen.data.coco import CocoDataset
from lumen.inference.labelling.merge import merge_parts
from lumen.inference.labelling.run import Effort
from lumen.inference.labelling.start import ModelChoice, label_source
from lumen.inference.reports import Request
from lumen.inference.sources import ExportedModel
from lumen.ops.masks import decode_masks

NAMES = ("star", "red ring")
FORMATS = ["coco", "label-studio", "fiftyone"]


@pytest.fixture
def labelled(exported, photos, tmp_path):
    """Return a function that labels the photos by a task and returns the folder of the labels."""

    def run(task, source=photos, **options):
        out, choice = tmp_path / f"labels_{task}", ModelChoice(ExportedModel(exported), "cpu")
        request, effort = Request(NAMES, task, 0.0), Effort(batch_size=8, workers=1)
        label_source((source, options.get("images")), request, choice, out, formats=FORMATS, effort=effort)
        merge_parts(out, FORMATS)
        return out

    return run


@pytest.fixture
def lumen(monkeypatch, capsys):
    """Return a function that runs a command in this process and returns code, output and errors."""

    def run(*words):
        monkeypatch.setattr(sys, "argv", ["lumen", *map(str, words)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        return ended.value.code, *capsys.readouterr()

    return run


def read(path):
    return json.loads(path.read_text())


@pytest.mark.parametrize("task", ["detection", "segmentation"])
def test_labels_come_back_from_label_studio_to_be_trained_on(labelled, photos, lumen, tmp_path, task):
    out = labelled(task)
    tasks, coco = read(out / "label-studio" / "tasks.json"), read(out / "coco.json")
    assert [each["data"]["image"] for each in tasks][3] == "/data/local-files/?d=photos/sub/a.png"
    # A person confirms all pictures but the last, and deletes the first box of the first one.
    for number, each in enumerate(tasks[:-1]):
        regions = each.pop("predictions")[0]["result"]
        each["annotations"] = [{"id": number, "result": regions[1:] if number == 0 else regions}]
    (tmp_path / "export.json").write_text(json.dumps(tasks))
    code, output, error = lumen("convert", tmp_path / "export.json", *NAMES, "--out", tmp_path / "mine/train.json")
    assert code == 0, error
    found, expected = read(tmp_path / "mine" / "train.json"), coco["annotations"][1:]
    expected = [each for each in expected if each["image_id"] < 7 and each["area"] > 0]
    assert f"6 pictures, {len(expected)} objects" in output and "left out: 1 tasks without an annotation" in output
    assert found["categories"] == coco["categories"]
    assert [image["file_name"] for image in found["images"]] == [image["file_name"] for image in coco["images"]][:6]
    for ours, theirs in zip(found["annotations"], expected, strict=True):
        assert (ours["image_id"], ours["category_id"]) == (theirs["image_id"], theirs["category_id"])
        if task == "detection":
            np.testing.assert_allclose(ours["bbox"], theirs["bbox"], atol=2e-3)
        else:
            assert ours["segmentation"] == theirs["segmentation"] and ours["area"] == theirs["area"]
    assert check_data(tmp_path / "mine" / "train.json", photos) == {}
    dataset = CocoDataset(ann_file=str(tmp_path / "mine/train.json"), data_prefix={"img": str(photos)})
    assert len(dataset) == 6 and dataset.metainfo["classes"] == NAMES


def test_fiftyone_gets_boxes_scores_and_masks(labelled, photos):
    out = labelled("segmentation")
    coco, samples = read(out / "coco.json"), read(out / "fiftyone" / "samples.json")["samples"]
    metadata = read(out / "fiftyone" / "metadata.json")
    assert metadata["media_type"] == "image" and metadata["info"]["classes"] == list(NAMES)
    assert "version" not in metadata, "FiftyOne would take samples of its own data base"
    assert len(samples) == 7
    for image, sample in zip(coco["images"], samples, strict=True):
        assert (out / "fiftyone" / sample["filepath"]).resolve() == (photos / image["file_name"]).resolve()
        assert sample["metadata"] == {"_cls": "ImageMetadata", **{key: image[key] for key in ("width", "height")}}
        expected = [each for each in coco["annotations"] if each["image_id"] == image["id"] and each["area"] > 0]
        for entry, found in zip(expected, sample["predictions"]["detections"], strict=True):
            assert found["label"] == NAMES[entry["category_id"] - 1] and found["confidence"] == entry["score"]
            mask = decode_masks([entry["segmentation"]], (image["height"], image["width"]))[0].numpy()
            shares = np.array(found["bounding_box"]) * ([image["width"], image["height"]] * 2)
            x, y, width, height = shares.round().astype(int)
            content = zlib.decompress(base64.b64decode(found["mask"]["$binary"]["base64"]))
            cut = np.load(io.BytesIO(content), allow_pickle=False)
            assert cut.shape == (height, width) and cut.sum() == mask.sum() == entry["area"]
            np.testing.assert_array_equal(mask[y : y + height, x : x + width], cut)


def test_boxes_without_masks_and_a_list_as_source(labelled, photos):
    (photos / "list.txt").write_text("a.png\nsub/b.png\n")
    out = labelled("detection", photos / "list.txt")
    sample = read(out / "fiftyone" / "samples.json")["samples"][0]
    assert sample["filepath"] == "data/a.png" and not (out / "fiftyone" / "data").exists()
    assert "mask" not in sample["predictions"]["detections"][0]
    task = read(out / "label-studio" / "tasks.json")[1]
    assert task["data"]["image"] == "/data/local-files/?d=sub/b.png"
    assert "BrushLabels" not in (out / "label-studio" / "config.xml").read_text()


def test_convert_refuses_what_it_cannot_turn_into_a_data_set(lumen, photos, tmp_path):
    export, out = tmp_path / "export.json", tmp_path / "train.json"
    export.write_text(json.dumps([{"data": {"file": "a.png"}, "annotations": []}]))
    assert "holds no annotation, 1 tasks without one" in lumen("convert", export, "--out", out)[2]
    export.write_text(json.dumps([{"data": {"file": "a.png"}, "annotations": [{"result": []}]}]))
    assert "no size: name the folder of the images, by --images" in lumen("convert", export, "--out", out)[2]
    assert lumen("convert", export, "--out", out, "--images", photos)[0] == 0
    image = read(out)["images"][0]
    assert (image["height"], image["width"]) == (40, 50)
    assert "exists; name a new file" in lumen("convert", export, "--out", out, "--images", photos)[2]
    export.write_text("not json")
    assert "cannot be read as json" in lumen("convert", export, "--out", tmp_path / "b.json")[2]

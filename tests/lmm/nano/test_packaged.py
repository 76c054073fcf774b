"""The nano that is part of the package sees: judged on new generated images, far above what guessing gives."""

import json

import pytest
import torch

from lumen.data.shapes.write import make_shapes
from lumen.inference.bare import bare_predictor
from lumen.ops.geometry import box_iou
from lumen.paths import PACKAGED


@pytest.fixture(scope="module")
def shapes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("packaged") / "shapes"
    make_shapes(folder, 1, 16, seed=7, workers=1, num_test=0)
    return folder


@pytest.fixture(scope="module")
def nano():
    return bare_predictor("nano")


def entries(shapes, name, key):
    content = json.loads((shapes / "annotations" / f"{name}_val.json").read_text(encoding="utf-8"))
    files = {image["id"]: image["file_name"] for image in content["images"]}
    return [(shapes / "val" / files[entry["image_id"]], entry) for entry in content[key]]


def test_it_is_small_and_has_a_card():
    sizes = [file.stat().st_size for file in PACKAGED["nano"].iterdir()]
    assert sum(sizes) < 8e6
    card = (PACKAGED["nano"] / "README.md").read_text(encoding="utf-8")
    assert "tools/pretrain_nano.py" in card


def test_it_answers_questions(nano, shapes):
    asked = entries(shapes, "questions", "questions")[::3]
    right = [nano.image(file).converse(entry["question"]).text == entry["answer"] for file, entry in asked]
    assert len(right) >= 40 and sum(right) / len(right) > 0.7


def test_it_writes_boxes(nano, shapes):
    asked = [(file, entry) for file, entry in entries(shapes, "refs", "groups") if len(entry["ann_ids"]) == 1][:40]
    truth = json.loads((shapes / "annotations" / "instances_val.json").read_text(encoding="utf-8"))["annotations"]
    box_of = {entry["id"]: torch.tensor(entry["bbox"]).float() for entry in truth}
    right = []
    for file, entry in asked:
        found = nano.image(file).predict([entry["sentence"]], task="written_boxes").bboxes
        (x, y, width, height) = box_of[entry["ann_ids"][0]]
        wanted = torch.stack([x, y, x + width, y + height])[None]
        right.append(len(found) == 1 and box_iou(found, wanted).item() >= 0.5)
    assert len(right) == 40 and sum(right) / len(right) > 0.5

import json

import numpy as np
import pytest
from PIL import Image

from lumen.data.check_other import check_data, check_label_maps, text_layout
from lumen.data.semantic import SemanticDataset
from lumen.data.text import QuestionsDataset
from lumen.errors import ConfigError, DataError

IMAGES = [{"id": 1, "file_name": "a.png", "width": 8, "height": 6}]
TURNS = [{"from": "human", "value": "<image> what is it?"}, {"from": "gpt", "value": "a cat"}]


def draw(path, size_wh=(8, 6), mode="RGB"):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size_wh).save(path)


@pytest.fixture
def folder(tmp_path):
    draw(tmp_path / "img/a.png")
    return tmp_path


def check(folder, content):
    (folder / "texts.json").write_text(json.dumps(content))
    return check_data(folder / "texts.json", folder / "img")


def test_each_layout_of_texts_is_known_by_its_content(folder):
    questions = {"images": IMAGES, "questions": [{"image_id": 1, "question": "what?", "answer": "a cat"}]}
    captions = {"images": IMAGES, "annotations": [{"image_id": 1, "caption": "a cat"}]}
    conversations = [{"id": 1, "image": "a.png", "conversations": TURNS}]
    for content in (questions, captions, conversations):
        assert check(folder, content) == {}
    assert [text_layout(content) for content in (questions, captions, conversations)] == [
        "questions",
        "captions",
        "conversations",
    ]
    assert text_layout({**captions, "categories": []}) is None and text_layout([{"score": 1}]) is None


def test_everything_that_is_wrong_with_texts_is_found(folder):
    draw(folder / "img/small.png", (4, 4))
    entries = [
        {"id": 1, "image": "a.png", "conversations": TURNS},
        {"id": 2, "image": "a.png", "conversations": TURNS[:1]},
        {"id": 3, "image": "gone.png", "conversations": TURNS},
    ]
    assert check(folder, entries) == {
        "conversations is not a list of two turns or more": [2],
        "image file is missing": ["gone.png"],
    }
    small = {"id": 2, "file_name": "small.png", "width": 8, "height": 6}
    assert check(folder, {"images": [small], "annotations": [{"image_id": 5, "caption": "a cat"}]}) == {
        "caption of an unknown or skipped image": [0],
        "file without any usable text": ["captions"],
        "image file has another size than its entry": ["small.png"],
    }


def test_a_file_of_objects_is_checked_as_before(folder):
    row = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 1, 3, 0]}
    content = {"images": IMAGES, "annotations": [row], "categories": [{"id": 1, "name": "cat"}]}
    assert check(folder, content)["box without area"] == [1]
    with pytest.raises(DataError, match="holds a dict"):
        check(folder, [{"score": 1}])


def test_label_maps_are_checked_beside_their_images(folder):
    for name, size in {"b/c": (8, 6), "b/d": (8, 6), "e": (4, 4)}.items():
        draw(folder / f"img/{name}.jpg")
        draw(folder / f"seg/{name}_labelTrainIds.png", size, "L")
    draw(folder / "seg/b/d_labelTrainIds.png", mode="RGB")
    draw(folder / "seg/a_b.png", mode="P")
    draw(folder / "seg/gone.png", mode="L")
    draw(folder / "img/f.jpg")
    assert check_data(folder / "seg", folder / "img") == {
        "label map has another size than its image": ["e_labelTrainIds.png"],
        "label map is not a PNG file with one number per pixel": ["b/d_labelTrainIds.png"],
        "label map without an image": ["gone.png"],
        "image without a label map": ["f.jpg"],
    }


def test_label_maps_need_images_and_maps(folder):
    with pytest.raises(ConfigError, match="--images"):
        check_data(folder)
    with pytest.raises(DataError, match="no PNG file"):
        check_label_maps(folder / "none", folder / "img")


def test_errors_of_texts_and_label_maps_name_the_check(folder):
    (folder / "texts.json").write_text("{}")
    with pytest.raises(DataError, match=r"lumen check-data .*texts.json --images .*img"):
        QuestionsDataset(ann_file="texts.json", data_root=str(folder), data_prefix={"img": "img"})
    with pytest.raises(DataError, match=r"lumen check-data .*seg --images .*img"):
        SemanticDataset(
            data_root=str(folder), data_prefix={"img": "img", "seg": "seg"}, classes=["cat"], img_suffix=".png"
        )


def test_numbers_of_a_map_are_one_per_pixel(folder):
    Image.fromarray(np.arange(48, dtype=np.uint16).reshape(6, 8)).save(folder / "a.png")
    (folder / "seg").mkdir()
    (folder / "a.png").rename(folder / "seg/a.png")
    assert check_data(folder / "seg", folder / "img") == {}

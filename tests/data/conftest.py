import json

import numpy as np
import pytest
from PIL import Image


@pytest.fixture
def make_coco(tmp_path):
    """Write a small data set and return its folder: three images, categories with gaps in odd order.

    Image 1 (40 x 20 wide): a dog, a cat, a crowd of birds. Image 2: empty. Image 5: two cats.
    """

    def make(**changes):
        content = {
            "images": [
                {"id": 1, "file_name": "a.png", "width": 40, "height": 20},
                {"id": 2, "file_name": "b.png", "width": 30, "height": 30},
                {"id": 5, "file_name": "c.png", "width": 20, "height": 40},
            ],
            "categories": [{"id": 90, "name": "dog"}, {"id": 7, "name": "cat"}, {"id": 16, "name": "bird"}],
            "annotations": [
                {"id": 10, "image_id": 1, "category_id": 90, "bbox": [2, 3, 10, 5], "iscrowd": 0, "area": 50},
                {"id": 11, "image_id": 1, "category_id": 7, "bbox": [20, 3, 10.5, 5], "iscrowd": 0, "area": 50},
                {"id": 12, "image_id": 1, "category_id": 16, "bbox": [0, 0, 40, 20], "iscrowd": 1, "area": 50},
                {"id": 13, "image_id": 5, "category_id": 7, "bbox": [5, 5, 5, 5], "iscrowd": 0, "area": 25},
                {"id": 14, "image_id": 5, "category_id": 7, "bbox": [1, 1, 2, 2], "iscrowd": 0, "area": 4},
            ],
        } | changes
        rng = np.random.default_rng(0)
        (tmp_path / "img").mkdir(exist_ok=True)
        for name, size_hw in {"a.png": (20, 40), "b.png": (30, 30), "c.png": (40, 20)}.items():
            Image.fromarray(rng.integers(0, 256, (*size_hw, 3), dtype=np.uint8)).save(tmp_path / "img" / name)
        (tmp_path / "ann.json").write_text(json.dumps(content))
        return tmp_path

    return make

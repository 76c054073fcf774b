import json

import pytest
from tuning_cases import coco_content, write_photos


@pytest.fixture
def photos(tmp_path):
    """Return a folder of ten pictures with a COCO file beside them."""
    write_photos(tmp_path / "photos/images", range(10))
    (tmp_path / "photos/labels.json").write_text(json.dumps(coco_content(range(10))))
    return tmp_path / "photos"

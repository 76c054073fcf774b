"""Data of a user's own in miniature, as ``lumen/recipes/pretrained_lmm.py`` expects it below ``data/mine``."""

from real_layouts import coco_file, picture, write

REFS = {"refs": [{"image_id": 1, "ann_ids": [7], "sentence": "the person", "kind": ""}]}


def make_mine(root, *, pose=False):
    """Write training and validation files with a picture each, and return the folder that ``LUMEN_DATA`` names."""
    picture(root / "mine/images/1.jpg")
    for part in ("train", "val"):
        content = coco_file()
        if pose:
            content["categories"] = content["categories"][:1]
        write(root / f"mine/{part}.json", content)
        write(root / f"mine/{part}_sentences.json", REFS)
    return root

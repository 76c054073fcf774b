"""Real data sets in miniature: a picture or two in the layout that the configs expect."""

import json
import pickle

import numpy as np
from PIL import Image

WIDTH, HEIGHT = 48, 40
BOX = [4, 6, 20, 24]
POLYGON = [[4, 6, 24, 6, 24, 30, 4, 30]]
KEYPOINTS = ["nose", "left_eye", "right_eye"]
CLASSES = ["person", "cat"]


def picture(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (WIDTH, HEIGHT), (90, 120, 30)).save(path)


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(pickle.dumps(content, protocol=2) if path.suffix == ".p" else json.dumps(content).encode())


def coco_file(name="1.jpg", **fields):
    """Return a COCO file with one picture, a person in it, and a further class."""
    annotation = {"id": 7, "image_id": 1, "category_id": 1, "bbox": BOX, "area": 480, "iscrowd": 0}
    annotation |= {"segmentation": POLYGON, "keypoints": [8, 9, 2, 6, 8, 2, 10, 8, 1], "num_keypoints": 3}
    categories = [{"id": at + 1, "name": name} for at, name in enumerate(CLASSES)]
    categories[0] |= {"keypoints": KEYPOINTS, "skeleton": [[1, 2]]}
    image = {"id": 1, "file_name": name, "width": WIDTH, "height": HEIGHT, **fields}
    return {"images": [image], "annotations": [annotation], "categories": categories}


def persons_only(content):
    return {**content, "categories": content["categories"][:1]}


def make_coco(root):
    for split in ("train2017", "val2017"):
        picture(root / split / "1.jpg")
        content = coco_file()
        write(root / f"annotations/instances_{split}.json", content)
        write(root / f"annotations/person_keypoints_{split}.json", persons_only(content))
        captions = [{"id": 1, "image_id": 1, "caption": "A person."}]
        write(root / f"annotations/captions_{split}.json", {"images": content["images"], "annotations": captions})
        verified = {"neg_category_ids": [2], "not_exhaustive_category_ids": []}
        lvis = coco_file(coco_url=f"http://images.cocodataset.org/{split}/1.jpg", **verified)
        del lvis["images"][0]["file_name"]
        write(root / f"annotations/lvis_v1_{split.removesuffix('2017')}.json", lvis)
    found = [{"image_id": 1, "category_id": 1, "bbox": BOX, "score": 0.9}]
    write(root / "person_detection_results/COCO_val2017_detections_AP_H_56_person.json", found)


def make_refer(root):
    picture(root / "images/mscoco/images/train2014/1.jpg")
    ref = {"image_id": 1, "ann_id": 7, "sentences": [{"sent": "the person"}]}
    splits = ("train", "val", "testA", "testB", "test")
    for name, author in (("refcoco", "unc"), ("refcoco+", "unc"), ("refcocog", "umd")):
        write(root / f"{name}/refs({author}).p", [{**ref, "split": split} for split in splits])
        write(root / f"{name}/instances.json", coco_file())
    write(root / "grefs/grefs(unc).json", [{**ref, "ann_id": [7], "split": split} for split in splits])
    write(root / "grefs/instances.json", coco_file())


def make_mdetr(root):
    picture(root / "train2014/1.jpg")
    content = coco_file(original_id=1, caption="the person")
    content["annotations"][0] |= {"original_id": 7, "tokens_positive": [[0, 10]]}
    for split in ("train", "val", "testA"):
        write(root / f"finetune_refcoco_{split}.json", content)


def make_label_maps(root, splits, suffix):
    for split in splits:
        picture(root / "images" / split / "1.jpg")
        path = root / "annotations" / split / f"1{suffix}"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.repeat(np.arange(1, 5, dtype=np.uint8), WIDTH * HEIGHT // 4).reshape(HEIGHT, WIDTH)).save(
            path
        )


def make_conversations(path, picture_name):
    picture(path.parent / "images" / picture_name)
    turns = [{"from": "human", "value": "<image>\nWhat is it?"}, {"from": "gpt", "value": "A person."}]
    write(path, [{"id": "a", "image": picture_name, "conversations": turns}])


def make_all(root):
    """Write every data set that a config of this repository names below ``root``."""
    make_coco(root / "coco")
    make_refer(root / "refer")
    make_mdetr(root / "mdetr")
    make_label_maps(root / "ADEChallengeData2016", ("training", "validation"), ".png")
    make_label_maps(root / "coco_stuff164k", ("train2017", "val2017"), "_labelTrainIds.png")
    make_conversations(root / "llava/llava_v1_5_mix665k.json", "coco/1.jpg")
    make_conversations(root / "sharegpt4v/sharegpt4v_mix665k_cap23k_coco-ap9k_lcs3k_sam9k_div2k.json", "coco/1.jpg")
    for name in ("objects365", "openimages", "aic"):
        picture(root / name / "train/1.jpg")
        content = coco_file(neg_category_ids=[2], not_exhaustive_category_ids=[])
        write(root / name / "annotations/train.json", persons_only(content) if name == "aic" else content)
    return root

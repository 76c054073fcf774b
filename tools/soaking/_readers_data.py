"""Readers of data sets and images."""

import io
import pickle
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from lumen.data.check import check_coco, image_problem
from lumen.data.check_other import check_data
from lumen.data.clips import clip_problem, read_clip
from lumen.data.coco import CocoDataset
from lumen.data.image import decode_image, read_header, read_image
from lumen.data.keypoints import CocoKeypointsDataset, read_skeleton
from lumen.data.refer_files import read_refer
from lumen.data.semantic import SemanticDataset
from lumen.data.text import QuestionsDataset
from lumen.inference.labelling.pictures import list_pictures
from lumen.metrics.coco.ground_truth import read_ground_truth
from lumen.metrics.pose_ground_truth import read_pose_truth
from soaking._reader import Reader, file_reader, json_reader

IMAGES = [
    {"id": 1, "file_name": "a.jpg", "height": 8, "width": 8},
    {"id": 2, "file_name": "b.jpg", "height": 8, "width": 8},
]
KEYPOINTS = {
    "images": IMAGES,
    "categories": [{"id": 3, "name": "star", "keypoints": ["top", "left"], "skeleton": [[1, 2]], "sigmas": [0.1, 0.1]}],
    "annotations": [
        {"id": 5, "image_id": 1, "category_id": 3, "bbox": [1, 1, 4, 4], "keypoints": [2, 2, 2, 3, 3, 1], "iscrowd": 0,
         "num_keypoints": 2, "area": 16, "segmentation": [[1, 1, 5, 1, 5, 5]]},
        {"id": 6, "image_id": 2, "category_id": 3, "bbox": [1, 1, 4, 4], "keypoints": [2, 2, 2, 3, 3, 0],
         "segmentation": {"size": [8, 8], "counts": [9, 4, 4, 4, 43]}},
    ],
}  # fmt: skip
LVIS = {
    **KEYPOINTS,
    "images": [
        {"id": 1, "coco_url": "http://x/train2017/a.jpg", "height": 8, "width": 8, "neg_category_ids": [4],
         "not_exhaustive_category_ids": [3]},
        {"id": 2, "file_name": "b.jpg", "height": 8, "width": 8, "neg_category_ids": [],
         "not_exhaustive_category_ids": []},
    ],
    "categories": [{"id": 3, "name": "star", "frequency": "f"}, {"id": 4, "name": "ring", "frequency": "r"}],
}  # fmt: skip
DETECTIONS = [{"image_id": 1, "category_id": 3, "bbox": [1, 1, 4, 4], "score": 0.5}]
TEXTS = {
    "questions": {"images": IMAGES, "questions": [{"id": 1, "image_id": 1, "question": "is it?", "answers": ["yes"]}]},
    "captions": {"images": IMAGES, "annotations": [{"id": 1, "image_id": 1, "caption": "a star"}]},
    "conversations": [
        {"id": "a", "image": "a.jpg", "conversations": [
            {"from": "human", "value": "<image>what?"}, {"from": "gpt", "value": "a star"}]}
    ],
}  # fmt: skip
REFS = {"refs": [{"image_id": 1, "ann_ids": [5], "sentence": "the star", "kind": "plain"}], "groups": []}
REFCOCO = [
    {"ref_id": 0, "image_id": 1, "ann_id": 5, "split": "val", "category_id": 3, "file_name": "COCO_1_0.jpg",
     "sentences": [{"raw": "The star", "sent": "the star", "tokens": ["the", "star"], "sent_id": 0}]},
    {"ref_id": 1, "image_id": 2, "ann_id": [6], "split": "testA", "category_id": 3, "file_name": "COCO_2_0.jpg",
     "sentences": [{"sent": "no star", "sent_id": 1}]},
]  # fmt: skip
MDETR = {
    "images": [
        {"id": 100, "file_name": "a.jpg", "height": 8, "width": 8, "original_id": 1, "caption": "big star",
         "dataset_name": "refcoco"},
    ],
    "annotations": [
        {"id": 0, "image_id": 100, "original_id": 5, "bbox": [1, 1, 4, 4], "category_id": 3, "area": 16, "iscrowd": 0,
         "tokens_positive": [[0, 8]]},
    ],
    "categories": [{"id": 3, "name": "star"}],
}  # fmt: skip


def data_readers() -> list[Reader]:
    """Return the readers of annotation files, of lists of pictures and of images."""
    layouts = [json_reader(name, 30, content, _questions(name)) for name, content in TEXTS.items()]
    return [*_object_readers(), *layouts, *_refer_readers(), *_source_readers(), *_image_readers()]


def _all_of(dataset: Any) -> list[Any]:
    return [dataset.get_data_info(index) for index in range(len(dataset))]


def _object_readers() -> list[Reader]:
    def coco(path: Path, kind: Any = CocoDataset, **options: Any) -> list[Any]:
        return _all_of(kind(ann_file=str(path), skip_budget=1.0, **options))

    def detections(path: Path) -> list[Any]:
        whole = str(path.with_name("whole.json"))
        return _all_of(CocoKeypointsDataset(ann_file=whole, detections=str(path), test_mode=True))

    return [
        json_reader("COCO", 60, KEYPOINTS, coco),
        json_reader("COCO with masks", 40, KEYPOINTS, lambda path: coco(path, with_masks=True)),
        json_reader("COCO, strict", 40, KEYPOINTS, lambda path: _all_of(CocoDataset(ann_file=str(path)))),
        json_reader("LVIS", 50, LVIS, lambda path: coco(path, federated=True)),
        json_reader("COCO, ground truth of the metric", 40, KEYPOINTS, lambda path: read_ground_truth(path)),
        json_reader("LVIS, ground truth of the metric", 30, LVIS, _mask_truth),
        json_reader("COCO keypoints", 40, KEYPOINTS, lambda path: coco(path, CocoKeypointsDataset)),
        json_reader("keypoints, detections", 20, DETECTIONS, detections, whole=KEYPOINTS),
        json_reader("keypoints, skeleton", 40, KEYPOINTS, lambda path: read_skeleton(path, "star")),
        json_reader("keypoints, ground truth of the metric", 40, KEYPOINTS, read_pose_truth),
        json_reader("lumen check-data, objects", 50, KEYPOINTS, check_coco),
        json_reader("lumen check-data, texts", 30, TEXTS["conversations"], check_data),
    ]


def _mask_truth(path: Path) -> Any:
    return read_ground_truth(path, with_masks=True, federated=True)


def _questions(layout: str) -> Callable[[Path], list[Any]]:
    return lambda path: _all_of(QuestionsDataset(ann_file=str(path), layout=layout, skip_budget=1.0))


def _refer_readers() -> list[Reader]:
    def refer(path: Path, **options: Any) -> Any:
        return read_refer(str(path), skip_budget=1.0, **options)

    def beside(layout: str, split: str | None) -> Callable[[Path], Any]:
        return lambda path: refer(path, layout=layout, split=split, instances_file=str(path.with_name("whole.json")))

    pickles = [pickle.dumps(REFCOCO, protocol=protocol) for protocol in range(6)]
    return [
        json_reader("referring, shapes", 30, REFS, beside("shapes", None), whole=KEYPOINTS),
        json_reader("referring, gRefCOCO", 30, REFCOCO, beside("grefcoco", "val"), whole=KEYPOINTS),
        json_reader("referring, MDETR", 30, MDETR, lambda path: refer(path, layout="mdetr")),
        file_reader("referring, RefCOCO pickle", 60, pickles, beside("refer", "val"), file="refs.p", whole=KEYPOINTS),
    ]


def _source_readers() -> list[Reader]:
    def pictures(path: Path) -> list[Any]:
        return list(list_pictures(path))

    lists = [b"a.jpg\nb/c.png\n\nshard.tar\n", "caf\u00e9.webp\r\n".encode()]
    return [
        json_reader("lumen label, COCO", 30, KEYPOINTS, pictures),
        file_reader("lumen label, list", 30, lists, pictures, file="list.txt"),
        file_reader("lumen label, tar", 30, [_tar()], pictures, file="shard.tar"),
    ]


def _image_readers() -> list[Reader]:
    pixels = np.random.default_rng(0).integers(0, 256, (12, 16, 3), dtype=np.uint8)
    image = Image.fromarray(pixels)
    forms = [_saved(image, name) for name in ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF")]
    frames = [Image.fromarray(np.roll(pixels, step)) for step in range(3)]
    clips = [_saved(image, name, save_all=True, append_images=frames) for name in ("GIF", "WEBP", "PNG")]
    maps = [_saved(Image.fromarray(pixels[..., 0] % 3), "PNG")]

    def label_map(path: Path) -> list[Any]:
        # `a.jpg` beside the map is not opened: the data set reads sizes from label maps.
        prefix = {"img": "img", "seg": "."}
        return _all_of(SemanticDataset(data_root=str(path.parent), data_prefix=prefix, classes=["a", "b", "c"]))

    def prepare(folder: Path) -> Callable[[bytes], Any]:
        (folder / "img").mkdir()
        (folder / "img" / "a.jpg").write_bytes(forms[1])
        return lambda content: ((folder / "a.png").write_bytes(content), label_map(folder / "a.png"))

    return [
        file_reader("images, file", 40, forms, read_image, file="a.png"),
        file_reader("images, in memory", 30, forms, lambda path: decode_image(path.read_bytes(), "a"), file="a.png"),
        file_reader("images, header", 30, forms, read_header, file="a.png"),
        file_reader("images, check", 20, forms, lambda p: image_problem(p, p.parent, (12, 16), decode=True), file="a"),
        file_reader("clips", 10, clips, lambda path: read_clip(path, 4), file="a.gif"),
        file_reader(
            "clips, check", 10, clips, lambda p: clip_problem(p, p.parent, (12, 16), decode=True), file="a.gif"
        ),
        Reader("label maps", 20, file_reader("", 0, maps, read_image, file="").mutate, prepare),
    ]


def _saved(image: Image.Image, form: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def _tar() -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=tarfile.GNU_FORMAT) as archive:
        for name in ("a.jpg", "b.png", "b.txt"):
            entry = tarfile.TarInfo(name)
            entry.size = 9
            archive.addfile(entry, io.BytesIO(b"x" * 9))
    return file.getvalue()

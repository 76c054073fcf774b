"""Data sets that mmdet reads, a picture or two each, in the layout that their authors publish."""

import json
import pickle

from PIL import Image

WIDTH, HEIGHT = 60, 40
BOX, CROWD, SECOND = [4, 6, 20, 24], [30, 2, 10, 10], [40, 20, 12, 10]
"""x, y, width, height."""


def picture(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (WIDTH, HEIGHT), (90, 120, 30)).save(path)
    return path


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".pkl":
        path.write_bytes(pickle.dumps(content))
    else:
        path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def polygon(box):
    x, y, width, height = box
    return [[x, y, x + width, y, x + width, y + height, x, y + height]]


def annotation(number, image_id, category_id, box, **further):
    area = {"area": box[2] * box[3], "iscrowd": 0, "segmentation": polygon(box)}
    return {"id": number, "image_id": image_id, "category_id": category_id, "bbox": box, **area, **further}


def coco(names, annotations, file_names=("1.jpg", "2.jpg"), ids=None, **of_image):
    """Return a COCO file; ``ids`` are those of the categories, in the order of ``names``."""
    size = {"width": WIDTH, "height": HEIGHT, **of_image}
    return {
        "images": [{"id": at, "file_name": name, **size} for at, name in enumerate(file_names, start=1)],
        "annotations": annotations,
        "categories": [
            {"id": at, "name": name} for at, name in zip(ids or range(1, len(names) + 1), names, strict=True)
        ],
    }


def make_coco(root, names=("dog", "cat"), **options):
    """COCO (cocodataset.org, "Data format"): a dog and a crowd of cats in the first picture, nothing in the second."""
    rows = [annotation(7, 1, 1, BOX), annotation(9, 1, 2, CROWD, iscrowd=1)]
    for name in ("1.jpg", "2.jpg"):
        picture(root / "images" / name)
    write(root / "annotations.json", coco(names, rows, **options))
    return {"data_root": str(root), "ann_file": "annotations.json", "data_prefix": {"img": "images/"}}


def make_objects365(root, version, names):
    """Objects365 (objects365.org): COCO's format; v2 keeps its pictures in folders ``patch0`` to ``patch50``.

    ``isfake`` and ``isreflected`` are of its own. The categories of v1 are in no order.
    """
    folder = {1: "val", 2: "val/patch3"}[version]
    picture(root / folder / "objects365_1.jpg")
    own = {"isfake": 0, "isreflected": 0}
    rows = [annotation(1, 1, 3, BOX, **own), annotation(2, 1, 1, CROWD, **{**own, "iscrowd": 1})]
    file_name = {1: "objects365_1.jpg", 2: "images/v2/patch3/objects365_1.jpg"}[version]
    content = coco(names, rows, file_names=(file_name,))
    if version == 1:
        content["categories"].reverse()
    write(root / "annotations/val.json", content)
    return {"data_root": str(root), "ann_file": "annotations/val.json", "data_prefix": {"img": "val/"}}


def make_lvis(root, names):
    """LVIS v1 (lvisdataset.org): ``coco_url`` in place of a file name, and what was verified per image."""
    picture(root / "val2017/000000000001.jpg")
    url = "http://images.cocodataset.org/val2017/000000000001.jpg"
    lists = {"coco_url": url, "neg_category_ids": [3], "not_exhaustive_category_ids": [1]}
    content = coco(names, [annotation(1, 1, 1, BOX)], file_names=("",), **lists)
    del content["images"][0]["file_name"]
    for category in content["categories"]:
        category |= {"frequency": "f", "image_count": 1, "instance_count": 1}
    write(root / "annotations/lvis_v1_val.json", content)
    return {"data_root": str(root), "ann_file": "annotations/lvis_v1_val.json", "data_prefix": {"img": ""}}


def make_crowdhuman(root):
    """CrowdHuman (crowdhuman.org): a json per line; boxes of head, visible part and whole person; ignored masks."""
    picture(root / "Images/273271,c9db000d5146c15.jpg")
    parts = {"hbox": [8, 6, 6, 6], "vbox": BOX}
    person = {"tag": "person", "fbox": BOX, **parts, "head_attr": {"ignore": 0}, "extra": {"box_id": 0, "occ": 0}}
    mask = {"tag": "mask", "fbox": CROWD, **parts, "head_attr": {}, "extra": {"box_id": 1, "ignore": 1}}
    line = {"ID": "273271,c9db000d5146c15", "gtboxes": [person, mask]}
    write(root / "annotation_val.odgt", json.dumps(line) + "\n")
    return {"data_root": str(root), "ann_file": "annotation_val.odgt", "data_prefix": {"img": "Images/"}}


def voc_xml(folder, name, objects):
    """Return an annotation of VOC; objects are (name, difficult, x1, y1, x2, y2), counted from 1."""
    parts = [
        f"<object><name>{kind}</name><difficult>{difficult}</difficult><bndbox><xmin>{box[0]}</xmin><ymin>{box[1]}</ymin>"
        f"<xmax>{box[2]}</xmax><ymax>{box[3]}</ymax></bndbox></object>"
        for kind, difficult, *box in objects
    ]
    size = f"<size><width>{WIDTH}</width><height>{HEIGHT}</height><depth>3</depth></size>"
    return f"<annotation><folder>{folder}</folder><filename>{name}.jpg</filename>{size}{''.join(parts)}</annotation>"


def make_voc(root, years=("VOC2007", "VOC2012"), splits=("trainval", "test")):
    """VOC (host.robots.ox.ac.uk, "Development kit"): JPEGImages, Annotations and ImageSets/Main below the year."""
    objects = [("dog", 0, 5, 7, 25, 31), ("cat", 1, 31, 3, 41, 13)]
    for year in years:
        for number, split in enumerate(splits):
            name = f"00000{number}"
            picture(root / year / "JPEGImages" / f"{name}.jpg")
            write(root / year / "Annotations" / f"{name}.xml", voc_xml(year, name, objects))
            write(root / year / "ImageSets/Main" / f"{split}.txt", f"{name}\n")
    return {
        "data_root": str(root),
        "ann_file": "VOC2007/ImageSets/Main/test.txt",
        "data_prefix": {"sub_data_root": "VOC2007/"},
    }


def make_wider_face(root):
    """WIDER Face in the VOC layout that mmdet names: pictures below the folder that the annotation names."""
    folder, name = "0--Parade", "0_Parade_marchingband_1_5"
    picture(root / "WIDER_val" / folder / f"{name}.jpg")
    write(root / "WIDER_val/Annotations" / f"{name}.xml", voc_xml(folder, name, [("face", 0, 4, 6, 24, 30)]))
    write(root / "val.txt", f"{name}\n")
    return {"data_root": str(root), "ann_file": "val.txt", "data_prefix": {"img": "WIDER_val"}}


def make_openimages(root):
    """Open Images V6 (storage.googleapis.com/openimages): boxes and image labels as CSV, sizes as mmdet stores them."""
    picture(root / "OpenImages/validation/0001eeaf4aed83f9.jpg")
    header = (
        "ImageID,Source,LabelName,Confidence,XMin,XMax,YMin,YMax,IsOccluded,IsTruncated,IsGroupOf,IsDepiction,IsInside"
    )
    start = "0001eeaf4aed83f9,xclick,"
    boxes = [f"{start}/m/0bt9lr,1,0.1,0.4,0.15,0.75,0,0,0,0,0", f"{start}/m/01yrx,1,0.5,0.75,0.05,0.3,0,0,1,0,0"]
    write(root / "annotations/validation-annotations-bbox.csv", "\n".join([header, *boxes]) + "\n")
    labels = [f"0001eeaf4aed83f9,verification,{mid},{value}" for mid, value in (("/m/0bt9lr", 1), ("/m/0k4j", 0))]
    write(root / "annotations/image-labels.csv", "\n".join(["ImageID,Source,LabelName,Confidence", *labels]) + "\n")
    names = {"/m/0jbk": "Animal", "/m/0bt9lr": "Dog", "/m/01yrx": "Cat", "/m/0k4j": "Car"}
    lines = [f"{mid},{name}" for mid, name in names.items()]
    write(root / "annotations/class-descriptions-boxable.csv", "\n".join(lines) + "\n")
    below = [{"LabelName": "/m/0bt9lr"}, {"LabelName": "/m/01yrx"}]
    tree = [{"LabelName": "/m/0jbk", "Subcategory": below}, {"LabelName": "/m/0k4j"}]
    write(root / "annotations/hierarchy.json", {"LabelName": "/m/0bl9f", "Subcategory": tree})
    meta = [{"filename": "OpenImages/validation/0001eeaf4aed83f9.jpg", "ori_shape": (HEIGHT, WIDTH, 3)}]
    write(root / "annotations/metas.pkl", meta)
    return {
        "data_root": str(root),
        "ann_file": "annotations/validation-annotations-bbox.csv",
        "data_prefix": {"img": "OpenImages/validation/"},
        "label_file": "annotations/class-descriptions-boxable.csv",
        "hierarchy_file": "annotations/hierarchy.json",
        "meta_file": "annotations/metas.pkl",
        "image_level_ann_file": "annotations/image-labels.csv",
    }


def make_odvg(root, *, with_names):
    """ODVG (mmdet's "grounding_dino" documentation): a json per line, with boxes of names or of phrases."""
    picture(root / "images/1.jpg")
    image = {"filename": "1.jpg", "height": HEIGHT, "width": WIDTH}
    x, y, width, height = BOX
    box, second = [x, y, x + width, y + height], [40, 20, 52, 30]
    if with_names:
        instances = [{"bbox": box, "label": 1, "category": "cat"}]
        line = image | {"detection": {"instances": instances}}
        write(root / "label_map.json", {"0": "dog", "1": "cat"})
    else:
        regions = [
            {"bbox": box, "phrase": "A wizard", "tokens_positive": [[0, 8]]},
            {"bbox": [box, second], "phrase": ["two", "red hats"], "tokens_positive": [[14, 17], [18, 26]]},
        ]
        line = image | {"grounding": {"caption": "A wizard with two red hats", "regions": regions}}
    write(root / "train.jsonl", json.dumps(line) + "\n")
    files = {
        "data_root": str(root),
        "ann_file": "train.jsonl",
        "data_prefix": {"img": "images/"},
        "return_classes": True,
    }
    return files | ({"label_map_file": "label_map.json"} if with_names else {})

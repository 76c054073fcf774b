"""Labels of YOLO and VOC become a COCO file, by hand-written files."""

from pathlib import PurePath

import pytest

from lumen.data.annotations import parse_coco
from lumen.errors import DataError
from lumen.interop.label_files import LabelledPicture, label_key, read_yolo_names, voc_to_coco, yolo_to_coco

pytest.importorskip("supervision")
SIZE_HW = (40, 80)
VOC = (
    "<annotation><object><name>{name}</name><bndbox><xmin>11</xmin><ymin>6</ymin><xmax>30</xmax><ymax>20</ymax>"
    "</bndbox></object></annotation>"
)


@pytest.fixture
def labelled(tmp_path):
    """Return a function that writes a label file and gives the picture that it belongs to."""

    def write(text, suffix=".txt", stem="a"):
        path = tmp_path / f"{stem}{suffix}"
        path.write_text(text)
        return LabelledPicture(f"{stem}.jpg", SIZE_HW, path)

    return write


def parsed(content, **options):
    options = {"image_root": "", "classes": None, "skip_budget": 0.0, "with_masks": False, "federated": False} | options
    return parse_coco(content, "a.json", **options)


@pytest.mark.parametrize(
    ("path", "key"),
    [
        ("images/train/a.jpg", "train/a"),
        ("labels/train/a.txt", "train/a"),
        ("train/images/a.b.jpg", "train/a.b"),
        ("JPEGImages/a.jpg", "a"),
        ("Annotations/a.xml", "a"),
    ],
)
def test_the_files_of_a_picture_have_one_key(path, key):
    assert label_key(PurePath(path)) == key


def test_yolo_boxes_are_shares_of_the_image(labelled):
    content = yolo_to_coco([labelled("1 0.5 0.5 0.25 0.5\n"), labelled("", stem="empty")], ["cat", "red cup"])
    read = parsed(content)
    assert read.classes == ("cat", "red cup")
    assert [record["img_path"] for record in read.records] == ["a.jpg", "empty.jpg"]
    # Centre (40, 20), size 20 x 20.
    assert read.records[0]["instances"]["bboxes"].tolist() == [[30, 10, 50, 30]]
    assert read.records[0]["instances"]["labels"].tolist() == [1]
    assert len(read.records[1]["instances"]["labels"]) == 0


def test_yolo_polygons_become_masks(labelled):
    content = yolo_to_coco([labelled("0 0.25 0.25 0.5 0.25 0.5 0.75 0.25 0.75\n")], ["cat"])
    (record,) = parsed(content, with_masks=True).records
    assert record["instances"]["bboxes"].tolist() == [[20, 10, 40, 30]]
    assert record["instances"]["segmentations"][0]["size"] == list(SIZE_HW)


@pytest.mark.parametrize("text", ["7 0.5 0.5 0.1 0.1\n", "0 0.5 0.5\n", "cat 0.5 0.5 0.1 0.1\n", "0 nan 0.5 0.1 0.1\n"])
def test_a_line_that_is_not_yolos_names_its_file(labelled, text):
    with pytest.raises(DataError, match=r"a\.txt"):
        yolo_to_coco([labelled(text)], ["cat", "dog"])


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("data.yaml", "names: [cat, red cup]\n"),
        ("data.yaml", "names: {1: red cup, 0: cat}\n"),
        ("classes.txt", "cat\nred cup\n\n"),
    ],
)
def test_names_of_yolo(tmp_path, name, text):
    (tmp_path / name).write_text(text)
    assert read_yolo_names(tmp_path) == ["cat", "red cup"]


def test_names_that_are_missing(tmp_path):
    assert read_yolo_names(tmp_path) is None
    (tmp_path / "data.yaml").write_text("nc: 2\n")
    with pytest.raises(DataError, match="'names' must list"):
        read_yolo_names(tmp_path)


@pytest.mark.parametrize("content", [b"names: [cat", b"names: {a: cat}", b"\xff\xfe"])
def test_names_that_cannot_be_read_name_their_file(tmp_path, content):
    (tmp_path / "data.yaml").write_bytes(content)
    with pytest.raises(DataError, match=r"data\.yaml cannot be read .*list the class names in it"):
        read_yolo_names(tmp_path)


def test_voc_counts_pixels_from_one(labelled):
    pictures = [labelled(VOC.format(name="dog"), ".xml"), labelled(VOC.format(name="cat"), ".xml", "b")]
    read = parsed(voc_to_coco(pictures))
    assert read.classes == ("cat", "dog")
    assert read.records[0]["instances"]["bboxes"].tolist() == [[10, 5, 30, 20]]
    assert [record["instances"]["labels"].tolist() for record in read.records] == [[1], [0]]


@pytest.mark.parametrize("text", ["not xml", "<annotation><object><name>cat</name></object></annotation>"])
def test_a_file_that_is_not_vocs_is_named(labelled, text):
    with pytest.raises(DataError, match=r"a\.xml"):
        voc_to_coco([labelled(text, ".xml")])

"""Readers of public data sets of persons, each in the layout in which its makers publish it. Nothing is downloaded."""

import json
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from lman_humanins import ImageRecord, PersonRecord, Report, Source, register_reader
from PIL import Image, UnidentifiedImageError

from lumen.data.annotations import parse_json
from lumen.data.image import read_image
from lumen.errors import ConfigError, DataError, named_faults
from lumen.ops.masks import read_label_map

LIP_PARTS = (
    *("background", "hat", "hair", "glove", "sunglasses", "upper clothes", "dress", "coat", "socks", "pants"),
    *("jumpsuits", "scarf", "skirt", "face", "left arm", "right arm", "left leg", "right leg", "left shoe"),
    "right shoe",
)
"""Classes of LIP, in the order of their numbers; CIHP has torso skin in place of jumpsuits and gloves as LIP has."""
CIHP_PARTS = tuple("torso skin" if name == "jumpsuits" else name for name in LIP_PARTS)

_MARKET = re.compile(r"^(-1|\d{4})_c(\d)s\d_\d{6}_\d{2}\.jpg$")
_OUTLINE_ROWS = 8


@register_reader("crowdhuman")
def read_crowdhuman(source: Source, report: Report) -> Iterator[ImageRecord]:
    """CrowdHuman: an ``.odgt`` file, a json object per line. Boxes are those of whole bodies, clipped to the image.

    Persons marked to be ignored, and regions that are no persons, are not asked for; with them the number is unknown.

    Raises:
        DataError: A line is not such an object.
    """
    for number, line in enumerate(_lines(source.path), start=1):
        try:
            entry = json.loads(line)
            name, boxes = (
                f"{entry['ID']}.jpg",
                [(box["tag"], box["fbox"], box.get("extra", {})) for box in entry["gtboxes"]],
            )
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(f"{source.path}, line {number}: no object with ID and gtboxes ({error!r})") from error
        size_hw = _size(source.images / name, report)
        if size_hw is None:
            continue
        is_person = [tag == "person" and not extra.get("ignore") for tag, _, extra in boxes]
        persons = [
            PersonRecord(box=_clip(box, size_hw))
            for (_, box, _), is_one in zip(boxes, is_person, strict=True)
            if is_one
        ]
        yield ImageRecord(name, size_hw, tuple(persons), count=len(persons) if all(is_person) else None)


@register_reader("coco_persons")
def read_coco_persons(source: Source, report: Report) -> Iterator[ImageRecord]:
    """COCO and its like: persons with boxes and, where there are any, keypoints; crowds make the number unknown.

    A file may name ``attributes``; then annotations have 0 or 1 for each, as the person world does.

    Raises:
        DataError: The file is not a COCO file, or has no category ``person``.
    """
    content = parse_json(source.path)
    if not isinstance(content, dict) or not {"images", "annotations", "categories"} <= set(content):
        raise DataError(f"{source.path}: a COCO file has images, annotations and categories")
    person = next((each for each in content["categories"] if each["name"] == "person"), None)
    if person is None:
        raise DataError(f"{source.path}: no category is called 'person'")
    of_image: defaultdict[int, list[dict]] = defaultdict(list)
    for entry in content["annotations"]:
        if entry["category_id"] == person["id"]:
            of_image[entry["image_id"]].append(entry)
    for image in content["images"]:
        size_hw, entries = (image["height"], image["width"]), of_image[image["id"]]
        usable = [each for each in entries if not each.get("iscrowd") and min(each["bbox"][2:]) > 0]
        if len(usable) < len(entries):
            report["crowd, or box without extent"].append(image["file_name"])
        persons = tuple(_coco_person(each, person, content.get("attributes", ()), size_hw) for each in usable)
        count = len(persons) if len(usable) == len(entries) else None
        yield ImageRecord(image["file_name"], size_hw, persons, count, image_id=image["id"])


def _coco_person(entry: dict, category: dict, attributes: Any, size_hw: tuple[int, int]) -> PersonRecord:
    names, flat = [name.replace("_", " ") for name in category.get("keypoints", ())], entry.get("keypoints", [])
    points = {name: tuple(flat[3 * place :][:3]) for place, name in enumerate(names) if flat}
    labelled = {name: (x, y) for name, (x, y, seen) in points.items() if seen}
    truth = dict(zip(attributes, map(bool, entry.get("attributes", ())), strict=True))
    absent = tuple(name for name in points if name not in labelled)
    return PersonRecord(
        _clip(entry["bbox"], size_hw), labelled, absent, attributes=truth, identity=entry.get("identity")
    )


@register_reader("lip")
def read_lip(source: Source, report: Report) -> Iterator[ImageRecord]:
    """LIP: a folder of label maps, one person each; ``names`` other than LIP's are taken, the background first."""
    names = source.names or LIP_PARTS
    for path in _files(source.path, "*.png"):
        labels = read_label_map(str(path), ignore_label=255)
        yield _parsed(path, labels, [labels > 0], names, source)


@register_reader("cihp")
def read_cihp(source: Source, report: Report) -> Iterator[ImageRecord]:
    """CIHP: folders ``Category_ids`` and ``Human_ids`` below the path: the part and the person of each pixel.

    Raises:
        DataError: A map has no partner of the same size.
    """
    for path in _files(source.path / "Category_ids", "*.png"):
        partner = source.path / "Human_ids" / path.name
        if not partner.is_file():
            raise DataError(f"{path} has no map of persons: {partner} is missing")
        labels, humans = (read_label_map(str(each), ignore_label=255) for each in (path, partner))
        if labels.shape != humans.shape:
            raise DataError(f"{path} has {labels.shape}, {partner} has {humans.shape} pixels")
        masks = [humans == number for number in np.unique(humans[humans > 0])]
        yield _parsed(path, labels, masks, CIHP_PARTS, source)


def _parsed(
    path: Path, labels: np.ndarray, masks: list[np.ndarray], names: tuple[str, ...], source: Source
) -> ImageRecord:
    if labels.max() >= len(names):
        raise DataError(f"{path} holds part {labels.max()}, but there are {len(names)} names")
    persons = []
    for mask in masks:
        outlines = {names[part]: outline_of(mask & (labels == part)) for part in range(1, len(names))}
        parts = {name: outline for name, outline in outlines.items() if outline is not None}
        absent = tuple(name for name in names[1:] if name not in parts)
        rows, cols = np.nonzero(mask)
        if len(rows):
            box = (float(cols.min()), float(rows.min()), float(cols.max() + 1), float(rows.max() + 1))
            persons.append(PersonRecord(box, absent=absent, parts=parts))
    return ImageRecord(f"{path.stem}.jpg", labels.shape, tuple(persons), count=len(persons))


def outline_of(mask: np.ndarray) -> tuple[float, ...] | None:
    """Return an outline of a region through the ends of some of its rows; None for fewer than two rows.

    Exact for regions each of whose rows is one piece, up to the rows between; gaps in a row are filled.
    """
    rows = np.flatnonzero(mask.any(1))
    if len(rows) < 2:
        return None
    rows = rows[np.unique(np.linspace(0, len(rows) - 1, _OUTLINE_ROWS).round().astype(int))]
    left, right = mask[rows].argmax(1), mask.shape[1] - mask[rows, ::-1].argmax(1)
    # The last row ends below its pixels.
    down = rows + (rows == rows[-1])
    points = [*zip(left, down, strict=True), *zip(right[::-1], down[::-1], strict=True)]
    return tuple(float(value) for point in points for value in point)


@register_reader("pa100k")
def read_pa100k(source: Source, report: Report) -> Iterator[ImageRecord]:
    """PA-100K: ``annotation.mat``, the training split; 26 attributes of one person an image.

    Raises:
        DataError: The file cannot be read, or lacks a table.
    """
    tables = _read_mat(source.path, ("attributes", "train_images_name", "train_label"))
    names = [str(cell[0][0]) for cell in tables["attributes"]]
    for cell, row in zip(tables["train_images_name"], tables["train_label"], strict=True):
        name = str(cell[0][0])
        size_hw = _size(source.images / name, report)
        if size_hw is not None:
            box = (0.0, 0.0, float(size_hw[1]), float(size_hw[0]))
            truth = dict(zip(names, (bool(value) for value in row), strict=True))
            yield ImageRecord(name, size_hw, (PersonRecord(box, attributes=truth),), count=1)


@register_reader("market1501")
def read_market1501(source: Source, report: Report) -> Iterator[ImageRecord]:
    """Market-1501: a folder of images named ``0002_c1s1_000451_03.jpg``; person 0 and -1 are distractors, skipped."""
    for path in _files(source.path, "*.jpg"):
        found = _MARKET.match(path.name)
        if found is None or int(found[1]) <= 0:
            report["distractor" if found else "not a name of Market-1501"].append(path.name)
            continue
        size_hw = _size(path, report)
        if size_hw is not None:
            box = (0.0, 0.0, float(size_hw[1]), float(size_hw[0]))
            person = PersonRecord(box, identity=int(found[1]), camera=int(found[2]))
            yield ImageRecord(path.name, size_hw, (person,), count=1)


@register_reader("shanghaitech")
def read_shanghaitech(source: Source, report: Report) -> Iterator[ImageRecord]:
    """ShanghaiTech: a folder of ``GT_IMG_1.mat``, whose points are heads.

    Raises:
        DataError: A file cannot be read, or lacks the points.
    """
    for path in _files(source.path, "GT_*.mat"):
        name = f"{path.stem.removeprefix('GT_')}.jpg"
        size_hw = _size(source.images / name, report)
        if size_hw is None:
            continue
        try:
            points = np.asarray(_read_mat(path, ("image_info",))["image_info"][0, 0][0, 0][0], dtype=float)
        except (IndexError, ValueError, TypeError) as error:
            raise DataError(f"{path}: image_info does not hold the points of heads ({error})") from error
        persons = tuple(PersonRecord(keypoints={"head": (float(x), float(y))}) for x, y in points.reshape(-1, 2))
        yield ImageRecord(name, size_hw, persons, count=len(persons))


def pair_pictures(
    records: list[ImageRecord], images: Path, out: Path, *, number: int, seed: int = 0
) -> Iterator[ImageRecord]:
    """Write pictures of two persons side by side, half of them of one person by two cameras; give their records.

    Args:
        records: Images of one person each, with identity and camera.
        images: Their folder.
        out: Folder to write; it exists.
        number: Pictures to write.
        seed: Not negative.

    Raises:
        DataError: No person was seen by two cameras, or there is one person only.
    """
    of_person: defaultdict[int, list[ImageRecord]] = defaultdict(list)
    for record in records:
        of_person[record.persons[0].identity].append(record)
    seen_twice = [who for who, seen in of_person.items() if len({each.persons[0].camera for each in seen}) > 1]
    if not seen_twice or len(of_person) < 2:
        raise DataError(
            f"{len(of_person)} persons, {len(seen_twice)} of them seen by two cameras: no pairs can be made"
        )
    rng = np.random.default_rng(seed)
    for place in range(number):
        is_same = place % 2 == 0
        who = seen_twice[rng.integers(len(seen_twice))]
        first = of_person[who][rng.integers(len(of_person[who]))]
        others = [each for each in of_person[who] if each.persons[0].camera != first.persons[0].camera]
        if not is_same:
            strangers = [each for each in of_person if each != who]
            others = of_person[strangers[rng.integers(len(strangers))]]
        second = others[rng.integers(len(others))]
        halves = [read_image(str(images / each.image), root=str(images)) for each in (first, second)]
        both = np.zeros((max(map(len, halves)), sum(half.shape[1] for half in halves), 3), np.uint8)
        both[: len(halves[0]), : halves[0].shape[1]] = halves[0]
        both[: len(halves[1]), halves[0].shape[1] :] = halves[1]
        name = f"pair_{place:06d}.jpg"
        Image.fromarray(both).save(out / name, quality=95, subsampling=0)
        yield ImageRecord(name, both.shape[:2], same=is_same)


def _lines(path: Path) -> list[str]:
    try:
        return [line for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read: {error}") from error


def _files(folder: Path, pattern: str) -> list[Path]:
    files = sorted(folder.glob(pattern))
    if not files:
        raise DataError(f"{folder} holds no file {pattern}")
    return files


def _size(path: Path, report: Report) -> tuple[int, int] | None:
    """Return height and width of an image, from its first bytes; None, and a note, where it cannot be read."""
    try:
        with Image.open(path) as image:
            return image.height, image.width
    except (OSError, UnidentifiedImageError):
        report["image is missing or cannot be read"].append(path.name)
        return None


def _clip(box_xywh: Any, size_hw: tuple[int, int]) -> tuple[float, float, float, float]:
    x, y, width, height = box_xywh
    low, high = (max(float(x), 0.0), max(float(y), 0.0)), (float(x + width), float(y + height))
    return (*low, min(high[0], float(size_hw[1])), min(high[1], float(size_hw[0])))


def _read_mat(path: Path, keys: tuple[str, ...]) -> dict[str, Any]:
    """Read tables of a MATLAB file.

    Raises:
        ConfigError: scipy is missing.
        DataError: The file cannot be read, or lacks a table.
    """
    try:
        from scipy.io import loadmat
    except ImportError as error:
        raise ConfigError("MATLAB files are read by scipy: pip install scipy") from error
    with named_faults(f"{path} cannot be read as a MATLAB file", DataError, remedy="copy or download it again"):
        tables = loadmat(str(path))
    lacking = [key for key in keys if key not in tables]
    if lacking:
        raise DataError(f"{path} lacks {lacking}; it holds {sorted(key for key in tables if not key.startswith('__'))}")
    return tables

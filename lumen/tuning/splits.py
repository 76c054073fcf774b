"""Find the pictures and labels of a data set and its splits, in COCO's, YOLO's or Pascal VOC's layout."""

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from lumen.data.annotations import as_coco, parse_json
from lumen.data.image import read_header
from lumen.errors import DataError, named_faults
from lumen.interop.label_files import LabelledPicture, label_key, read_yolo_names, voc_to_coco, yolo_to_coco
from lumen.paths import IMAGE_SUFFIXES
from lumen.serialization.atomic import write_text

_WORDS = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation"),
    "test": ("test", "testing"),
}
_PREFERRED = {"pose": "keypoints"}  # by task; of several files of a split the one with this word is taken
_WHOLE = "all"
_HELD_OUT = 0.2
_NAMES_TRIED = 5


@dataclass(frozen=True, slots=True)
class Split:
    """The labels of a split.

    Args:
        content: Content of a COCO file.
        images: Folder that its file names start from.
        ann_file: The file; one that is yet to be written where ``is_new``.
        is_new: Whether the content was made here, of other labels or of a part of a file.
    """

    content: dict[str, Any]
    images: Path
    ann_file: Path
    is_new: bool = False

    @property
    def name(self) -> str:
        """How the split is called in messages."""
        return f"{self.ann_file.name} (not yet written)" if self.is_new else str(self.ann_file)

    def write(self) -> None:
        """Write the file, where it is a new one."""
        if self.is_new:
            write_text(self.ann_file, json.dumps(self.content))


@dataclass(frozen=True, slots=True)
class Splits:
    """What is trained on, what it is judged by, and what was found beside them.

    Args:
        train: Training split.
        val: Split to judge by.
        test: Split to report on, where the data set has one.
        notes: What was decided, in words.
    """

    train: Split
    val: Split
    test: Split | None
    notes: tuple[str, ...]


def find_splits(
    data: Path, folder: Path, *, task: str, images: Path | None, val_share: float | None, seed: int
) -> Splits:
    """Return the splits of a data set, by their names; without a validation split, images are held out for it.

    Args:
        data: A COCO json file, or a folder with such files, or with labels of YOLO or VOC.
        folder: Where files that are made of others will be written; nothing is written yet.
        task: Of several files of a split, that of the task is taken.
        images: Folder of the images, where it is not in ``data``.
        val_share: Share of the training images that is held out; None for a fifth.
        seed: Of the images that are held out.

    Raises:
        DataError: There are no labels, more than one choice, or no images to them; or a share is given and there is a
            validation split.
    """
    if not data.exists():
        raise DataError(f"there is no data {str(data)!r}; --data takes a folder of labelled images, or a COCO .json")
    if images is not None and not images.is_dir():
        raise DataError(f"there is no folder {str(images)!r}; --images names the folder that file names start from")
    root = images or (data if data.is_dir() else data.parent)
    found = _coco_splits(data, root, task) if data.is_file() else None
    notes: list[str] = []
    if found is None:
        found = _coco_splits(data, root, task) or _label_splits(data, root, folder, notes)
    train = found.get("train") or (found.get(_WHOLE) if len(found) == 1 else None)
    if train is None:
        raise DataError(f"{data} has the splits {sorted(found)}, and none to train on: name one of them train")
    if _WHOLE in found and len(found) > 1:
        notes.append(f"{found[_WHOLE].name} names no split and is left out")
    val = found.get("val")
    if val is None:
        remedy = f"see lumen check-data {train.ann_file}"
        with named_faults(f"the images and annotations of {train.name} cannot be told apart", DataError, remedy=remedy):
            train, val = hold_out(train, folder, share=_HELD_OUT if val_share is None else val_share, seed=seed)
        held, whole = len(val.content["images"]), len(val.content["images"]) + len(train.content["images"])
        notes.append(f"no validation split: {held} of {whole} images are held out for it (seed {seed})")
    elif val_share is not None:
        raise DataError(f"{data} has a validation split, {val.name}: leave --val-share out")
    return Splits(train, val, found.get("test"), tuple(notes))


def hold_out(split: Split, folder: Path, *, share: float, seed: int) -> tuple[Split, Split]:
    """Return a split without a share of its images, and those images; the same for the same seed.

    An image whose class would be left without any other image to train on stays.

    Raises:
        DataError: No image can be held out.
    """
    images, rows = split.content["images"], split.content["annotations"]
    wanted = max(1, round(share * len(images)))
    labels_of: dict[Any, set] = {image.get("id"): set() for image in images}
    for row in rows:
        labels_of.setdefault(row.get("image_id"), set()).add(row.get("category_id"))
    left = {label: sum(label in labels for labels in labels_of.values()) for label in set().union(*labels_of.values())}
    chosen: set = set()
    for place in np.random.default_rng(seed).permutation(len(images)).tolist():
        labels = labels_of[images[place].get("id")]
        # Images without objects are neither looked for nor avoided, so that both sides keep their share.
        if len(chosen) < wanted and all(left[label] > 1 for label in labels):
            chosen.add(images[place].get("id"))
            left.update({label: left[label] - 1 for label in labels})
    if not chosen or len(chosen) >= len(images):
        raise DataError(
            f"{split.name}: of {len(images)} images none can be held out to judge by without taking the only one of a "
            "class; label more images, or give train and val files"
        )
    parts = []
    for name, is_held in (("train", False), ("val", True)):
        content = {
            **split.content,
            "images": [image for image in images if (image.get("id") in chosen) == is_held],
            "annotations": [row for row in rows if (row.get("image_id") in chosen) == is_held],
        }
        parts.append(replace(split, content=content, ann_file=folder / "annotations" / f"{name}.json", is_new=True))
    return parts[0], parts[1]


def split_of(folders: Iterable[str], stem: str = "") -> str:
    """Return which split a file belongs to, ``all`` where nothing tells: the last name that tells decides.

    Args:
        folders: Names of the folders around the file; one tells as a whole, without digits, as in ``train2017``.
        stem: Name of the file; each word in it may tell, as in ``instances_train2017``.
    """
    words = [re.sub(r"\d+$", "", folder.lower()) for folder in folders] + re.split(r"[^a-z]+", stem.lower())
    told = [name for word in words for name, known in _WORDS.items() if word in known]
    return told[-1] if told else _WHOLE


# ---- COCO


def _coco_splits(data: Path, root: Path, task: str) -> dict[str, Split] | None:
    """Return the splits that COCO files describe; None where a folder has no such file."""
    if data.is_file():
        content = as_coco(parse_json(data), data)
        return {_WHOLE: Split(content, _image_folder(content, root, data, split_of((), data.stem)), data.resolve())}
    candidates: dict[str, list[Path]] = {}
    for path in sorted({*data.glob("*.json"), *data.glob("*/*.json")}):
        candidates.setdefault(split_of(path.relative_to(data).parent.parts, path.stem), []).append(path)
    found = {}
    for name, paths in candidates.items():
        contents = _contents(paths, _PREFERRED.get(task, "instances"))
        if len(contents) > 1:
            raise DataError(
                f"{data} has several files for the split {name!r}: {[str(path) for path in contents]}; name one of "
                "them as --data, or leave one in the folder"
            )
        for path, content in contents.items():
            found[name] = Split(content, _image_folder(content, root, path, name), path.resolve())
    return found or None


def _contents(paths: Sequence[Path], preferred: str) -> dict[Path, dict[str, Any]]:
    """Return the files that hold objects; one alone where one has the preferred word in its name."""
    named = [path for path in paths if preferred in path.stem]
    found = {}
    for path in named if len(named) == 1 else paths:
        content = parse_json(path)
        # Captions and questions lie beside objects in many data sets, and are other files of the same images.
        if isinstance(content, dict) and all(
            isinstance(content.get(key), list) for key in ("images", "annotations", "categories")
        ):
            found[path] = content
    return found


def _image_folder(content: dict[str, Any], root: Path, ann_file: Path, split: str) -> Path:
    """Return the folder that the file names start from: the first one that holds the first images."""
    names = [image.get("file_name") for image in content["images"][:_NAMES_TRIED] if isinstance(image, dict)]
    names = [name for name in names if isinstance(name, str) and name]
    if not names:
        raise DataError(f"{ann_file} lists no image files: there is nothing to train on")
    below = [path for path in sorted({*root.glob("*"), *root.glob("*/*")}) if path.is_dir()]
    # Splits often have files of the same names, so a folder that is called like the split comes first.
    of_split = [path for path in below if split_of(path.relative_to(root).parts) == split != _WHOLE]
    for folder in (*of_split, ann_file.parent, root, *below):
        if all((folder / name).is_file() for name in names):
            return folder.resolve()
    raise DataError(
        f"no folder in {root} holds the images of {ann_file}, such as {names[0]!r}: name the folder that its file "
        "names start from with --images"
    )


# ---- YOLO and VOC


def _label_splits(data: Path, root: Path, folder: Path, notes: list[str]) -> dict[str, Split]:
    """Return the splits of a folder with a label file per image."""
    names = read_yolo_names(data)
    kind = ".xml" if names is None else ".txt"
    labels = {label_key(path.relative_to(data)): path for path in sorted(data.rglob(f"*{kind}"))}
    pictures: dict[str, list[LabelledPicture]] = {}
    num_without = 0
    for path in _images_below(root):
        key = label_key(path.relative_to(root))
        if key not in labels:
            num_without += 1
            continue
        picture = LabelledPicture(path.relative_to(root).as_posix(), read_header(path)[0], labels[key])
        pictures.setdefault(split_of(key.split("/")[:-1]), []).append(picture)
    if not pictures:
        raise DataError(
            f"{data} holds no labels that are known: a COCO .json; or a .txt per image, with the names in data.yaml or "
            "classes.txt (YOLO); or an .xml per image (VOC). Where the images lie elsewhere, name their folder with "
            "--images. Without labels, begin with: lumen label"
        )
    notes.append(f"labels of {'VOC' if names is None else 'YOLO'} are read")
    if num_without:
        notes.append(f"{num_without} images without a label file are left out; an empty file marks one without objects")
    splits = {
        name: Split(
            voc_to_coco(listed) if names is None else yolo_to_coco(listed, names),
            root.resolve(),
            folder / "annotations" / f"{'train' if name == _WHOLE else name}.json",
            is_new=True,
        )
        for name, listed in pictures.items()
    }
    return _with_all_names(splits) if names is None else splits


def _with_all_names(splits: dict[str, Split]) -> dict[str, Split]:
    """Give each split the categories of all: the files of VOC name only what their images show."""
    names = sorted({category["name"] for split in splits.values() for category in split.content["categories"]})
    ids = {name: number for number, name in enumerate(names, start=1)}
    categories = [{"id": number, "name": name} for name, number in ids.items()]
    joined = {}
    for key, split in splits.items():
        name_of = {category["id"]: category["name"] for category in split.content["categories"]}
        rows = [{**row, "category_id": ids[name_of[row["category_id"]]]} for row in split.content["annotations"]]
        joined[key] = replace(split, content={**split.content, "annotations": rows, "categories": categories})
    return joined


def _images_below(root: Path) -> Iterator[Path]:
    return (path for path in sorted(root.rglob("*")) if path.suffix.lower() in IMAGE_SUFFIXES and path.is_file())

"""Write the person world: picture by picture, into a folder that appears only when it is complete."""

import json
import os
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from pycocotools import mask as rle_codec
from rich.progress import track

from lman_world.appearance import ATTRIBUTES
from lman_world.background import IMAGE_SIZE
from lman_world.figure import KEYPOINTS, PARTS, SKELETON, attribute_vector
from lman_world.language import caption_of
from lman_world.scene import (
    KINDS,
    NUM_CAMERAS,
    NUM_IDENTITIES,
    NUM_TRAIN_IDENTITIES,
    NUM_VIEWS,
    SPLITS,
    Person,
    Picture,
    draw_identity,
    draw_picture,
)
from lumen.errors import DataError
from lumen.serialization.atomic import publish_folder, temporary_folder

MARKER = "persons.json"
FORMAT_VERSION = 2
"""Raised whenever the same seed no longer gives the same files."""

SIZES = {
    "scenes": {"train": 1800, "val": 250, "test": 250},
    "crowds": {"train": 700, "val": 150, "test": 150},
    "portraits": {"train": 2000, "val": 250, "test": 250},
    "identities": {"train": NUM_TRAIN_IDENTITIES, "test": NUM_IDENTITIES - NUM_TRAIN_IDENTITIES},
}
"""Pictures of each kind and split; of ``identities`` the number of persons, who have ``VIEWS`` pictures each."""

VIEWS = NUM_CAMERAS * NUM_VIEWS

_MAX_PERSONS = 100
_MAX_PICTURES = 100_000
_CHUNK = 32
_JPEG = {"format": "JPEG", "quality": 95, "subsampling": 0}

Record = dict[str, Any]


def make_persons(
    out: str | Path,
    *,
    seed: int = 0,
    workers: int | None = None,
    sizes: Mapping[str, Mapping[str, int]] = SIZES,
    force: bool = False,
    progress: bool = False,
) -> bool:
    """Generate the data set in a folder; the same seed gives the same bytes with any number of workers.

    Args:
        out: Folder of the data set.
        seed: Not negative.
        workers: Number of processes; one per core when None.
        sizes: Numbers like those of ``SIZES``; identities are even in number, since they come in twins.
        force: Replace a data set of persons, also one made with the same arguments.
        progress: Show progress bars.

    Returns:
        False if the same data set is there already and nothing was done, else True.

    Raises:
        DataError: A number is out of range, or ``out`` holds something else.
    """
    _check(sizes, seed, workers)
    recipe = {"format": "lman-persons", "version": FORMAT_VERSION, "seed": seed, "sizes": sizes}
    recipe = json.loads(json.dumps(recipe))
    out = Path(out).resolve()
    if not _needs_writing(out, recipe, force):
        return False
    with temporary_folder(out) as fresh:
        for kind, of_kind in sizes.items():
            for split, number in of_kind.items():
                write = _write_identities if kind == "identities" else partial(_write_pictures, kind=kind)
                write(
                    fresh,
                    split=split,
                    number=number,
                    seed=seed,
                    workers=workers or os.cpu_count() or 1,
                    progress=progress,
                )
        _write_json(fresh / MARKER, recipe)
        publish_folder(fresh, out, replace=True)
    return True


def _check(sizes: Mapping[str, Mapping[str, int]], seed: int, workers: int | None) -> None:
    wanted = {kind: set(of_kind) for kind, of_kind in SIZES.items()}
    if {kind: set(of_kind) for kind, of_kind in sizes.items()} != wanted:
        raise DataError(f"sizes name {wanted}, got {sizes}")
    numbers = [number for of_kind in sizes.values() for number in of_kind.values()]
    if not all(0 <= number < _MAX_PICTURES for number in numbers):
        raise DataError(f"numbers of pictures must be from 0 to {_MAX_PICTURES - 1}, got {sizes}")
    identities = sizes["identities"]
    if any(number % 2 or number > SIZES["identities"][split] for split, number in identities.items()):
        raise DataError(f"identities are even in number and at most {SIZES['identities']}, got {identities}")
    if seed < 0 or (workers is not None and workers < 1):
        raise DataError(f"seed must not be negative and workers at least 1, got {seed} and {workers}")


def _needs_writing(out: Path, recipe: Record, force: bool) -> bool:
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return True
    found = json.loads((out / MARKER).read_text()) if (out / MARKER).is_file() else None
    if found is None:
        raise DataError(f"{out} exists and is not a data set of persons: choose another folder; it is never replaced")
    if found != recipe and not force:
        raise DataError(f"{out} holds {found}, asked for {recipe}: choose another folder, or replace it with --force")
    return found != recipe or force


def _run(job: Callable[[int], Any], number: int, workers: int, what: str, progress: bool) -> list:
    """Do all pictures and return the results in order, whatever the number of processes."""
    if workers == 1 or number < 2 * _CHUNK:
        return list(track(map(job, range(number)), description=what, total=number, disable=not progress))
    # Spawned, not forked: the caller may run threads, and a fork of those can hang.
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        results = pool.map(job, range(number), chunksize=_CHUNK)
        return list(track(results, description=what, total=number, disable=not progress))


# --- scenes, crowds, portraits ----------------------------------------------------------------------------------------


def _write_pictures(root: Path, *, kind: str, split: str, number: int, seed: int, workers: int, progress: bool) -> None:
    has_parts = kind != "crowds"
    for folder in (root / kind / split, *([root / "parts" / kind / split] if has_parts else [])):
        folder.mkdir(parents=True)
    job = partial(_write_picture, root=root, kind=kind, split=split, seed=seed)
    entries = _run(job, number, workers, f"{kind} {split}", progress)
    images, annotations = [image for image, _, _ in entries], [rows for _, rows, _ in entries]
    folder = root / "annotations"
    _write_coco(folder / f"{kind}_{split}.json", images, _flat(annotations), [_person_category()])
    if kind == "portraits":
        captions = [{"id": number, **each} for number, each in enumerate(_flat(c for _, _, c in entries), start=1)]
        _write_coco(folder / f"captions_{split}.json", images, captions)
        categories = [{"id": place, "name": name} for place, name in enumerate(ATTRIBUTES, start=1)]
        _write_coco(folder / f"attributes_{split}.json", images, attribute_records(_flat(annotations)), categories)


def _write_picture(
    index: int, *, root: Path, kind: str, split: str, seed: int
) -> tuple[Record, list[Record], list[Record]]:
    """Write one picture; return the records of the image, its persons and its captions."""
    picture = draw_picture(seed, kind, split, index)
    name = f"{index:06d}"
    Image.fromarray(picture.image).save(root / kind / split / f"{name}.jpg", **_JPEG)
    if kind != "crowds":
        Image.fromarray(picture.parts).save(root / "parts" / kind / split / f"{name}.png")
    # Ids differ between kinds and splits, so that mixed-up files are found out.
    image_id = (KINDS.index(kind) * len(SPLITS) + SPLITS.index(split)) * _MAX_PICTURES + index + 1
    rows = [_annotation(image_id * _MAX_PERSONS + place, image_id, each) for place, each in enumerate(picture.persons)]
    captions = _captions(picture, image_id, seed) if kind == "portraits" else []
    return _image(image_id, f"{name}.jpg"), rows, captions


def _captions(picture: Picture, image_id: int, seed: int) -> list[Record]:
    rng = np.random.default_rng([seed, len(KINDS), image_id])
    (person,) = picture.persons
    return [{"image_id": image_id, "caption": caption_of(person.appearance, person.attributes, rng)} for _ in range(2)]


# --- identities -------------------------------------------------------------------------------------------------------


def _write_identities(root: Path, *, split: str, number: int, seed: int, workers: int, progress: bool) -> None:
    (root / "identities" / split).mkdir(parents=True)
    first = 0 if split == "train" else NUM_TRAIN_IDENTITIES
    job = partial(_write_view, root=root, split=split, seed=seed, first=first)
    entries = _run(job, number * VIEWS, workers, f"identities {split}", progress)
    images, annotations = [image for image, _ in entries], [row for _, row in entries]
    _write_coco(root / "annotations" / f"identities_{split}.json", images, annotations, [_person_category()])


def _write_view(index: int, *, root: Path, split: str, seed: int, first: int) -> tuple[Record, Record]:
    """Write one view of an identity under the name that Market-1501 would give it."""
    number, shot = divmod(index, VIEWS)
    camera, view = divmod(shot, NUM_VIEWS)
    number, camera = number + first, camera + 1
    picture = draw_identity(seed, number, camera, view)
    name = f"{number + 1:04d}_c{camera}s1_{view:06d}_01.jpg"
    Image.fromarray(picture.image).save(root / "identities" / split / name, **_JPEG)
    image_id = KINDS.index("identities") * len(SPLITS) * _MAX_PICTURES + number * VIEWS + shot + 1
    (person,) = picture.persons
    row = _annotation(image_id * _MAX_PERSONS, image_id, person)
    return _image(image_id, name), row | {"identity": number, "camera": camera}


# --- records ----------------------------------------------------------------------------------------------------------


def _person_category() -> Record:
    bones = [[first + 1, second + 1] for first, second in SKELETON]
    return {"id": 1, "name": "person", "keypoints": list(KEYPOINTS), "skeleton": bones}


def _image(image_id: int, name: str) -> Record:
    return {"id": image_id, "file_name": name, "width": IMAGE_SIZE, "height": IMAGE_SIZE, "license": 1}


def _annotation(own_id: int, image_id: int, person: Person) -> Record:
    """Return a person as COCO has one; box, area and mask are those of what is visible."""
    rle = rle_codec.encode(np.asfortranarray(person.mask, dtype=np.uint8))
    points = [value for x, y, seen in person.keypoints.tolist() for value in (round(x, 2), round(y, 2), int(seen))]
    return {
        "id": own_id,
        "image_id": image_id,
        "category_id": 1,
        "bbox": [float(value) for value in rle_codec.toBbox(rle)],
        "area": int(rle_codec.area(rle)),
        "segmentation": {"size": [int(side) for side in rle["size"]], "counts": rle["counts"].decode("ascii")},
        "iscrowd": 0,
        "keypoints": points,
        "num_keypoints": len(KEYPOINTS),
        "attributes": attribute_vector(person.attributes),
        "upper_colour": person.appearance.upper,
        "lower_colour": person.appearance.lower,
        "visible_fraction": round(person.visible, 4),
    }


def attribute_records(annotations: Iterable[Record]) -> list[Record]:
    """Return an instance for each attribute that a person has: its category is the attribute, its box the person."""
    rows = []
    for person in annotations:
        for place in np.flatnonzero(person["attributes"]).tolist():
            common = {key: person[key] for key in ("image_id", "bbox", "area", "iscrowd")}
            rows.append({"id": person["id"] * len(ATTRIBUTES) + place, **common, "category_id": place + 1})
    return rows


def _write_coco(
    path: Path, images: list[Record], annotations: list[Record], categories: list[Record] | None = None
) -> None:
    licence = {"id": 1, "name": "CC0 1.0", "url": "https://creativecommons.org/publicdomain/zero/1.0/"}
    info = {"description": f"Person world, {path.stem}", "version": str(FORMAT_VERSION)}
    content = {"info": info, "licenses": [licence], "images": images, "annotations": annotations}
    if categories is not None:
        content |= {"categories": categories}
    if categories is not None and len(categories) == 1:
        content |= {"parts": list(PARTS), "attributes": list(ATTRIBUTES)}
    path.parent.mkdir(exist_ok=True)
    _write_json(path, content)


def _flat(parts: Iterable[list[Record]]) -> list[Record]:
    return [record for part in parts for record in part]


def _write_json(path: Path, content: Record) -> None:
    path.write_text(json.dumps(content, separators=(",", ":")))

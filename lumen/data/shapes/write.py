"""Write the data set: scene by scene, in several processes, into a folder that appears only when complete."""

import json
import os
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from io import BytesIO
from multiprocessing import get_context
from pathlib import Path

from PIL import Image
from rich.progress import track

from lumen.data.shapes.language import balance_answers, describe_scene
from lumen.data.shapes.records import Record, annotation_records, category_records, image_record
from lumen.data.shapes.render import SPLITS, draw_scene
from lumen.errors import DataError
from lumen.paths import real_path
from lumen.serialization.atomic import publish_folder, temporary_folder

MARKER = "shapes.json"
FORMAT_VERSION = 4
"""Raised whenever the same seed no longer gives the same files."""

_FIRST_IDS = {"train": 1, "val": 1_000_001, "test": 2_000_001}
_MAX_IMAGES = 1_000_000
_JPEG_QUALITY = 95
_CHUNK = 32


@dataclass(frozen=True, slots=True)
class _SceneFiles:
    """Everything that the annotation files hold about one image."""

    image: Record
    annotations: list[Record]
    refs: list[Record]
    groups: list[Record]
    captions: list[Record]
    questions: list[Record]


def make_shapes(
    out: str | Path,
    num_train: int = 6000,
    num_val: int = 300,
    seed: int = 0,
    workers: int | None = None,
    *,
    num_test: int = 300,
    force: bool = False,
    progress: bool = False,
) -> bool:
    """Generate the data set in a folder; the same seed gives the same bytes with any number of workers.

    Start it from a file with ``if __name__ == "__main__"`` when ``workers`` is not 1: workers import that file.

    Args:
        out: Folder of the data set. It appears when everything is written, never before.
        num_train: Number of training images.
        num_val: Number of validation images: for what is chosen, such as rates, thresholds and checkpoints.
        seed: Seed of the data set, not negative.
        workers: Number of processes; one per core when None.
        num_test: Number of test images: for the figures that are reported. They change none of the other splits.
        force: Replace a shapes data set, also one made with the same arguments.
        progress: Show a progress bar.

    Returns:
        False if the same data set is there already and nothing was done, else True.

    Raises:
        DataError: If a number is out of range, or ``out`` holds something else and must not be replaced.
    """
    sizes = {"train": num_train, "val": num_val, "test": num_test}
    _check_numbers(sizes, seed, workers)
    recipe = {"format": "lumen-shapes", "version": FORMAT_VERSION, "seed": seed, **sizes}
    out = real_path(out)
    if not _needs_writing(out, recipe, force):
        return False
    # A run that is stopped leaves nothing behind under the final name.
    with temporary_folder(out) as fresh:
        for split in SPLITS:
            _write_split(fresh, split, sizes[split], seed, workers or os.cpu_count() or 1, progress)
        _write_json(fresh / MARKER, recipe)
        publish_folder(fresh, out, replace=True)
    return True


def _check_numbers(sizes: dict[str, int], seed: int, workers: int | None) -> None:
    for split, number in sizes.items():
        if not 0 <= number < _MAX_IMAGES:
            raise DataError(f"number of {split} images must be from 0 to {_MAX_IMAGES - 1}, got {number}")
    if seed < 0:
        raise DataError(f"seed must not be negative, got {seed}")
    if workers is not None and workers < 1:
        raise DataError(f"workers must be at least 1, or None for one per core, got {workers}")


def _needs_writing(out: Path, recipe: Record, force: bool) -> bool:
    """Tell whether there is work to do, and refuse to replace what should stay."""
    if not os.path.lexists(out) or (out.is_dir() and not any(out.iterdir())):
        return True
    found = _read_recipe(out)
    if found is None:
        raise DataError(f"{out} exists and is not a shapes data set: choose another folder; it is never replaced")
    # The same arguments give the same bytes.
    if found == recipe and not force:
        return False
    if not force:
        raise DataError(f"{out} holds {found}, asked for {recipe}: choose another folder, or replace it with --force")
    return True


def _read_recipe(out: Path) -> Record | None:
    """Return the recipe of the data set in a folder, None if there is no such data set."""
    marker = out / MARKER
    if not marker.is_file():
        return None
    try:
        recipe = json.loads(marker.read_text())
    except ValueError:
        return None
    is_ours = isinstance(recipe, dict) and recipe.get("format") == "lumen-shapes"
    return recipe if is_ours else None


def _write_split(root: Path, split: str, number: int, seed: int, workers: int, progress: bool) -> None:
    folder = root / split
    folder.mkdir(parents=True)
    job = partial(_write_scene, folder=folder, split=split, seed=seed)
    # In order, however many processes draw: files and ids do not depend on them.
    results = _run(job, number, workers)
    scenes = list(track(results, description=split, total=number, disable=not progress))
    _write_annotations(root / "annotations", split, scenes)


def _run(job: partial, number: int, workers: int) -> Iterator[_SceneFiles]:
    """Do all scenes in order, in this process if more would not pay."""
    if workers == 1 or number < 2 * _CHUNK:
        yield from map(job, range(number))
        return
    # Spawned, not forked: the caller may run threads, and a fork of those can hang.
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        yield from pool.map(job, range(number), chunksize=_CHUNK)


def _write_scene(index: int, *, folder: Path, split: str, seed: int) -> _SceneFiles:
    image, objects = draw_scene(seed, split, index)
    name = f"{index:06d}.jpg"
    # In memory first: into a file Pillow writes by itself, and takes no notice when a full disk cuts the last piece.
    content = BytesIO()
    Image.fromarray(image).save(content, "JPEG", quality=_JPEG_QUALITY, subsampling=0)
    (folder / name).write_bytes(content.getvalue())
    # Ids differ between splits, so that mixed-up files are found out.
    image_id = _FIRST_IDS[split] + index
    language = describe_scene(objects, image_id, seed)
    return _SceneFiles(
        image=image_record(image_id, name, objects),
        annotations=annotation_records(image_id, objects),
        refs=language.refs,
        groups=language.groups,
        captions=language.captions,
        questions=language.questions,
    )


def _write_annotations(folder: Path, split: str, scenes: list[_SceneFiles]) -> None:
    folder.mkdir(exist_ok=True)
    head = {
        "info": {"description": f"Lumen shapes, {split}", "version": str(FORMAT_VERSION)},
        "licenses": [{"id": 1, "name": "CC0 1.0", "url": "https://creativecommons.org/publicdomain/zero/1.0/"}],
        "images": [scene.image for scene in scenes],
    }
    instances = _flatten(scene.annotations for scene in scenes)
    captions = _flatten(scene.captions for scene in scenes)
    refs = _flatten(scene.refs for scene in scenes)
    groups = _flatten(scene.groups for scene in scenes)
    # Over the whole split: a blind answer is then right no more often than by chance.
    questions = balance_answers(_flatten(scene.questions for scene in scenes))
    _write_json(
        folder / f"instances_{split}.json", {**head, "categories": category_records(), "annotations": instances}
    )
    _write_json(folder / f"captions_{split}.json", {**head, "annotations": _number(captions)})
    _write_json(folder / f"refs_{split}.json", {**head, "refs": _number(refs), "groups": _number(groups)})
    _write_json(folder / f"questions_{split}.json", {**head, "questions": _number(questions)})


def _flatten(parts: Iterable[list[Record]]) -> list[Record]:
    return [record for part in parts for record in part]


def _number(records: list[Record]) -> list[Record]:
    return [{"id": number, **record} for number, record in enumerate(records, start=1)]


def _write_json(path: Path, content: Record) -> None:
    path.write_text(json.dumps(content, separators=(",", ":")))

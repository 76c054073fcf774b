"""Check any data set that Lumen reads: COCO files, files of texts, and folders of label maps."""

import os
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from lumen.data.annotations import parse_json
from lumen.data.check import Progress, Report, check_coco, image_problem
from lumen.data.clips import clip_problem, is_clip
from lumen.data.image import read_header
from lumen.data.text_files import LAYOUTS
from lumen.errors import ConfigError, DataError
from lumen.ops.masks import read_label_map
from lumen.paths import IMAGE_SUFFIXES


def check_data(
    path: str | os.PathLike[str],
    image_root: str | os.PathLike[str] | None = None,
    *,
    decode: bool = False,
    progress: Progress = iter,
) -> Report:
    """Return reason -> what it concerns, of whatever lies at a path; empty for a sound data set.

    Args:
        path: A COCO file (see ``check_coco``), a file of one of the layouts of ``QuestionsDataset``, known by its
            content, or a folder of label maps.
        image_root: Folder of the images, whose headers are read. ``None`` leaves images out; label maps need it.
        decode: Decode all images, too.
        progress: Wraps the list of images, to show how far the check is.

    Raises:
        ConfigError: Label maps are given without a folder of images.
        DataError: The file is of no known layout.
    """
    if os.path.isdir(path):
        if image_root is None:
            raise ConfigError(f"{path} is a folder: label maps are checked beside their images, name these by --images")
        return check_label_maps(Path(path), Path(image_root), decode=decode, progress=progress)
    content = parse_json(path)
    layout = text_layout(content)
    if layout is None:
        return check_coco(path, image_root, content=content, decode=decode, progress=progress)
    report: defaultdict[str, list[Any]] = defaultdict(list)
    records, _ = LAYOUTS[layout](content, os.fspath(path), report)
    if not any(record["questions"] for record in records):
        report["file without any usable text"].append(layout)
    if image_root is not None:
        sizes = {record["img_path"]: record["ori_hw"] for record in records if record["img_path"]}
        for record in progress([{"img_path": name, "ori_hw": size} for name, size in sizes.items()]):
            name = record["img_path"]
            path = os.path.join(image_root, name)
            problem_of = clip_problem if is_clip(path) else image_problem
            problem = problem_of(path, image_root, record["ori_hw"], decode=decode)
            if problem is not None:
                report[problem].append(name)
    return dict(report)


def text_layout(content: Any) -> str | None:
    """Return the layout of ``QuestionsDataset`` that the content of a json file has; None where it has none."""
    if isinstance(content, list):
        return "conversations" if any("conversations" in entry for entry in _dicts(content)) else None
    if not isinstance(content, Mapping):
        return None
    if "questions" in content:
        return "questions"
    # Files of objects may have captions, too; files of captions have no categories.
    has_captions = any("caption" in entry for entry in _dicts(content.get("annotations")))
    return "captions" if has_captions and "categories" not in content else None


def check_label_maps(folder: Path, image_root: Path, *, decode: bool = False, progress: Progress = iter) -> Report:
    """Return reason -> files that it concerns, of label maps and the images that they belong to.

    A map has the name of its image and may have more behind a ``_``: ``a.png`` or ``a_labelTrainIds.png`` for
    ``a.jpg``. Which class numbers are right depends on ``classes`` of a config, so they are not checked.

    Args:
        folder: Folder of the label maps, PNG files; folders in it repeat those of ``image_root``.
        image_root: Folder of the images.
        decode: Decode all images, too.
        progress: Wraps the list of label maps, to show how far the check is.

    Raises:
        DataError: There is no PNG file in ``folder``.
    """
    images = {str(name.with_suffix("")): name for name in _files(image_root, IMAGE_SUFFIXES)}
    maps = list(_files(folder, (".png",)))
    if not maps:
        raise DataError(f"{folder} holds no PNG file: label maps are PNG files whose pixels are class numbers")
    report: defaultdict[str, list[Any]] = defaultdict(list)
    found = set()
    for record in progress([{"img_path": str(name)} for name in maps]):
        name = Path(record["img_path"])
        stem = next((stem for stem in _stems(name) if stem in images), None)
        found.add(stem)
        problem = (
            "label map without an image" if stem is None else _map_problem(folder / name, image_root, images[stem])
        )
        if problem is None:
            problem = image_problem(image_root / images[stem], image_root, None, decode=decode)
        if problem is not None:
            report[problem].append(str(name))
    lacking = [str(name) for stem, name in images.items() if stem not in found]
    return dict(report) | ({"image without a label map": lacking} if lacking else {})


def _map_problem(path: Path, image_root: Path, image: Path) -> str | None:
    try:
        size_hw = read_label_map(path).shape
    except DataError:
        return "label map is not a PNG file with one number per pixel"
    try:
        is_as_large = read_header(image_root / image)[0] == size_hw
    except DataError:
        return None  # reported as an image that cannot be read
    return None if is_as_large else "label map has another size than its image"


def _files(folder: Path, suffixes: tuple[str, ...]) -> Iterator[Path]:
    """Yield the files in a folder and those below it, relative to it, by name."""
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() in suffixes:
            yield path.relative_to(folder)


def _stems(name: Path) -> Iterator[str]:
    """Yield the names that the image of a label map may have: the whole one, then what is in front of each ``_``."""
    parts = name.stem.split("_")
    for end in range(len(parts), 0, -1):
        yield str(name.with_name("_".join(parts[:end])))


def _dicts(entries: Any) -> list[dict]:
    return [entry for entry in entries if isinstance(entry, dict)] if isinstance(entries, list) else []

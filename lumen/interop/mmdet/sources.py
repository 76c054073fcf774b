"""Building mmdet's data sets, and correcting what they would get wrong in silence: which name a label has."""

import importlib.util
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from mmengine.logging import print_log

from lumen.data.annotations import load_json
from lumen.errors import ConfigError, DataError, named_faults
from lumen.interop.mmdet.library import build, name_of, with_found_paths
from lumen.structures import LVIS_ABSENT, LVIS_INCOMPLETE

_INNER = ("dataset", "datasets")


@dataclass(frozen=True, slots=True)
class Source:
    """A data set of mmdet that has read its files.

    Args:
        records: mmdet's records, one per sample.
        metainfo: mmdet's, with ``classes``; of COCO files also ``cat_ids``, in the order of ``classes``.
        ann_file: Annotation files, joined by commas.
        prefixes: Folders of the images.
        federated: Whether classes without boxes are unknown unless verified, as in LVIS and OpenImages.
    """

    records: list[dict[str, Any]]
    metainfo: dict[str, Any]
    ann_file: str
    prefixes: tuple[str, ...]
    federated: bool


def leaves_of(settings: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """Yield the settings of the data sets that read files, through wrappers such as ``ConcatDataset``."""
    inner = [settings[key] for key in _INNER if key in settings]
    if not inner:
        yield settings
    for part in inner:
        for one in part if isinstance(part, list | tuple) else [part]:
            if not isinstance(one, Mapping):
                raise ConfigError(f"{name_of(settings)} of mmdet: a data set is a dict of settings, got {one!r}")
            yield from leaves_of(one)


def read_source(settings: Mapping[str, Any]) -> Source:
    """Build a data set of mmdet and read its files; call it within ``mmdet_scope``.

    Raises:
        ConfigError: There is no such class, it does not take these settings, or it mixes images.
        DataError: Its files cannot be read, or it names no classes.
    """
    from mmdet.datasets.openimages import OpenImagesDataset

    leaves: list[Any] = []
    whole = _build(settings, leaves)
    metainfo = {**whole.metainfo, "classes": tuple(_classes_of(leaves[0]))}
    if len(leaves) == 1 and hasattr(leaves[0], "cat_ids"):
        metainfo["cat_ids"] = tuple(leaves[0].cat_ids)
    prefixes = (path for leaf in leaves for path in leaf.data_prefix.values() if isinstance(path, str))
    return Source(
        records=[whole.get_data_info(place) for place in range(len(whole))],
        metainfo=metainfo,
        ann_file=", ".join(str(leaf.ann_file) for leaf in leaves),
        prefixes=tuple(prefixes),
        federated=any(isinstance(leaf, (_lvis_kind(), OpenImagesDataset)) for leaf in leaves),
    )


def _build(settings: Mapping[str, Any], leaves: list[Any]) -> Any:
    """Return the data set, whose parts are read already; those that read files are added to ``leaves``."""
    from mmdet.registry import DATASETS

    inner = [key for key in _INNER if key in settings]
    if not inner:
        leaves.append(_read_leaf(settings))
        return leaves[-1]
    if "pipeline" in settings:
        raise ConfigError(
            f"{name_of(settings)} of mmdet mixes images, which Lumen's pipelines do not; give its dataset"
        )
    parts = dict(settings)
    for key in inner:
        part = settings[key]
        # Wrappers take settings only, so what is built already is given as settings.
        many = [{"type": _as_given, "dataset": _build(one, leaves)} for one in (part if key == "datasets" else [part])]
        parts[key] = many if key == "datasets" else many[0]
    return build(DATASETS, parts, "data set")


def _as_given(dataset: Any) -> Any:
    return dataset


def _read_leaf(settings: Mapping[str, Any]) -> Any:
    """Return a data set that has read its files, without mmdet's transforms, which Lumen's replace."""
    from mmdet.registry import DATASETS

    settings = {**with_found_paths(settings), "pipeline": [], "lazy_init": True, "serialize_data": False}
    leaf = build(DATASETS, settings, "data set")
    fault = f"{name_of(settings)} of mmdet cannot read {leaf.ann_file!r}"
    remedy = "give it files in the layout of its class and, where they have none, metainfo=dict(classes=(...))"
    with named_faults(fault, DataError, remedy=remedy):
        categories = _read_files(leaf)
        if not _classes_of(leaf) and getattr(leaf, "dataset_mode", None) != "VG":
            raise DataError(f"{fault}: it names no classes; add metainfo=dict(classes=(...)) to its settings")
        if categories is not None:
            _name_labels(leaf, categories)
        if isinstance(leaf, _lvis_kind()):
            _add_verified(leaf)
    return leaf


def _read_files(leaf: Any) -> list[dict[str, Any]] | None:
    """Let a data set read its files, and return the categories of a COCO file, which mmdet forgets; None elsewhere."""
    opened: list[Any] = []
    api = getattr(leaf, "COCOAPI", None)
    if api is not None:
        leaf.COCOAPI = lambda path: opened.append(api(path)) or opened[-1]
    if isinstance(leaf, _lvis_kind()) and importlib.util.find_spec("lvis") is None:
        raise ConfigError(
            "mmdet reads LVIS with the package lvis: pip install --no-deps lvis==0.5.3 (its opencv-python would "
            "replace opencv-python-headless); or read the file by lumen.data.coco.CocoDataset with federated=True"
        )
    leaf.full_init()
    if not opened:
        return load_json(leaf.ann_file)["categories"] if isinstance(leaf, _lvis_kind()) else None
    num_kept = sum(len(info["instances"]) for info in leaf.data_list)
    print_log(
        f"{leaf.ann_file}: {type(leaf).__name__} of mmdet gives {num_kept} of {len(opened[0].anns)} annotations; it "
        "leaves out those of other classes, without area, and with ignore=1",
        logger="current",
    )
    return opened[0].dataset["categories"]


def _lvis_kind() -> type:
    from mmdet.datasets.lvis import LVISV05Dataset

    return LVISV05Dataset


def _classes_of(leaf: Any) -> list[str]:
    """Return the names of the labels; ODVG has them in a file of its own."""
    if getattr(leaf, "label_map", None) is None:
        return list(leaf.metainfo.get("classes") or ())
    names = {int(number): name for number, name in leaf.label_map.items()}
    if sorted(names) != list(range(len(names))):
        raise DataError(f"label_map_file must number its names from 0 without gaps, got {sorted(names)[:10]}")
    return [names[number] for number in range(len(names))]


def _name_labels(leaf: Any, categories: list[dict[str, Any]]) -> None:
    """Number the labels of a COCO file by ``classes``: mmdet numbers them in the order of the file.

    Raises:
        DataError: The file lacks a class, or has two categories of one name.
    """
    name_of_id = {entry["id"]: entry["name"] for entry in categories}
    found, classes = [name_of_id[cat_id] for cat_id in leaf.cat_ids], list(leaf.metainfo["classes"])
    missing = [name for name in classes if name not in found]
    if missing or len(set(found)) < len(found):
        raise DataError(
            f"{leaf.ann_file}: classes must be different names of its categories; not among them: {missing[:5]} "
            f"({len(missing)}); the file has {list(name_of_id.values())[:10]} ({len(name_of_id)}); set metainfo=dict("
            "classes=(...))"
        )
    label_of_name = {name: label for label, name in enumerate(classes)}
    new = {old: label_of_name[name] for old, name in enumerate(found) if name in label_of_name}
    for info in leaf.data_list:
        kept = [entry for entry in info["instances"] if entry["bbox_label"] in new]
        info["instances"] = [{**entry, "bbox_label": new[entry["bbox_label"]]} for entry in kept]
    id_of_name = dict(zip(found, leaf.cat_ids, strict=True))
    leaf.cat_ids = [id_of_name[name] for name in classes]


def _add_verified(leaf: Any) -> None:
    """Add what LVIS states of an image's classes, which mmdet does not read, by label."""
    label_of_id = {cat_id: label for label, cat_id in enumerate(leaf.cat_ids)}
    images = {entry["id"]: entry for entry in load_json(leaf.ann_file)["images"]}
    for info in leaf.data_list:
        lists = {key: images[info["img_id"]][key] for key in (LVIS_ABSENT, LVIS_INCOMPLETE)}
        info["verified"] = {
            key: [label_of_id[cat_id] for cat_id in ids if cat_id in label_of_id] for key, ids in lists.items()
        }

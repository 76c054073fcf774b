"""Files with referring sentences: four layouts, one kind of record.

Every layout is turned into the checked records of ``read_coco``, with all objects of an image, and ``refs``: the
sentences of that image. Pickles are read without running anything that they hold.

Layouts:
    ``refer``: ``refs(unc).p`` of RefCOCO, RefCOCO+ and RefCOCOg, a pickled list of objects with ``image_id``,
        ``ann_id``, ``split`` and ``sentences``, a list of dicts with ``sent``; and ``instances.json``.
    ``grefcoco``: ``grefs(unc).json``, the same as json; ``ann_id`` is a list, [-1] or empty for no target.
    ``mdetr``: MDETR's ``finetune_*.json``, a COCO file whose ``images`` are sentences: ``caption``, and the image
        in ``original_id``. All annotations of such an entry are its targets, named by their ``original_id``; one
        that is ``empty`` stands for no target. ``tokens_positive`` is not used, but must be one for all of them.
    ``shapes``: ``refs_train.json`` of the generated data set: ``refs`` with ``image_id``, ``ann_ids``,
        ``sentence`` and ``kind``; and its ``instances_train.json``. With split ``groups`` also
        ``groups``, sentences such as "the red shapes", for any number of targets.

Source:
    Layouts as read by lichengunc/refer ``refer.py``, henghuiding/ReLA ``grefer.py``, and as written by ashkamath/mdetr
    ``scripts/fine-tuning/refexp_coco_format.py``; nothing is copied.
"""

import io
import os
import pickle
import pickletools
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from lumen.data.annotations import (
    CocoFile,
    check_budget,
    is_id,
    is_printable,
    load_json,
    parse_coco,
    parse_json,
    read_coco,
)
from lumen.errors import ConfigError, DataError
from lumen.ops.masks import merge_masks
from lumen.paths import open_file
from lumen.prompts import MAX_PHRASE_CHARACTERS

MAX_SENTENCES = 5_000_000
Sentence = dict[str, Any]


def read_refer(
    ann_file: str | os.PathLike[str],
    *,
    layout: str,
    instances_file: str | os.PathLike[str] | None = None,
    split: str | None = None,
    image_root: str = "",
    skip_budget: float = 0.001,
    with_masks: bool = False,
) -> CocoFile:
    """Read and check a file with referring sentences.

    Args:
        ann_file: The file with the sentences.
        layout: One of those above.
        instances_file: COCO file with the images and objects; not for ``mdetr``, which holds them itself.
        split: For ``refer`` and ``grefcoco``: train, val, testA, testB or test, which is all test splits together.
        image_root: Folder that the file names are relative to and may not leave.
        skip_budget: Share of images, annotations and sentences, each, that may be skipped before it is an error.
        with_masks: Read ``segmentation`` too; an annotation without a sound one is skipped, and its sentences.

    Returns:
        The images that have sentences. Each record has ``refs``, a list of dicts: ``sentence``, ``ann_ids`` (targets,
        int64, empty for none; they name rows of ``instances`` also when some of these have left), ``kind`` (a text,
        empty where the layout has none), ``ref_id`` (number of the sentence in its file, from 0) and, with masks,
        ``target_rle`` (union of the targets' masks in original pixels, ``None`` without target). In layout ``mdetr``
        objects without a sentence are unknown, so ``absent_labels`` is empty: no class is surely absent.

    Raises:
        ConfigError: The layout is unknown, or an argument that it needs is missing or not for it.
        DataError: A file is not what it should be, or the budget is exceeded.
    """
    _check_arguments(layout, instances_file, split)
    options = {"image_root": image_root, "skip_budget": skip_budget, "with_masks": with_masks}
    if layout == "mdetr":
        content, sentences = _read_mdetr(ann_file)
        coco = parse_coco(content, ann_file, classes=None, federated=False, **options)
        # Only objects with sentences are annotated there, so that no class is known to be absent.
        for record in coco.records:
            record["absent_labels"] = ()
    else:
        sentences = _READERS[layout](ann_file, split)
        coco = read_coco(instances_file, **options)
    return _add_sentences(coco, sentences, ann_file, skip_budget)


def load_plain_pickle(path: str | os.PathLike[str]) -> Any:
    """Return the content of a pickle of lists, dicts, texts and numbers; nothing in the file is executed.

    Raises:
        DataError: The file cannot be read, or holds anything else.
    """
    try:
        with open_file(path, "rb") as file:
            # Read first, so that an error of the disk is told from one of the pickle.
            content = file.read()
        _check_opcodes(content, path)
        # Unpickling can run code; without classes and functions there is nothing to run.
        return _PlainUnpickler(io.BytesIO(content), encoding="utf-8").load()  # the texts of Python 2 are bytes
    except DataError:
        raise
    except (pickle.UnpicklingError, OSError, EOFError, ValueError, TypeError, KeyError, IndexError) as error:
        raise DataError(f"{path}: no pickle of plain data ({type(error).__name__}: {error})") from error
    except (AttributeError, OverflowError, MemoryError, RecursionError) as error:
        raise DataError(f"{path}: a broken pickle ({type(error).__name__}: {error})") from error


def _check_opcodes(content: bytes, path: str | os.PathLike[str]) -> None:
    """Refuse a pickle that asks for more memory than it has content: for a place in the memo far beyond its end.

    Raises:
        DataError: It does so, or is cut off.
    """
    for name, argument in _opcodes(io.BytesIO(content)):
        if name in ("PUT", "BINPUT", "LONG_BINPUT") and argument > len(content):
            raise DataError(f"{path}: a broken pickle: it names place {argument} of a memo in {len(content)} bytes")


def _opcodes(file: io.BytesIO) -> Iterator[tuple[str, Any]]:
    """Yield name and argument of each opcode, as ``pickletools.genops``, which takes no texts beyond ASCII."""
    while code := file.read(1):
        opcode = pickletools.code2op.get(code.decode("latin-1"))
        if opcode is None:
            raise ValueError(f"{code!r} is no opcode")
        if opcode.name == "STRING":  # a line, with escapes for all other bytes
            yield opcode.name, file.readline()
        else:
            yield opcode.name, None if opcode.arg is None else opcode.arg.reader(file)
        if opcode.name == "STOP":
            return


class _PlainUnpickler(pickle.Unpickler):
    """Knows no class and no function, so a pickle has nothing that it could call."""

    def find_class(self, module: str, name: str) -> Any:
        raise pickle.UnpicklingError(f"it asks for {module}.{name}; only lists, dicts, texts and numbers are read")


def _check_arguments(layout: str, instances_file: object, split: str | None) -> None:
    layouts = [*_READERS, "mdetr"]
    if layout not in layouts:
        raise ConfigError(f"layout must be one of {layouts}, got {layout!r}")
    if (instances_file is None) != (layout == "mdetr"):
        raise ConfigError(f"layout {layout!r}: instances_file is for all layouts but 'mdetr', which need it")
    if layout == "shapes" and split not in (None, "groups"):
        raise ConfigError(f"layout 'shapes': split is left out, or 'groups' to have these too; got {split!r}")
    if layout != "shapes" and (split is None) != (layout == "mdetr"):
        raise ConfigError(f"layout {layout!r}: split is for 'refer' and 'grefcoco', which need it; got {split!r}")


def _read_refcoco(ann_file: str | os.PathLike[str], split: str) -> list[Sentence]:
    return _sentences_of_split(load_plain_pickle(ann_file), split, ann_file)


def _read_grefcoco(ann_file: str | os.PathLike[str], split: str) -> list[Sentence]:
    return _sentences_of_split(parse_json(ann_file), split, ann_file)


def _read_shapes(ann_file: str | os.PathLike[str], split: str | None) -> list[Sentence]:
    content = parse_json(ann_file)
    parts = ("refs",) if split is None else ("refs", "groups")
    if not isinstance(content, dict) or not all(isinstance(content.get(part), list) for part in parts):
        raise DataError(f"{ann_file}: expected a dict with the lists {parts}")
    keys = ("sentence", "image_id", "ann_ids", "kind")
    return [{key: ref.get(key) for key in keys} for part in parts for ref in _dicts(content[part])]


_READERS: dict[str, Callable[[str | os.PathLike[str], Any], list[Sentence]]] = {
    "refer": _read_refcoco,
    "grefcoco": _read_grefcoco,
    "shapes": _read_shapes,
}


def _sentences_of_split(content: Any, split: str, ann_file: str | os.PathLike[str]) -> list[Sentence]:
    if not isinstance(content, list):
        raise DataError(f"{ann_file}: expected a list of referred objects, got {type(content).__name__}")
    chosen = [ref for ref in _dicts(content) if _is_in_split(ref.get("split"), split)]
    if not chosen:
        known = sorted({str(ref.get("split")) for ref in _dicts(content)})
        raise DataError(f"{ann_file}: split {split!r} is empty; the file has {known[:10]}")
    # A pickle may hold one list many times, so that few bytes stand for many sentences.
    num_sentences = sum(len(ref["sentences"]) for ref in chosen if isinstance(ref.get("sentences"), list))
    if num_sentences > MAX_SENTENCES:
        raise DataError(f"{ann_file}: {num_sentences} sentences in one split, the limit is {MAX_SENTENCES}")
    return [
        {"sentence": sentence.get("sent"), "image_id": ref.get("image_id"), "ann_ids": ref.get("ann_id")}
        for ref in chosen
        for sentence in _dicts(ref["sentences"] if isinstance(ref.get("sentences"), list) else [None])
    ]


def _is_in_split(name: Any, split: str) -> bool:
    """Whether an object marked ``name`` belongs to ``split``; objects of testAB belong to testA, testB and test."""
    if not isinstance(name, str) or not (name.startswith("test") and split.startswith("test")):
        return name == split
    # `testA` in `testAB`; a plain `test` asks for no letter and takes all.
    return set(split.removeprefix("test")) <= set(name.removeprefix("test"))


def _read_mdetr(ann_file: str | os.PathLike[str]) -> tuple[dict[str, list], list[Sentence]]:
    """Return a COCO file with each image and object once, and the sentences about them."""
    content = load_json(ann_file)
    image_of_entry: dict[Any, Any] = {}
    images: dict[Any, dict] = {}
    for entry in _dicts(content["images"]):
        # MDETR numbers sentences as images; `original_id` is the image.
        number, image_id = _key(entry.get("id")), entry.get("original_id", entry.get("id"))
        if number is not None and number in image_of_entry:
            raise DataError(f"{ann_file}: id {number} occurs twice in 'images'")
        image_of_entry[number] = image_id
        # Entries of one image repeat its file and size; the first one stands for all.
        images.setdefault(_key(image_id), {**entry, "id": image_id})
    annotations: dict[Any, dict] = {}
    targets: defaultdict[Any, list] = defaultdict(list)
    spans: dict[Any, Any] = {}
    for entry in _dicts(content["annotations"]):
        number = _key(entry.get("image_id"))
        # Several phrases would need a target each; one sentence, one set of targets here.
        if spans.setdefault(number, entry.get("tokens_positive")) != entry.get("tokens_positive"):
            raise DataError(f"{ann_file}: caption {number} has several phrases; expected one sentence per image entry")
        if entry.get("empty") is not True:
            ann_id = entry.get("original_id", entry.get("id"))
            # One object may be the target of many sentences, and is one annotation all the same.
            targets[number].append(ann_id)
            annotations.setdefault(_key(ann_id), {**entry, "id": ann_id, "image_id": image_of_entry.get(number)})
    sentences = [
        {"sentence": entry.get("caption"), "image_id": image_of_entry[number], "ann_ids": targets[number]}
        for entry in _dicts(content["images"])
        for number in [_key(entry.get("id"))]
    ]
    merged = {"images": [*images.values()], "annotations": [*annotations.values()]}
    return {**merged, "categories": content["categories"]}, sentences


def _add_sentences(
    coco: CocoFile, sentences: Sequence[Sentence], ann_file: str | os.PathLike[str], skip_budget: float
) -> CocoFile:
    """Return the records that have sentences, with these in ``refs``."""
    instances = {record["img_id"]: record["instances"] for record in coco.records}
    targets = {img_id: _row_of_target(table) for img_id, table in instances.items()}
    refs: defaultdict[int, list[dict]] = defaultdict(list)
    report: defaultdict[str, list[int]] = defaultdict(list)
    for number, sentence in enumerate(sentences):
        ann_ids = _ann_ids(sentence.get("ann_ids"))
        problem = _sentence_problem(sentence, ann_ids, targets)
        if problem is not None:
            report[problem].append(number)
            continue
        img_id = sentence["image_id"]
        # Rows of the table before any view: masks are joined in original pixels.
        rows = [targets[img_id][ann_id] for ann_id in ann_ids]
        refs[img_id].append(_make_ref(sentence, number, instances[img_id], rows))
    check_budget(report, len(sentences), skip_budget, f"{ann_file}: sentences")
    records = [{**record, "refs": refs[record["img_id"]]} for record in coco.records if record["img_id"] in refs]
    return replace(coco, records=records, report={**coco.report, **report})


def _make_ref(sentence: Sentence, number: int, table: Mapping[str, np.ndarray], rows: list[int]) -> dict[str, Any]:
    ref = {
        "sentence": sentence["sentence"].strip(),
        "ann_ids": table["ann_ids"][rows],
        "kind": sentence.get("kind") or "",
        "ref_id": number,
    }
    if "segmentations" in table:
        ref["target_rle"] = merge_masks([table["segmentations"][row] for row in rows]) if rows else None
    return ref


def _row_of_target(table: Mapping[str, np.ndarray]) -> dict[int, int | None]:
    """Return the row of each annotation id, None for crowd and ignored ones."""
    columns = zip(table["ann_ids"].tolist(), table["is_ignored"].tolist(), strict=True)
    return {ann_id: None if is_ignored else row for row, (ann_id, is_ignored) in enumerate(columns)}


def _ann_ids(value: Any) -> list[int] | None:
    """Return the different target ids; none for [-1], by which gRefCOCO marks that there is no target."""
    ids = value if isinstance(value, list) else [value]
    if not all(map(is_id, ids)):
        return None
    # Each target once, in the order of the file.
    return [] if ids == [-1] else list(dict.fromkeys(ids))


def _sentence_problem(
    sentence: Sentence, ann_ids: list[int] | None, targets: Mapping[int, Mapping[int, int | None]]
) -> str | None:
    text, image_id = sentence.get("sentence"), sentence.get("image_id")
    if not is_printable(text) or len(text) > MAX_PHRASE_CHARACTERS:
        return f"sentence is missing, empty, unprintable or longer than {MAX_PHRASE_CHARACTERS} characters"
    if not isinstance(sentence.get("kind") or "", str):
        return "kind of a sentence is not a text"
    if not is_id(image_id) or image_id not in targets:
        return "sentence about an unknown or skipped image"
    if ann_ids is None or not all(ann_id in targets[image_id] for ann_id in ann_ids):
        return "sentence about an unknown or skipped annotation"
    if any(targets[image_id][ann_id] is None for ann_id in ann_ids):
        return "sentence about a crowd or an ignored annotation"
    return None


def _dicts(entries: Iterable[Any]) -> list[dict]:
    """Return the entries, an empty dict in place of what is none, so that it is counted as faulty later on."""
    return [entry if isinstance(entry, dict) else {} for entry in entries]


def _key(value: Any) -> Any:
    """Return an id, or None in place of what cannot be one (and perhaps cannot be a key of a dict either)."""
    return value if is_id(value) else None

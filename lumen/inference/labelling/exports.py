"""Files for tools that people look at labels with, and correct them: Label Studio and FiftyOne."""

import base64
import io
import json
import os
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from lumen.inference.labelling.job import Job
from lumen.inference.labelling.pictures import LIST_SUFFIXES
from lumen.inference.labelling.records import Records, readable, size_hw, table_of, write_lines
from lumen.interop.label_studio import labelling_config, make_task
from lumen.ops.masks import decode_masks, mask_boxes
from lumen.serialization.atomic import TEMPORARY, atomic_file, write_text

_DATA = "data"


def write_label_studio(folder: Path, job: Job, records: Records) -> None:
    """Write ``label-studio/tasks.json``, predictions to correct, and ``label-studio/config.xml`` for their project.

    An image is one of the local storage, whose document root is the folder that holds the source; of a list or a COCO
    file, it is the folder that its paths start from. ``lumen convert`` reads what becomes of it.
    """
    root = _source_folder(job)
    (folder / "label-studio").mkdir(exist_ok=True)
    config = labelling_config(job.names, has_masks=job.has_masks)
    write_text(folder / "label-studio" / "config.xml", config)
    with atomic_file(folder / "label-studio" / "tasks.json") as file:
        file.write(b"[")
        name = "" if root is None else root.name
        tasks = (
            make_task(record["file"], name, size_hw(record), table_of(record, job), f"lumen {job.task}")
            for _, record in readable(records)
        )
        write_lines(file, tasks)
        file.write(b"]\n")


def write_fiftyone(folder: Path, job: Job, records: Records) -> None:
    """Write ``fiftyone/samples.json`` and ``fiftyone/metadata.json``, with ``fiftyone/data`` as a link to the source.

    It is the layout of ``fiftyone.types.FiftyOneDataset`` without a ``version``, of which FiftyOne makes the fields
    itself, since those of its data base change from version to version. Only a folder can be linked to; for other
    sources ``data`` is to be made by hand.
    """
    place, root = folder / "fiftyone", _source_folder(job)
    place.mkdir(exist_ok=True)
    if root is not None and root.is_dir():
        _link(place / _DATA, root)
    info = {"description": f"lumen label, {job.task}", "classes": list(job.names)}
    content = {"name": "lumen", "media_type": "image", "info": info}
    write_text(place / "metadata.json", json.dumps(content, indent=1) + "\n")
    with atomic_file(place / "samples.json") as file:
        file.write(b'{"samples": [')
        write_lines(file, (_sample(record, job) for _, record in readable(records)))
        file.write(b"]}\n")


def _source_folder(job: Job) -> Path | None:
    """Return the folder that was labelled; None for a list, a shard or a COCO file."""
    source = Path(job.source).resolve()
    return None if source.suffix.lower() in (*LIST_SUFFIXES, ".json", ".tar") and not source.is_dir() else source


def _link(place: Path, target: Path) -> None:
    """Make a link, or make it anew."""
    temporary = place.with_name(f"{TEMPORARY}{place.name}")
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(target)
    os.replace(temporary, place)


def _sample(record: Mapping[str, Any], job: Job) -> dict[str, Any]:
    height, width = size_hw(record)
    return {
        "filepath": f"{_DATA}/{record['file']}",
        "tags": [],
        "metadata": {"_cls": "ImageMetadata", "width": width, "height": height},
        "predictions": {"_cls": "Detections", "detections": list(_detections(record, job))},
    }


def _detections(record: Mapping[str, Any], job: Job) -> Iterator[dict[str, Any]]:
    """Yield the objects of a picture; boxes are x, y, width and height as shares of the picture.

    An object whose mask has no pixel is left out: FiftyOne takes no empty array for a mask.
    """
    table, (height, width) = table_of(record, job), size_hw(record)
    # A mask is stored for its own box, whose corners are whole pixels.
    boxes = mask_boxes(table.masks) if job.has_masks else table.bboxes
    for row, (x1, y1, x2, y2) in enumerate(boxes.tolist()):
        if job.has_masks and x2 <= x1:
            continue
        yield {
            "_cls": "Detection",
            "tags": [],
            "label": table.phrases[row],
            "bounding_box": [x1 / width, y1 / height, (x2 - x1) / width, (y2 - y1) / height],
            "confidence": record["scores"][row],
            **({"mask": _binary(_cut(table.masks[row], boxes[row]))} if job.has_masks else {}),
        }


def _cut(code: Mapping[str, Any], box: Any) -> np.ndarray:
    x1, y1, x2, y2 = map(int, box.tolist())
    return decode_masks([code], code["size"])[0, y1:y2, x1:x2].numpy()


def _binary(array: np.ndarray) -> dict[str, Any]:
    """Return an array as FiftyOne keeps it: the content of a .npy file, compressed, in MongoDB's extended JSON."""
    content = io.BytesIO()
    np.save(content, array, allow_pickle=False)
    text = base64.b64encode(zlib.compress(content.getvalue())).decode("ascii")
    return {"$binary": {"base64": text, "subType": "00"}}

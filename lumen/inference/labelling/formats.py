"""Files that the answers of a job become, one function per format. Each reads the answers picture by picture.

YOLO and VOC are written by the functions of ``supervision`` for one picture. Its writers of a whole data set hold all
detections in memory, and so does its writer of COCO files, which leaves out scores and turns masks into polygons, too.
"""

import importlib.util
import io
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from PIL import Image

from lumen.errors import ConfigError
from lumen.inference.labelling.exports import write_fiftyone, write_label_studio
from lumen.inference.labelling.job import Job
from lumen.inference.labelling.records import Records, readable, size_hw, table_of, write_lines
from lumen.inference.labelling.run import read_ahead
from lumen.interop.supervision import to_supervision
from lumen.ops.masks import decode_masks, mask_area, mask_boxes
from lumen.serialization.atomic import TEMPORARY, atomic_file

_WRITES_AT_ONCE = 16
_MAX_MAP_LABEL = 255


def write_coco(folder: Path, job: Job, records: Records) -> None:
    """Write ``coco.json``: category ids from 1 in the order of the names; ``score`` per annotation; masks as RLE.

    Images keep the ids of a COCO source; others count from 1. Pictures that could not be read are left out.
    """
    with atomic_file(folder / "coco.json") as file:
        file.write(b'{"info": %s,\n' % json.dumps({"description": f"lumen label, {job.task}"}).encode())
        categories = [{"id": number, "name": name} for number, name in enumerate(job.names, start=1)]
        file.write(b'"categories": %s,\n"images": [' % json.dumps(categories).encode())
        write_lines(file, (_coco_image(number, record) for number, record in readable(records)))
        file.write(b'],\n"annotations": [')
        write_lines(file, _coco_annotations(records))
        file.write(b"]}\n")


def write_yolo(folder: Path, job: Job, records: Records) -> None:
    """Write ``yolo/labels/NAME.txt`` per picture, boxes or polygons of masks, and ``yolo/data.yaml``. No scores."""
    from supervision.dataset.formats.yolo import detections_to_yolo_annotations, save_data_yaml

    def lines(record: Mapping[str, Any]) -> bytes:
        found = detections_to_yolo_annotations(to_supervision(table_of(record, job)), size_hw(record))
        return "".join(f"{line}\n" for line in found).encode("ascii")

    _write_each(folder / "yolo" / "labels", ".txt", records, lines)
    temporary = folder / "yolo" / f"{TEMPORARY}data.yaml"
    save_data_yaml(str(temporary), list(job.names))
    os.replace(temporary, folder / "yolo" / "data.yaml")


def write_voc(folder: Path, job: Job, records: Records) -> None:
    """Write ``voc/NAME.xml`` per picture. No scores."""
    from supervision.dataset.formats.pascal_voc import detections_to_pascal_voc

    def xml(record: Mapping[str, Any]) -> bytes:
        detections = to_supervision(table_of(record, job))
        return detections_to_pascal_voc(detections, list(job.names), record["file"], (*size_hw(record), 3)).encode()

    _write_each(folder / "voc", ".xml", records, xml)


def write_masks(folder: Path, job: Job, records: Records) -> None:
    """Write ``masks/NAME.png`` per picture: grey values are the position of the name plus 1, and 0 where nothing is.

    Where masks overlap the best score is on top. ``SemanticDataset`` reads them with ``reduce_zero_label=True``.
    """

    def png(record: Mapping[str, Any]) -> bytes:
        table = table_of(record, job)
        label_map = np.zeros(size_hw(record), dtype=np.uint8)
        for row in table.scores.argsort(stable=True).tolist():
            label_map[decode_masks([table.masks[row]], size_hw(record))[0].numpy()] = int(table.labels[row]) + 1
        content = io.BytesIO()
        Image.fromarray(label_map).save(content, "PNG")
        return content.getvalue()

    _write_each(folder / "masks", ".png", records, png)


def write_parquet(folder: Path, job: Job, records: Records) -> None:
    """Write ``labels.parquet``: a row per picture, with lists; pictures that could not be read have ``fault``.

    Boxes are xyxy in pixels of the picture; a mask is the counts of its run-length code, whose size is the picture's.
    """
    import pyarrow
    from pyarrow import parquet

    fields = {"file": "string", "id": "int64", "height": "int32", "width": "int32", "fault": "string"}
    schema = pyarrow.schema(
        [
            *((name, pyarrow.type_for_alias(kind)) for name, kind in fields.items()),
            ("labels", pyarrow.list_(pyarrow.int32())),
            ("scores", pyarrow.list_(pyarrow.float32())),
            ("bboxes", pyarrow.list_(pyarrow.list_(pyarrow.float32(), 4))),
            ("masks", pyarrow.list_(pyarrow.string())),
        ],
        metadata={"names": json.dumps(job.names), "task": job.task},
    )
    with atomic_file(folder / "labels.parquet") as file, parquet.ParquetWriter(file, schema) as writer:
        for rows in _in_groups(records(), job.part_size):
            writer.write_table(pyarrow.Table.from_pylist(rows, schema))


FORMATS: Mapping[str, Callable[[Path, Job, Records], None]] = {
    "coco": write_coco,
    "yolo": write_yolo,
    "voc": write_voc,
    "parquet": write_parquet,
    "masks": write_masks,
    "label-studio": write_label_studio,
    "fiftyone": write_fiftyone,
}
_PER_PICTURE = ("yolo", "voc", "masks")
_NEEDS = {"yolo": "supervision", "voc": "supervision", "parquet": "pyarrow"}


def check_formats(formats: Iterable[str], job: Job) -> None:
    """Raise ConfigError where a format is unknown, lacks its package, or cannot hold the labels of a job."""
    for name in formats:
        if name not in FORMATS:
            raise ConfigError(f"--format {name!r} is not an accepted value; known are {', '.join(FORMATS)}")
        if name in _PER_PICTURE and job.pictures.same_stem is not None:
            raise ConfigError(
                f"--format {name} writes a file per picture without its ending, and {job.pictures.same_stem!r} differs "
                "from another picture in its ending alone; rename one of them, or leave that format out"
            )
        if name == "masks" and not job.has_masks:
            raise ConfigError(f"task {job.task!r} gives no masks; leave --format masks out, or ask for a task of masks")
        if name == "masks" and len(job.names) >= _MAX_MAP_LABEL:
            raise ConfigError(f"a PNG mask holds {_MAX_MAP_LABEL - 1} names at most, got {len(job.names)}")
        needed = _NEEDS.get(name)
        if needed is not None and importlib.util.find_spec(needed) is None:
            raise ConfigError(
                f"--format {name} needs the package {needed}, which is not installed: pip install "
                "'lumen-perception[label]'"
            )


def _coco_image(number: int, record: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "id": record.get("id", number),
        **{key: record[key] for key in ("height", "width")},
        "file_name": record["file"],
    }


def _coco_annotations(records: Records) -> Iterator[dict[str, Any]]:
    number = 0
    for place, record in readable(records):
        masks = [{"size": list(size_hw(record)), "counts": counts} for counts in record.get("masks", ())]
        boxes = record["bboxes"] if "bboxes" in record else mask_boxes(masks).tolist()
        for row, (label, score) in enumerate(zip(record["labels"], record["scores"], strict=True)):
            number += 1
            left, top, right, bottom = boxes[row]
            width, height = round(right - left, 3), round(bottom - top, 3)
            yield {
                "id": number,
                "image_id": record.get("id", place),
                "category_id": label + 1,
                "bbox": [left, top, width, height],
                "area": mask_area(masks[row]) if masks else round(width * height, 3),
                "iscrowd": 0,
                "score": score,
                **({"segmentation": masks[row]} if masks else {}),
            }


def _write_each(folder: Path, ending: str, records: Records, make: Callable[[Mapping[str, Any]], bytes]) -> None:
    """Write a file per picture, several at once, since each waits for the disk."""

    def write(item: tuple[int, dict[str, Any]]) -> None:
        path = folder / PurePosixPath(item[1]["file"]).with_suffix(ending)
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_file(path) as file:
            file.write(make(item[1]))

    folder.mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(_WRITES_AT_ONCE) as pool:
        for _ in read_ahead(readable(records), write, pool=pool, ahead=4 * _WRITES_AT_ONCE):
            pass


def _in_groups(records: Iterator[dict[str, Any]], size: int) -> Iterator[list[dict[str, Any]]]:
    while group := list(islice(records, size)):
        yield group

"""Memory that the annotations of a large set take in training, per annotation and per node.

A COCO file is generated, and each way to hold it is measured in a process of its own, by the resident memory that is
left after reading: the Python objects of the json file, as pycocotools and readers built on it keep them in each
process; and ``CocoDataset``, whose bytes all processes of a node and their workers share.
"""

import argparse
import gc
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import numpy as np

EXAMPLES = """examples:
  python tools/benchmarks/annotation_memory.py                  # 1,000,000 boxes, about 2 minutes and 3 GB
  python tools/benchmarks/annotation_memory.py --boxes 100000   # seconds
"""


def write_file(path: Path, num_boxes: int, boxes_per_image: int, seed: int = 0) -> None:
    """Write a COCO file with random boxes of 365 classes in images of 640 x 480 pixels."""
    rng = np.random.default_rng(seed)
    num_images = -(-num_boxes // boxes_per_image)
    corners = rng.uniform(0, (500, 380), (num_boxes, 2)).round(2).tolist()
    sizes = rng.uniform(4, 90, (num_boxes, 2)).round(2).tolist()
    labels = rng.integers(1, 366, num_boxes).tolist()
    images = [
        {"id": number, "file_name": f"patch{number % 50}/{number:012d}.jpg", "width": 640, "height": 480}
        for number in range(num_images)
    ]
    annotations = [
        {
            "id": number,
            "image_id": number // boxes_per_image,
            "category_id": labels[number],
            "bbox": [*corners[number], *sizes[number]],
            "area": sizes[number][0] * sizes[number][1],
            "iscrowd": 0,
        }
        for number in range(num_boxes)
    ]
    categories = [{"id": number, "name": f"class {number}"} for number in range(1, 366)]
    path.write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories}))


def resident_bytes() -> int:
    """Return the resident memory of this process."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def measure(way: str, path: Path) -> dict[str, int]:
    """Return the bytes that one way keeps, and for ``CocoDataset`` those of its array."""
    from lumen.data.coco import CocoDataset

    before = resident_bytes()
    if way == "objects":
        content = json.loads(path.read_text())
        gc.collect()
        return {"resident": resident_bytes() - before, "entries": len(content["annotations"])}
    dataset = CocoDataset(ann_file=str(path))
    gc.collect()
    array = dataset.data_bytes.nbytes + dataset.data_address.nbytes
    return {"resident": resident_bytes() - before, "array": array}


def main(options: argparse.Namespace) -> None:
    """Generate the file, measure both ways, and print a table."""
    if options.measure:
        print(json.dumps(measure(options.measure, options.file)))
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "annotations.json"
        write_file(path, options.boxes, options.boxes_per_image)
        found = {}
        for way in ("objects", "dataset"):
            command = [sys.executable, __file__, "--measure", way, "--file", str(path)]
            found[way] = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        size = path.stat().st_size
    objects, array = found["objects"]["resident"] / options.boxes, found["dataset"]["array"] / options.boxes
    print(f"{options.boxes} boxes, {options.boxes_per_image} per image, json file of {size / 1e6:.0f} MB")
    print(f"Python objects of the file, in each process: {objects:.0f} bytes per annotation")
    print(f"CocoDataset, once per node: {array:.0f} bytes per annotation, {objects / array:.1f} times fewer")
    ranks = options.processes
    print(
        f"{ranks} processes on a node: {objects * ranks:.0f} against {array:.0f}, {objects * ranks / array:.0f} times"
    )
    print(f"resident after reading in the process that reads: {found['dataset']['resident'] / 1e6:.0f} MB")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--boxes", type=int, default=1_000_000, help="number of annotations")
    parser.add_argument("--boxes-per-image", type=int, default=15, help="Objects365 has 15.8, OpenImages 8.4")
    parser.add_argument("--processes", type=int, default=8, help="processes of a node in the last line but one")
    parser.add_argument("--measure", choices=("objects", "dataset"), help="measure one way on --file and print json")
    parser.add_argument("--file", type=Path, help="the file of --measure")
    main(parser.parse_args())

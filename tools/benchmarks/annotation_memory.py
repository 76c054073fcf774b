"""Memory that the annotations of a large set take in training, per annotation, for one and for several ranks of a node.

A COCO file is generated, and each way to hold it is measured: the Python objects of the json file, as pycocotools and
readers built on it keep them in each process; and ``CocoDataset``, whose bytes all processes of a node and their
workers share. Each measurement starts processes of its own, which read the file as the ranks of a run do. What they
keep is the growth of their proportional set size, summed over the ranks: of a page that two processes map, each counts
half.
"""

import argparse
import ctypes
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

WAYS = {"objects": "Python objects of the json file", "dataset": "CocoDataset"}
EXAMPLES = """examples:
  python tools/benchmarks/annotation_memory.py                  # 1,000,000 boxes, about a minute and 3 GB
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


def kept_bytes() -> int:
    """Return the proportional set size of this process, after what can be freed went back to the system."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    fields = Path("/proc/self/smaps_rollup").read_text().split()
    return int(fields[fields.index("Pss:") + 1]) * 1024


def measure(way: str, path: Path, meeting: Path) -> int:
    """Return the bytes that one way keeps in this process; the ranks of a node meet in the file ``meeting``."""
    from torch import distributed

    from lumen.data.coco import CocoDataset

    rank, num_ranks = (int(os.environ[name]) for name in ("RANK", "WORLD_SIZE"))
    distributed.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=num_ranks)
    distributed.barrier()
    before = kept_bytes()
    distributed.barrier()
    if way == "objects":
        kept = json.loads(path.read_text())
    else:
        kept = CocoDataset(ann_file=str(path))
        kept.data_bytes.sum()  # a mapped page counts once it is read
    distributed.barrier()  # no rank is measured while another has not read its pages
    grown = kept_bytes() - before
    distributed.barrier()
    distributed.destroy_process_group()
    del kept
    return grown


def measure_ranks(way: str, path: Path, num_ranks: int) -> int:
    """Return the bytes that one way keeps in all ranks of a node."""
    command = [sys.executable, __file__, "--measure", way, "--file", str(path)]
    with tempfile.TemporaryDirectory() as folder:
        started = [
            subprocess.Popen(
                [*command, "--meeting", f"{folder}/meeting"],
                env={**os.environ, "RANK": str(rank), "WORLD_SIZE": str(num_ranks)},
                stdout=subprocess.PIPE,
                text=True,
            )
            for rank in range(num_ranks)
        ]
        texts = [process.communicate()[0] for process in started]
    if any(process.returncode for process in started):
        raise SystemExit(f"a process that measures {way} ended with {[process.returncode for process in started]}")
    return sum(map(int, texts))


def main(options: argparse.Namespace) -> None:
    """Generate the file, measure both ways with one rank and with several, and print a table."""
    if options.measure:
        print(measure(options.measure, options.file, options.meeting))
        return
    counts = sorted({1, options.ranks})
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "annotations.json"
        write_file(path, options.boxes, options.boxes_per_image)
        found = {way: [measure_ranks(way, path, count) / options.boxes for count in counts] for way in WAYS}
        size = path.stat().st_size
    print(f"{options.boxes} boxes, {options.boxes_per_image} per image, json file of {size / 1e6:.0f} MB")
    print("bytes per annotation and node    " + "".join(f"{count:>8} rank(s)" for count in counts))
    for way, name in WAYS.items():
        print(f"{name:<33}" + "".join(f"{value:>16.0f}" for value in found[way]))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--boxes", type=int, default=1_000_000, help="number of annotations")
    parser.add_argument("--boxes-per-image", type=int, default=15, help="Objects365 has 15.8, OpenImages 8.4")
    parser.add_argument("--ranks", type=int, default=2, help="ranks of the node that is compared with one rank")
    parser.add_argument("--measure", choices=tuple(WAYS), help="measure one way on --file in this rank and print bytes")
    parser.add_argument("--file", type=Path, help="the file of --measure")
    parser.add_argument("--meeting", type=Path, help="file that the ranks of --measure meet in")
    main(parser.parse_args())

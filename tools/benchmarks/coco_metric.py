"""COCO's box AP of a whole validation set: ``CocoMetric.compute_metrics`` against that of mmdet's CocoMetric.

Ground truth and predictions are drawn by a seed: objects, noisy copies of most of them, and clutter. Each side gets the
predictions in memory and returns its figures. The script stops with an error when a backend's figures differ from
those of pycocotools by more than 1e-12 (mmdet's, which it rounds, by more than 6e-4), or when the ratio of ``auto`` to
mmdet is below the bar. Needs the ``mmdet`` extra.
"""

import argparse
import contextlib
import io
import json
import logging
import os
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import numpy as np
import torch
from _timing import print_table

from lumen.metrics.coco.backends import BACKENDS, choose_backend
from lumen.metrics.coco.metric import CocoMetric

EXAMPLES = """examples:
  python tools/benchmarks/coco_metric.py                       # 5,000 images, 380,000 boxes; several minutes
  python tools/benchmarks/coco_metric.py --images 200 --bar 5  # seconds
  python tools/benchmarks/coco_metric.py --only numpy          # auto against mmdet and nothing else
"""
NUM_CLASSES = 80
BOXES_PER_IMAGE = 76
OBJECTS_PER_IMAGE = 8
WIDTH, HEIGHT = 640, 480
NAMES = ("bbox_mAP", "bbox_mAP_50", "bbox_mAP_75", "bbox_mAP_s", "bbox_mAP_m", "bbox_mAP_l")
Sample = dict[str, Any]


@dataclass(frozen=True, slots=True)
class PromptLabel:
    """What the metric reads of a prompt."""

    label: int


def main() -> None:
    """Draw, evaluate with every side, check that all agree, print the ratios."""
    arguments = parse_arguments()
    torch.set_num_threads(1)
    silence()
    with tempfile.TemporaryDirectory() as folder:
        ann_file = str(Path(folder) / "truth.json")
        rng = np.random.default_rng(arguments.seed)
        truth, samples = draw(rng, arguments.images)
        Path(ann_file).write_text(json.dumps(truth), encoding="utf-8")
        ways = {f"lumen, {name}": ours(name, ann_file, samples) for name in arguments.only}
        ways["mmdet"] = theirs(ann_file, samples)
        boxes = sum(len(sample["pred_instances"]["labels"]) for sample in samples)
        print(f"{arguments.images} images, {boxes} boxes, {len(truth['annotations'])} objects, {NUM_CLASSES} classes")
        print(f"auto is {choose_backend('auto')}; least CPU time of {arguments.rounds} rounds, 1 thread:", flush=True)
        figures, seconds = run(ways, arguments.rounds)
    report(figures, seconds)
    check(figures, seconds, arguments.bar)


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=5000, help="images in the set (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=1, help="timed rounds, taken in turns (default: %(default)s)")
    parser.add_argument("--only", nargs="+", choices=BACKENDS, default=BACKENDS, help="backends to run (default: all)")
    parser.add_argument("--bar", type=float, default=40, help="least ratio that passes (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the boxes (default: %(default)s)")
    return parser.parse_args()


def draw(rng: np.random.Generator, num_images: int) -> tuple[dict[str, Any], list[Sample]]:
    """Draw the content of an annotation file, some objects being crowds, and the predictions of each image."""
    images, annotations, samples = [], [], []
    for img_id in range(1, num_images + 1):
        # Few classes per image, as in photographs; sizes from 8 to 300 pixels, evenly in the logarithm.
        classes = rng.choice(NUM_CLASSES, 3, replace=False)
        labels = rng.choice(classes, rng.poisson(OBJECTS_PER_IMAGE))
        boxes = draw_boxes(rng, len(labels))
        images.append({"id": img_id, "file_name": f"{img_id}.jpg", "width": WIDTH, "height": HEIGHT})
        for label, (left, top, right, bottom) in zip(labels.tolist(), boxes.tolist(), strict=True):
            entry = {"id": len(annotations) + 1, "image_id": img_id, "category_id": label + 1}
            box = [left, top, right - left, bottom - top]
            crowd = int(rng.random() < 0.01)
            annotations.append({**entry, "bbox": box, "area": box[2] * box[3] * 0.7, "iscrowd": crowd})
        samples.append(draw_answer(rng, img_id, boxes, labels, classes))
    categories = [{"id": label + 1, "name": f"class {label}"} for label in range(NUM_CLASSES)]
    return {"images": images, "annotations": annotations, "categories": categories}, samples


def draw_boxes(rng: np.random.Generator, count: int) -> np.ndarray:
    """Draw boxes (left, top, right, bottom) within the image."""
    sides = np.exp(rng.uniform(np.log(8), np.log(300), (count, 2)))
    low = rng.uniform(0, 1, (count, 2)) * (np.array([WIDTH, HEIGHT]) - sides)
    return np.concatenate([low, low + sides], axis=1)


def draw_answer(
    rng: np.random.Generator, img_id: int, boxes: np.ndarray, labels: np.ndarray, classes: np.ndarray
) -> Sample:
    """Find most objects, some of them twice, with noise in proportion to their size; fill up with clutter."""
    found = np.flatnonzero(rng.random(len(labels)) < 0.8)
    found = np.concatenate([found, found[rng.random(len(found)) < 0.3]])
    sides = np.tile(boxes[found, 2:] - boxes[found, :2], 2)
    near = boxes[found] + rng.normal(0, 0.06, (len(found), 4)) * sides
    num_clutter = max(BOXES_PER_IMAGE - len(found), 0)
    is_likely = rng.random(num_clutter) < 0.5
    stray = np.where(is_likely, rng.choice(classes, num_clutter), rng.integers(0, NUM_CLASSES, num_clutter))
    scores = np.concatenate([rng.beta(4, 2.5, len(found)), rng.beta(1, 7, num_clutter)])
    table = {
        "bboxes": torch.tensor(np.concatenate([near, draw_boxes(rng, num_clutter)]), dtype=torch.float32),
        "scores": torch.tensor(scores.round(4), dtype=torch.float32),  # rounded, so that scores tie
        "labels": torch.tensor(np.concatenate([labels[found], stray]), dtype=torch.long),
    }
    prompts = tuple(PromptLabel(label) for label in range(NUM_CLASSES))
    return {"img_id": img_id, "prompts": prompts, "ori_shape": (HEIGHT, WIDTH), "pred_instances": table}


def ours(backend: str, ann_file: str, samples: Sequence[Sample]) -> Callable[[], dict[str, float]]:
    """Return the call to time; annotations are read and predictions handed over before."""
    metric = CocoMetric(ann_file=ann_file, backend=backend)
    names = tuple(f"class {label}" for label in range(NUM_CLASSES))
    metric.dataset_meta = {"classes": names, "cat_ids": tuple(range(1, NUM_CLASSES + 1))}
    metric.process(None, samples)
    return lambda: metric.compute_metrics(metric.results)


def theirs(ann_file: str, samples: Sequence[Sample]) -> Callable[[], dict[str, float]]:
    """Return mmdet's call; annotations are read and predictions handed over before."""
    from mmdet.evaluation.metrics import CocoMetric as MmdetMetric

    metric = MmdetMetric(ann_file=ann_file, metric="bbox")
    metric.dataset_meta = {"classes": tuple(f"class {label}" for label in range(NUM_CLASSES))}
    metric.process({}, samples)
    return lambda: metric.compute_metrics(metric.results)


def run(
    ways: Mapping[str, Callable[[], dict[str, float]]], rounds: int
) -> tuple[dict[str, dict[str, float]], dict[str, float]]:
    """Return each side's figures and its least CPU seconds; what it prints is swallowed."""
    figures, seconds = {}, dict.fromkeys(ways, float("inf"))
    for _ in range(rounds):
        for name, way in ways.items():
            start = time.process_time()
            with contextlib.redirect_stdout(io.StringIO()):
                figures[name] = way()
            seconds[name] = min(seconds[name], time.process_time() - start)
    return figures, seconds


def report(figures: Mapping[str, Mapping[str, float]], seconds: Mapping[str, float]) -> None:
    """Print a line per side: seconds, how many times faster than mmdet, and its AP."""
    rows = [
        [name, f"{value:.2f}", f"{seconds['mmdet'] / value:.1f}", *(f"{figures[name][key]:.4f}" for key in NAMES[:3])]
        for name, value in seconds.items()
    ]
    print_table(["", "seconds", "x mmdet", "AP", "AP50", "AP75"], rows)


def check(figures: Mapping[str, Mapping[str, float]], seconds: Mapping[str, float], bar: float) -> None:
    """Stop with an error if figures differ or the ratio is too small."""
    reference = figures.get("lumen, pycocotools")
    for name, found in figures.items():
        expected, tolerance = (reference, 1e-12) if name != "mmdet" else (next(iter(figures.values())), 6e-4)
        if expected is None:
            continue
        difference = max(abs(found[key] - expected[key]) for key in NAMES)
        print(f"{name}: largest difference {difference:.1e}")
        if difference > tolerance:
            raise SystemExit(f"the figures of {name} differ by {difference:.2g}, expected at most {tolerance:g}")
    auto = f"lumen, {choose_backend('auto')}"
    if auto in seconds and seconds["mmdet"] / seconds[auto] < bar:
        raise SystemExit(f"the ratio to mmdet is below the bar of {bar:g}")


def silence() -> None:
    """Keep logs and foreign warnings out of the table."""
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)


if __name__ == "__main__":
    main()

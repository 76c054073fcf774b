"""How hard is the data set? A small specialist, RTMDet-tiny of mmdet, trained from scratch within a budget of CPU time.

The schedule is fixed in iterations: ``--steps``, or what a short calibration, which is not counted, finds to fit
``--budget`` CPU seconds, user and system; the true number is reported. Data options, flips, precision, averaging of
weights and evaluation are those of a Lumen run. ``rate_search.py`` chooses the learning rate of both sides alike, on
the val split. Needs the ``mmdet`` extra.
"""

import argparse
import json
import os
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")  # huge pages; torch reads it once, when it is imported

import numpy as np
import torch
from mmengine.logging import MMLogger
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from _rtmdet import Detector, Specialist
from _timing import print_table

from lumen.data.coco import CocoDataset
from lumen.data.transforms import LoadImage, ResizeToInput
from lumen.engine.hooks.cpu_clock import process_tree_seconds
from lumen.metrics.coco.metric import CocoMetric
from lumen.paths import find_path
from lumen.serialization.atomic import write_text

WARM_UP, CALIBRATION = 5, 40
LR = 8e-3
"""The best of 2e-3, 4e-3 and 8e-3 on shapes, each within 160 CPU seconds."""
FIGURES = {"AP": "coco/bbox_mAP", "AP50": "coco/bbox_mAP_50", "AP75": "coco/bbox_mAP_75"}
EXAMPLES = """examples:
  OMP_NUM_THREADS=1 python tools/benchmarks/difficulty.py --budget 600
  OMP_NUM_THREADS=1 python tools/benchmarks/difficulty.py --steps 2000 --lr 4e-3 --splits val --out figures.json
"""


def main() -> None:
    """Train, evaluate, print."""
    arguments = parse_arguments()
    torch.set_num_threads(arguments.threads)
    MMLogger.get_current_instance().setLevel("WARNING")  # mmdet logs how it initialises every tensor
    warnings.filterwarnings("ignore", message="torch.meshgrid")
    steps = arguments.steps or calibrate(arguments)(arguments.budget)
    network, seconds = train(arguments, steps)
    judged = {split: evaluate(arguments, network, split) for split in arguments.splits}
    size = sum(parameter.numel() for parameter in network.parameters()) / 1e6
    print(
        f"RTMDet-tiny, {size:.1f} M, lr {arguments.lr:g}, {steps} steps of {arguments.batch}, {seconds:.0f} CPU seconds"
    )
    print_table(["", *FIGURES], [[s, *(f"{f[key]:.3f}" for key in FIGURES.values())] for s, f in judged.items()])
    if arguments.out:
        content = {**judged, "lr": arguments.lr, "cpu_seconds": seconds, "steps": steps}
        write_text(arguments.out, json.dumps(content, indent=2, sort_keys=True) + "\n")


def parse_arguments(words: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--budget", type=float, default=600, help="CPU seconds of training (default: %(default)s)")
    parser.add_argument("--steps", type=int, help="iterations, instead of --budget")
    parser.add_argument("--lr", type=float, default=LR, help="learning rate (default: %(default)s)")
    parser.add_argument("--splits", nargs="*", default=["val", "test"], help="to judge on (default: %(default)s)")
    parser.add_argument("--batch", type=int, default=8, help="images per step (default: %(default)s)")
    parser.add_argument("--clip", type=float, default=35.0, help="largest gradient norm (default: %(default)s)")
    parser.add_argument("--ema", type=float, default=0.998, help="decay of the averaged weights (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=1, help="threads of torch (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="seed of weights and order (default: %(default)s)")
    parser.add_argument("--data", default="data/shapes", help="folder of the data set (default: %(default)s)")
    parser.add_argument("--ann-file", default="annotations/instances_{}.json", help="in it, {} for the split")
    parser.add_argument("--images", default="{}", help="folder in it, {} for the split")
    parser.add_argument("--input-hw", type=int, nargs=2, default=(160, 160), help="multiples of 32 (default: 160 160)")
    parser.add_argument("--out", type=Path, help="JSON file for the figures")
    return parser.parse_args(words)


def open_data(arguments: argparse.Namespace, split: str, *, flip: float = 0.0) -> CocoDataset:
    """Open a split; an item is a dict with ``image``, ``frame``, ``instances``."""
    frame = ResizeToInput(input_hw=arguments.input_hw, flip_probability=flip)
    return CocoDataset(
        ann_file=arguments.ann_file.format(split),
        data_root=find_path(arguments.data),
        data_prefix={"img": arguments.images.format(split)},
        pipeline=[LoadImage(cache_mb=600 if split == "train" else 0), frame],
        test_mode=True,
    )


def batches(data: CocoDataset, size: int, seed: int) -> Iterator[list[dict[str, Any]]]:
    """Give batches without end, in a new order each time through; the last few of an order are left out."""
    random = np.random.default_rng(seed)
    while True:
        order = random.permutation(len(data))
        for start in range(0, max(1, len(order) - size + 1), size):
            yield [data[int(index)] for index in order[start : start + size]]


def calibrate(arguments: argparse.Namespace) -> Callable[[float], int]:
    """Return a function from a budget of CPU seconds to the number of iterations that fit it.

    The same batches are taken twice: images are decoded the first time only, and the difference is that cost.
    """
    data = open_data(arguments, "train", flip=0.5)
    trainer = Specialist(data.metainfo["classes"], seed=arguments.seed)
    other = batches(data, arguments.batch, arguments.seed + 1)
    for _ in range(WARM_UP):
        trainer.step(next(other), lr=1e-5, clip=arguments.clip, decay=arguments.ema)
    clocks = []
    for _ in range(2):
        stream, start = batches(data, arguments.batch, arguments.seed), process_tree_seconds()
        for _ in range(CALIBRATION):
            trainer.step(next(stream), lr=1e-5, clip=arguments.clip, decay=arguments.ema)
        clocks.append(process_tree_seconds() - start)
    step = clocks[1] / CALIBRATION
    decoding = max(0.0, clocks[0] - clocks[1]) / (CALIBRATION * arguments.batch) * len(data)

    def fit(budget: float) -> int:
        whole_epoch = int((budget - decoding) / step)
        first_epoch = int(budget / (step + decoding / len(data) * arguments.batch))
        return max(1, whole_epoch if whole_epoch * arguments.batch > len(data) else first_epoch)

    print(f"{arguments.batch / step:.0f} images per CPU second; decoding them all once takes {decoding:.1f} s")
    return fit


def train(arguments: argparse.Namespace, steps: int) -> tuple[Detector, float]:
    """Train from scratch; return the averaged network and the CPU seconds."""
    np.random.seed(arguments.seed)
    data = open_data(arguments, "train", flip=0.5)
    start = process_tree_seconds()
    trainer = Specialist(data.metainfo["classes"], seed=arguments.seed)
    stream = batches(data, arguments.batch, arguments.seed)
    warm_up = min(200, max(1, steps // 10))
    for index in range(steps):
        share = min(1.0, (index + 1) / warm_up) * (0.01 + 0.99 * (1 + np.cos(np.pi * index / steps)) / 2)
        loss = trainer.step(next(stream), lr=arguments.lr * share, clip=arguments.clip, decay=arguments.ema)
        if (index + 1) % 500 == 0:
            passed = process_tree_seconds() - start
            print(f"  step {index + 1} of {steps}, {passed:.0f} CPU seconds, loss {loss.item():.2f}", flush=True)
    return trainer.averaged, process_tree_seconds() - start


@torch.no_grad()
def evaluate(arguments: argparse.Namespace, network: Detector, split: str) -> dict[str, float]:
    """Return COCO's figures of the network on a split."""
    data = open_data(arguments, split)
    metric = CocoMetric(ann_file=str(Path(find_path(arguments.data)) / arguments.ann_file.format(split)))
    metric.dataset_meta = data.metainfo
    for start in range(0, len(data), 20):
        records = [data[index] for index in range(start, min(start + 20, len(data)))]
        answers = network.detect(records)
        metric.process(None, [_answer(r, table) for r, table in zip(records, answers, strict=True)])
    return metric.evaluate(len(data))


def _answer(record: dict[str, Any], table: dict[str, Tensor]) -> dict[str, Any]:
    boxes = record["frame"].boxes_to_original(table["bboxes"])
    return {"img_id": record["img_id"], "pred_instances": {**table, "bboxes": boxes}}


if __name__ == "__main__":
    main()

"""How hard is the data set? A small specialist, RTMDet-tiny of mmdet, trained from scratch within a budget of CPU time.

The clock is user and system CPU time over two cores. The schedule is fixed in iterations: a short calibration, which is
not counted, finds how many fit the budget; the true clock is reported. With ``--select`` the learning rate is first
chosen on the last images of the training set, which are left out meanwhile; the final run trains on all of it. Data
options, flips, precision, averaging of weights and evaluation are those of a Lumen run. Needs the ``mmdet`` extra.
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
from _timing import cpu_clock, print_table

from lumen.data.coco import CocoDataset
from lumen.data.transforms import LoadImage, ResizeToInput
from lumen.metrics.coco.metric import CocoMetric
from lumen.paths import find_path
from lumen.serialization.atomic import write_text

WARM_UP, CALIBRATION = 5, 40
FIGURES = {"AP": "coco/bbox_mAP", "AP50": "coco/bbox_mAP_50", "AP75": "coco/bbox_mAP_75"}
EXAMPLES = """examples:
  OMP_NUM_THREADS=1 python tools/benchmarks/difficulty.py --budget 300 --select 5e-4 1e-3 2e-3 4e-3
  OMP_NUM_THREADS=1 python tools/benchmarks/difficulty.py --lr 2e-3 --ours results.json    (of tools/test.py --out)
"""


def main() -> None:
    """Choose the learning rate if asked to, train, evaluate, print."""
    arguments = parse_arguments()
    torch.set_num_threads(arguments.threads)
    MMLogger.get_current_instance().setLevel("WARNING")  # mmdet logs how it initialises every tensor
    warnings.filterwarnings("ignore", message="torch.meshgrid")
    plan = calibrate(arguments)
    lr = arguments.lr if not arguments.select else select_lr(arguments, plan)
    network, clock, steps = train(arguments, plan, lr, arguments.budget)
    figures = evaluate(arguments, network, open_data(arguments, "val"), arguments.val)
    size = sum(parameter.numel() for parameter in network.parameters()) / 1e6
    name = f"RTMDet-tiny, {size:.1f} M, lr {lr:g}, {steps} steps of {arguments.batch}, clock {clock:.0f}"
    rows = [[name, *(f"{figures[key]:.3f}" for key in FIGURES.values())]]
    if arguments.ours:
        ours = json.loads(arguments.ours.read_text(encoding="utf-8"))
        rows.append([f"ours, {arguments.ours}", *(f"{ours[key]:.3f}" for key in FIGURES.values())])
    print_table(["", *FIGURES], rows)
    if arguments.out:
        content = {**figures, "lr": lr, "clock": clock, "iterations": steps}
        write_text(arguments.out, json.dumps(content, indent=2, sort_keys=True) + "\n")


def parse_arguments(words: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--budget", type=float, default=300, help="clock of the training (default: %(default)s)")
    parser.add_argument("--lr", type=float, default=2e-3, help="learning rate (default: %(default)s)")
    parser.add_argument("--select", type=float, nargs="+", help="learning rates to choose from, instead of --lr")
    parser.add_argument("--select-budget", type=float, default=100, help="clock of each choice (default: %(default)s)")
    parser.add_argument("--held-out", type=int, default=300, help="images to choose on (default: %(default)s)")
    parser.add_argument("--batch", type=int, default=8, help="images per step (default: %(default)s)")
    parser.add_argument("--clip", type=float, default=35.0, help="largest gradient norm (default: %(default)s)")
    parser.add_argument("--ema", type=float, default=0.998, help="decay of the averaged weights (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=1, help="threads of torch (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="seed of weights and order (default: %(default)s)")
    parser.add_argument("--data", default="data/shapes", help="folder of the data set (default: %(default)s)")
    parser.add_argument("--train", default="annotations/instances_train.json", help="file in it (default: %(default)s)")
    parser.add_argument("--train-images", default="train", help="folder in it (default: %(default)s)")
    parser.add_argument("--val", default="annotations/instances_val.json", help="file in it (default: %(default)s)")
    parser.add_argument("--val-images", default="val", help="folder in it (default: %(default)s)")
    parser.add_argument("--input-hw", type=int, nargs=2, default=(160, 160), help="multiples of 32 (default: 160 160)")
    parser.add_argument("--ours", type=Path, help="JSON file of tools/test.py --out, to print beside it")
    parser.add_argument("--out", type=Path, help="JSON file for the figures")
    return parser.parse_args(words)


def open_data(
    arguments: argparse.Namespace, split: str, indices: Sequence[int] | None = None, *, flip: float = 0.0
) -> CocoDataset:
    """Open ``train`` or ``val``, or some of its images; an item is a dict with ``image``, ``frame``, ``instances``."""
    file, images = (
        (arguments.train, arguments.train_images) if split == "train" else (arguments.val, arguments.val_images)
    )
    frame = ResizeToInput(input_hw=arguments.input_hw, flip_probability=flip)
    data = CocoDataset(
        ann_file=file,
        data_root=find_path(arguments.data),
        data_prefix={"img": images},
        pipeline=[LoadImage(cache_mb=600 if split == "train" else 0), frame],
        test_mode=True,
    )
    return data if indices is None else data.get_subset(list(indices))


def batches(data: CocoDataset, size: int, seed: int) -> Iterator[list[dict[str, Any]]]:
    """Give batches without end, in a new order each time through; the last few of an order are left out."""
    random = np.random.default_rng(seed)
    while True:
        order = random.permutation(len(data))
        for start in range(0, max(1, len(order) - size + 1), size):
            yield [data[int(index)] for index in order[start : start + size]]


def calibrate(arguments: argparse.Namespace) -> Callable[[float], int]:
    """Return a function from a budget to the number of iterations that fit it.

    The same batches are taken twice: images are decoded the first time only, and the difference is that cost.
    """
    data = open_data(arguments, "train", flip=0.5)
    trainer = Specialist(data.metainfo["classes"], seed=arguments.seed)
    other = batches(data, arguments.batch, arguments.seed + 1)
    for _ in range(WARM_UP):
        trainer.step(next(other), lr=1e-5, clip=arguments.clip, decay=arguments.ema)
    clocks = []
    for _ in range(2):
        stream, start = batches(data, arguments.batch, arguments.seed), cpu_clock()
        for _ in range(CALIBRATION):
            trainer.step(next(stream), lr=1e-5, clip=arguments.clip, decay=arguments.ema)
        clocks.append(cpu_clock() - start)
    step = clocks[1] / CALIBRATION
    decoding = max(0.0, clocks[0] - clocks[1]) / (CALIBRATION * arguments.batch) * len(data)

    def fit(budget: float) -> int:
        whole_epoch = int((budget - decoding) / step)
        first_epoch = int(budget / (step + decoding / len(data) * arguments.batch))
        return max(1, whole_epoch if whole_epoch * arguments.batch > len(data) else first_epoch)

    print(f"{arguments.batch / step:.0f} images per second of the clock; decoding them all once takes {decoding:.1f} s")
    return fit


def train(
    arguments: argparse.Namespace,
    plan: Callable[[float], int],
    lr: float,
    budget: float,
    *,
    held_out: int = 0,
) -> tuple[Detector, float, int]:
    """Train from scratch on all but the last ``held_out`` images; return averaged network, clock, iterations."""
    np.random.seed(arguments.seed)
    data = open_data(arguments, "train", flip=0.5)
    if held_out:
        data = open_data(arguments, "train", range(len(data) - held_out), flip=0.5)
    steps, start = plan(budget), cpu_clock()
    trainer = Specialist(data.metainfo["classes"], seed=arguments.seed)
    stream = batches(data, arguments.batch, arguments.seed)
    warm_up = min(200, max(1, steps // 10))
    for index in range(steps):
        share = min(1.0, (index + 1) / warm_up) * (0.01 + 0.99 * (1 + np.cos(np.pi * index / steps)) / 2)
        loss = trainer.step(next(stream), lr=lr * share, clip=arguments.clip, decay=arguments.ema)
        if (index + 1) % 500 == 0:
            print(f"  step {index + 1} of {steps}, clock {cpu_clock() - start:.0f}, loss {loss.item():.2f}", flush=True)
    return trainer.averaged, cpu_clock() - start, steps


def select_lr(arguments: argparse.Namespace, plan: Callable[[float], int]) -> float:
    """Return the learning rate with the best AP on the last training images, trained on the others."""
    count = len(open_data(arguments, "train"))
    held_out = open_data(arguments, "train", range(count - arguments.held_out, count))
    found = {}
    for lr in arguments.select:
        network, clock, _ = train(arguments, plan, lr, arguments.select_budget, held_out=arguments.held_out)
        found[lr] = evaluate(arguments, network, held_out, arguments.train, is_partial=True)[FIGURES["AP"]]
        print(f"lr {lr:g}: AP {found[lr]:.3f} on {arguments.held_out} held-out images, clock {clock:.0f}", flush=True)
    return max(found, key=found.get)


@torch.no_grad()
def evaluate(
    arguments: argparse.Namespace, network: Detector, data: CocoDataset, ann_file: str, *, is_partial: bool = False
) -> dict[str, float]:
    """Return COCO's figures of the network on the images of ``data``."""
    metric = CocoMetric(ann_file=str(Path(find_path(arguments.data)) / ann_file), is_partial=is_partial)
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

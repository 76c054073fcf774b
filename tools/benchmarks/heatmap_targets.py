"""Heatmap targets of one batch: ``lumen.ops.heatmap.detection_targets`` against mmdet's loop over boxes.

All paint the same boxes; the script stops with an error when they differ by more than 1e-6, or when the ratio to
mmdet's own loop is below the bar. A loop over the same functions that avoids tensors of one number is timed too, for
information. Needs the ``mmdet`` extra.
"""

import argparse
import sys
from pathlib import Path

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from _timing import print_table, time_in_turns

from lumen.ops.geometry import clip_boxes, cxcywh_to_xyxy
from lumen.ops.heatmap import detection_targets

BOXES_PER_IMAGE = 12
SIDE = 112
STRIDE = 4
MIN_OVERLAP = 0.3
EXAMPLES = """examples:
  OMP_NUM_THREADS=1 python tools/benchmarks/heatmap_targets.py
  OMP_NUM_THREADS=1 python tools/benchmarks/heatmap_targets.py --images 16 --rounds 9
"""


def main() -> None:
    """Check that all ways agree, time them in turns, print the ratios."""
    arguments = parse_arguments()
    torch.set_num_threads(1)
    boxes, pair_index = make_boxes(arguments.images, arguments.seed)
    ways = {
        "lumen": lambda: detection_targets(
            boxes, pair_index, arguments.images, (SIDE, SIDE), stride=STRIDE, min_overlap=MIN_OVERLAP
        ),
        "mmdet": lambda: loop_of_mmdet(boxes, pair_index, arguments.images),
        "mmdet, tuned": lambda: tuned_loop(boxes, pair_index, arguments.images),
    }
    painted = {name: way() for name, way in ways.items()}
    difference = max((painted["lumen"] - heat).abs().max().item() for heat in painted.values())
    if difference > 1e-6:
        raise SystemExit(f"the targets differ by {difference:.2g}, expected at most 1e-6")

    share = (painted["lumen"] > 0).float().mean().item()
    print(f"{arguments.images} maps of {SIDE} x {SIDE}, {len(boxes)} boxes, {share:.0%} of the cells painted")
    print(f"largest difference {difference:.1e}; least process CPU time of {arguments.rounds} rounds, 1 thread:")
    seconds = time_in_turns(ways, arguments.rounds, repeats=5)
    rows = [[name, f"{value * 1e3:.2f}", f"{value / seconds['lumen']:.1f}"] for name, value in seconds.items()]
    print_table(["", "ms", "ratio"], rows)
    if seconds["mmdet"] / seconds["lumen"] < arguments.bar:
        raise SystemExit(f"the ratio to mmdet is below the bar of {arguments.bar:g}")


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=64, help="maps in the batch (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=7, help="timed rounds, taken in turns (default: %(default)s)")
    parser.add_argument("--bar", type=float, default=20, help="least ratio that passes (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the boxes (default: %(default)s)")
    return parser.parse_args()


def make_boxes(images: int, seed: int) -> tuple[Tensor, Tensor]:
    """Draw boxes of 8 to 188 pixels, clipped to the image, with the index of their image."""
    generator = torch.Generator().manual_seed(seed)
    side = SIDE * STRIDE
    count = images * BOXES_PER_IMAGE
    centers = torch.rand(count, 2, generator=generator) * (side - 8) + 4
    sizes = torch.rand(count, 2, generator=generator) * 180 + 8
    boxes = clip_boxes(cxcywh_to_xyxy(torch.cat([centers, sizes], 1)), (side, side))
    return boxes, torch.arange(images).repeat_interleave(BOXES_PER_IMAGE)


def loop_of_mmdet(boxes: Tensor, pair_index: Tensor, num_pairs: int) -> Tensor:
    """Paint as ``CenterNetHead.get_targets`` does: box by box, with mmdet's functions, on tensors of one number."""
    from mmdet.models.utils import gaussian_radius, gen_gaussian_target

    heat = torch.zeros(num_pairs, SIDE, SIDE)
    centers = (boxes[:, :2] + boxes[:, 2:]) / STRIDE / 2
    for box, center, pair in zip(boxes, centers, pair_index, strict=True):
        height, width = (box[3] - box[1]) / STRIDE, (box[2] - box[0]) / STRIDE
        radius = max(0, int(gaussian_radius([height, width], min_overlap=MIN_OVERLAP)))
        col, row = center.int()
        gen_gaussian_target(heat[pair], [col, row], radius)
    return heat


def tuned_loop(boxes: Tensor, pair_index: Tensor, num_pairs: int) -> Tensor:
    """Paint box by box with mmdet's functions on Python numbers: the best that a caller of them can do."""
    from mmdet.models.utils import gaussian_radius, gen_gaussian_target

    heat = torch.zeros(num_pairs, SIDE, SIDE)
    for (x1, y1, x2, y2), pair in zip(boxes.tolist(), pair_index.tolist(), strict=True):
        height, width = (y2 - y1) / STRIDE, (x2 - x1) / STRIDE
        radius = max(0, int(gaussian_radius([height, width], min_overlap=MIN_OVERLAP)))
        center = [int((x1 + x2) / 2 / STRIDE), int((y1 + y2) / 2 / STRIDE)]
        gen_gaussian_target(heat[pair], center, radius)
    return heat


if __name__ == "__main__":
    main()

"""Generate the shapes data set: images with boxes, masks, keypoints, phrases, captions and questions."""

import argparse
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from lumen.data.shapes import make_shapes  # noqa: E402
from lumen.errors import DataError  # noqa: E402

EXAMPLES = """examples:
  python tools/make_shapes.py                                   6,000 + 300 + 300 images in data/shapes
  python tools/make_shapes.py --out /tmp/tiny --num-train 64 --num-val 16 --num-test 16
  python tools/make_shapes.py --seed 1 --force                  replace data/shapes with another draw
"""


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("data/shapes"), help="folder to write (default: data/shapes)")
    parser.add_argument("--num-train", type=int, default=6000, help="training images (default: 6000)")
    parser.add_argument("--num-val", type=int, default=300, help="validation images, to choose on (default: 300)")
    parser.add_argument("--num-test", type=int, default=300, help="test images, to report on (default: 300)")
    parser.add_argument("--seed", type=int, default=0, help="seed; the same seed gives the same files (default: 0)")
    parser.add_argument("--workers", type=int, help="processes (default: one per core)")
    parser.add_argument("--force", action="store_true", help="replace an existing data set of shapes")
    return parser.parse_args()


def main() -> None:
    """Make the data set, or report an error in one line."""
    args = parse_args()
    start = time.perf_counter()
    try:
        written = make_shapes(
            args.out,
            args.num_train,
            args.num_val,
            args.seed,
            args.workers,
            num_test=args.num_test,
            force=args.force,
            progress=True,
        )
    except DataError as error:
        sys.exit(f"error: {error}")
    if written:
        sizes = f"{args.num_train} + {args.num_val} + {args.num_test}"
        print(f"wrote {sizes} images (train, val, test) to {args.out} in {time.perf_counter() - start:.0f} s")
    else:
        print(f"{args.out} already holds this data set; nothing to do")


if __name__ == "__main__":
    main()

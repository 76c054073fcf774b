"""Generate the person world: persons with boxes, masks, keypoints, parts, attributes, captions and identities."""

import argparse
import sys
import time
from pathlib import Path

from lman_world.write import SIZES, make_persons

from lumen.errors import DataError

EXAMPLES = """examples:
  python projects/lman/make_persons.py                                    the whole data set in data/persons
  python projects/lman/make_persons.py --out /tmp/few --share 0.02        a fiftieth of it
  python projects/lman/make_persons.py --seed 1 --force                   replace data/persons with another draw
"""


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("data/persons"), help="folder (default: data/persons)")
    parser.add_argument("--seed", type=int, default=0, help="seed; the same seed gives the same files (default: 0)")
    parser.add_argument("--share", type=float, default=1.0, help="share of its pictures (default: 1)")
    parser.add_argument("--workers", type=int, help="processes (default: one per core)")
    parser.add_argument("--force", action="store_true", help="replace an existing data set of persons")
    return parser.parse_args()


def main() -> None:
    """Make the data set, or report an error in one line."""
    args, start = parse_args(), time.perf_counter()
    # Identities come in twins.
    sizes = {
        kind: {split: round(args.share * n / 2) * 2 for split, n in of_kind.items()} for kind, of_kind in SIZES.items()
    }
    try:
        written = make_persons(
            args.out, seed=args.seed, workers=args.workers, sizes=sizes, force=args.force, progress=True
        )
    except DataError as error:
        sys.exit(f"error: {error}")
    took = f"in {time.perf_counter() - start:.0f} s"
    print(f"wrote {args.out} {took}" if written else f"{args.out} already holds this data set; nothing to do")


if __name__ == "__main__":
    main()

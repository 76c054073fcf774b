"""Write instructions about persons from a public data set, or the person world, as a questions file.

    python projects/lman/make_humanins.py coco_persons data/persons/annotations/scenes_train.json \
        --images data/persons/scenes/train --out data/humanins/scenes_train.json

The images stay where they are, except for ``--pairs``, which writes pictures of two persons side by side.
"""

import argparse
import json
import sys
from collections import Counter
from pathlib import Path

from lman_humanins import READERS, Caps, Report, Source, build_instructions
from lman_readers import pair_pictures  # which enters its readers, too

from lumen.data.annotations import format_report
from lumen.errors import LumenError
from lumen.serialization.atomic import write_text


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("reader", choices=sorted(READERS), help="layout of the source")
    parser.add_argument("path", type=Path, help="annotation file, or folder, of the source")
    parser.add_argument("--images", type=Path, required=True, help="folder of its images")
    parser.add_argument("--out", type=Path, required=True, help="questions file to write")
    parser.add_argument("--names", nargs="*", default=[], help="classes of label maps, the background first")
    parser.add_argument("--forms", nargs="*", help="what is asked; everything that the source knows when left out")
    parser.add_argument("--questions", type=int, default=Caps().questions, help="questions of an image at most")
    parser.add_argument(
        "--attributes", type=int, default=Caps().attributes, help="attributes asked of a person at most"
    )
    parser.add_argument("--bins", type=int, default=40, help="intervals of a side, in which places are written")
    parser.add_argument("--pairs", type=int, default=0, help="write so many pictures of two persons beside --out")
    parser.add_argument("--seed", type=int, default=0, help="seed of wordings and choices")
    return parser.parse_args()


def main() -> None:
    """Write the file, print what it holds and what was skipped, or report an error in one line."""
    args, report = parse_args(), Report(list)
    try:
        records = list(READERS[args.reader](Source(args.path, args.images, tuple(args.names)), report))
        if args.pairs:
            folder = args.out.with_suffix("")
            folder.mkdir(parents=True, exist_ok=True)
            records = list(pair_pictures(records, args.images, folder, number=args.pairs, seed=args.seed))
        options = {"forms": args.forms} if args.forms else {}
        caps = Caps(questions=args.questions, attributes=args.attributes)
        content = build_instructions(records, caps=caps, bins=args.bins, seed=args.seed, **options)
    except LumenError as error:
        sys.exit(f"error: {error}")
    write_text(args.out, json.dumps(content))
    print(f"{args.out}: {len(content['images'])} images, {dict(Counter(q['form'] for q in content['questions']))}")
    if report:
        print(f"skipped\n{format_report(report)}")


if __name__ == "__main__":
    main()

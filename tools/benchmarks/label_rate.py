"""Pictures per second and core: ``lumen label`` beside a loop over ``LumenPredictor.predict``, in turns in one run."""

import argparse
import sys
import tempfile
from itertools import islice
from pathlib import Path
from types import SimpleNamespace

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

import torch  # noqa: E402
from _timing import time_in_turns  # noqa: E402

from lumen.inference.labelling.merge import merge_parts  # noqa: E402
from lumen.inference.labelling.pictures import list_pictures  # noqa: E402
from lumen.inference.labelling.run import Effort  # noqa: E402
from lumen.inference.labelling.start import label_source  # noqa: E402
from lumen.inference.predictor import LumenPredictor  # noqa: E402
from lumen.inference.reports import Request  # noqa: E402

PHRASES = ("star", "triangle", "circle", "ring", "square", "heart", "cross", "hexagon")
EXAMPLES = """examples:
  python tools/benchmarks/label_rate.py exported/ data/shapes/train
  python tools/benchmarks/label_rate.py exported/ data/shapes/val --pictures 300 --rounds 3
"""


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path, help="folder that tools/export.py wrote")
    parser.add_argument("source", type=Path, help="folder of pictures")
    parser.add_argument("--pictures", type=int, default=2000, help="how many of them (default: 2000)")
    parser.add_argument("--batch-size", type=int, default=32, help="of lumen label (default: 32)")
    parser.add_argument("--rounds", type=int, default=1, help="turns, of which the least time counts (default: 1)")
    return parser.parse_args()


def main() -> None:
    """Label the pictures in both ways, the second in both precisions, and print CPU time of all threads."""
    args = parse_args()
    torch.set_num_threads(1)
    predictors = {
        dtype: LumenPredictor.from_pretrained(args.model, device="cpu", dtype=dtype)
        for dtype in (torch.float32, torch.bfloat16)
    }
    files = [picture.path for picture in islice(list_pictures(args.source), args.pictures)]
    with tempfile.TemporaryDirectory() as place:
        listed = Path(place) / "list.txt"
        listed.write_text("".join(f"{Path(file).resolve()}\n" for file in files))
        turns = iter(range(10**6))

        def loop() -> None:
            for file in files:
                predictors[torch.float32].set_image(file)
                predictors[torch.float32].predict(PHRASES)

        def label(dtype: torch.dtype) -> None:
            out = Path(place) / f"out-{next(turns)}"
            opened = SimpleNamespace(open=lambda: predictors[dtype])
            effort = Effort(batch_size=args.batch_size, workers=2)
            label_source((listed, None), Request(PHRASES, "detection"), opened, out, effort=effort)
            merge_parts(out, ["coco"])

        ways = {
            "loop over predict, float32": loop,
            "lumen label, float32": lambda: label(torch.float32),
            "lumen label, bfloat16": lambda: label(torch.bfloat16),
        }
        seconds = time_in_turns(ways, args.rounds)
    base = next(iter(seconds.values()))
    print(f"{len(files)} pictures, {len(PHRASES)} names, CPU seconds of all threads, least of {args.rounds}")
    for name, used in seconds.items():
        print(f"{name}: {len(files) / used:.1f} images/s per core, {base / used:.2f}x")


if __name__ == "__main__":
    main()

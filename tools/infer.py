"""Answer phrases about images with a given config and checkpoint; write the same files as ``lumen predict``."""

import argparse
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from lumen.cli import list_images, one_line_errors, predict_with, warn_about_namesake  # noqa: E402
from lumen.inference.reports import Output, Request  # noqa: E402
from lumen.inference.sources import ModelFiles  # noqa: E402

EXAMPLES = """examples:
  python tools/infer.py configs/detection/detection_nano_shapes.py work_dirs/detection_nano_shapes/best.pth \\
      data/shapes/val/000000.jpg --phrases star "red ring" --out out/
  python tools/infer.py CONFIG CHECKPOINT photos/ --phrases "stop sign" --threshold 0.4 --heatmaps
"""


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "config", type=Path, help="config of the run, or the one in its work folder; it is run as Python code"
    )
    parser.add_argument("checkpoint", type=Path, help="a checkpoint of that run")
    parser.add_argument("images", type=Path, nargs="+", help="images or folders of images")
    parser.add_argument("--phrases", nargs="+", required=True, help="what to look for")
    parser.add_argument("--out", type=Path, default=Path("out"), help="folder for pictures and JSON (default: out)")
    parser.add_argument("--threshold", type=float, help="lowest score that is kept (default: the task's own)")
    parser.add_argument("--task", default="detection", help="task of the decoder that answers (default: detection)")
    parser.add_argument("--device", help="such as cpu or cuda:0 (default: a GPU where there is one)")
    parser.add_argument("--heatmaps", action="store_true", help="write a heatmap picture per phrase")
    return parser.parse_args()


def main() -> None:
    """Answer, or report an error in one line."""
    args = parse_args()
    with one_line_errors():
        warn_about_namesake()
        failed = predict_with(
            ModelFiles(args.config, args.checkpoint),
            list_images(args.images),
            Request(tuple(args.phrases), args.task, args.threshold),
            Output(args.out, heatmaps=args.heatmaps),
            device=args.device,
        )
    sys.exit(2 if failed else 0)


if __name__ == "__main__":
    main()

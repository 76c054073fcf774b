"""Train what a config describes."""

import argparse
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from lumen.engine.ending import ending_on_sigterm  # noqa: E402
from lumen.engine.tool import add_common_options, load_tool_config, run_tool  # noqa: E402

EXAMPLES = """examples:
  python tools/train.py configs/detection/detection_nano_shapes.py
  python tools/train.py configs/detection/detection_nano_shapes.py --resume
  python tools/train.py configs/detection/detection_nano_shapes.py --log-to tensorboard
  python tools/train.py configs/detection/detection_nano_shapes.py --cfg-options optim_wrapper.optimizer.lr=1e-4
  torchrun --nproc-per-node 8 tools/train.py configs/detection/detection_nano_shapes.py --launcher pytorch --amp

On SIGTERM the run is saved after the iteration and exits with code 75; start it again with --resume. torchrun itself
exits with 1 then; it passes the signal on to the ranks, which save.
"""


def parse_options() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_common_options(parser)
    parser.add_argument(
        "--resume", nargs="?", const=True, default=False, metavar="CKPT", help="continue the newest or a given one"
    )
    parser.add_argument(
        "--log-to", nargs="+", default=[], metavar="NAME", help="draw curves in tensorboard, wandb, or both"
    )
    return parser.parse_args()


def main(options: argparse.Namespace) -> None:
    """Build the runner and train."""
    config = load_tool_config(options, ROOT)
    config.resume = options.resume
    from lumen.engine.runner import LumenRunner
    from lumen.engine.tracking import log_to

    log_to(config, options.log_to)
    LumenRunner.from_cfg(config).train()


if __name__ == "__main__":
    with ending_on_sigterm():
        run_tool(main, parse_options())

"""Evaluate a checkpoint with the test data and metrics of a config; or an LMM as it is, without one."""

import argparse
import json
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from lumen.engine.tool import add_common_options, load_tool_config, run_tool  # noqa: E402

EXAMPLES = """examples:
  python tools/test.py configs/detection/detection_nano_shapes.py work_dirs/detection_nano_shapes
  python tools/test.py configs/detection/detection_nano_shapes.py best.pth --out results.json
  python tools/test.py configs/detection/detection_nano_shapes.py work_dirs/detection_nano_shapes --show-dir out/answers
  python tools/test.py configs/zero_shot/detection_coco.py --cfg-options _lmm.name_or_path=Qwen/Qwen3-VL-4B-Instruct
"""


def parse_options() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_common_options(parser)
    parser.add_argument(
        "checkpoint",
        type=Path,
        nargs="?",
        help="checkpoint, or a work dir for its newest one; left out only where nothing is trained",
    )
    parser.add_argument("--out", type=Path, help="JSON file for the figures")
    parser.add_argument("--show-dir", type=Path, help="folder for a picture of each sample: targets beside the answer")
    return parser.parse_args()


def main(options: argparse.Namespace) -> None:
    """Build the runner, load the checkpoint and test."""
    config = load_tool_config(options, ROOT)
    from lumen.aligners.none import NoAligner
    from lumen.engine.cost import is_a
    from lumen.errors import ConfigError
    from lumen.serialization.atomic import write_text
    from lumen.serialization.checkpoint import named_checkpoint

    if options.checkpoint is None and not is_a(config.model.get("aligner"), NoAligner):
        raise ConfigError("name a checkpoint: this config has parts that are trained")
    config.load_from = None if options.checkpoint is None else str(named_checkpoint(options.checkpoint))
    config.resume = False
    if options.show_dir is not None:
        show = {"type": "ShowHook", "folder": str(options.show_dir)}
        config.custom_hooks = [*(config.get("custom_hooks") or ()), show]
    from lumen.engine.runner import LumenRunner

    figures = LumenRunner.from_cfg(config).test()
    if options.out is not None:
        write_text(options.out, json.dumps(figures, indent=2, sort_keys=True) + "\n")


if __name__ == "__main__":
    run_tool(main, parse_options())

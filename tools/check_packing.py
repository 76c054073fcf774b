"""Check that packed prompts equal separate ones for a base model, with its real weights.

Exit status 1 when the states of [LOC] differ by more than the tolerance.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from lumen.engine.tool import add_plugin_options, import_plugins, run_tool

PHRASES = ("star", "the red ring left of the square", "a person", "dog", "traffic light")
EXAMPLES = """examples:
  python tools/check_packing.py data/nano
  python tools/check_packing.py llava-hf/llava-1.5-7b-hf --dtype bfloat16 --tolerance 2e-2 --template paper
  python tools/check_packing.py data/lmm --plugins my_tower.py
"""


def main(arguments: argparse.Namespace) -> None:
    """Load, compare, print; the exit status is 1 where they differ."""
    import_plugins(arguments.plugins)
    import torch

    from lumen.lmm.adapter import HFAdapter
    from lumen.lmm.check_packing import check_packing
    from lumen.structures import Prompt

    adapter = HFAdapter(arguments.model, template=arguments.template, base={"attention": arguments.attention}).eval()
    adapter.to(device=arguments.device, dtype=getattr(torch, arguments.dtype))
    spec = adapter.input_spec
    height, width = spec.fixed_hw or (10 * spec.multiple, 12 * spec.multiple)
    images = torch.randint(0, 256, (2, 3, height, width), dtype=torch.uint8, device=arguments.device)
    prompts = [[Prompt(text) for text in PHRASES], [Prompt(text) for text in PHRASES[:2]]]
    difference = check_packing(adapter, images, prompts)
    verdict = "equal" if difference <= arguments.tolerance else "DIFFERENT"
    print(f"{arguments.model}: packed and separate states differ by {difference:.1e} of the largest value: {verdict}")
    raise SystemExit(int(verdict != "equal"))


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", help="folder or model id, as name_or_path in a config")
    parser.add_argument(
        "--template", choices=("compact", "paper"), default="compact", help="prompt template (default: %(default)s)"
    )
    parser.add_argument("--attention", help="attention implementation, such as sdpa (default: the model's choice)")
    parser.add_argument(
        "--dtype", choices=("float32", "bfloat16"), default="float32", help="precision (default: %(default)s)"
    )
    parser.add_argument("--device", default="cpu", help="where to compute (default: %(default)s)")
    parser.add_argument("--tolerance", type=float, default=1e-5, help="largest difference (default: %(default)s)")
    add_plugin_options(parser)
    return parser.parse_args()


if __name__ == "__main__":
    run_tool(main, parse_arguments())

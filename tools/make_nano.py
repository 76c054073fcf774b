"""Make the nano LMM: random weights, its own tokenizer and chat template, in the layout of a downloaded model."""

import argparse
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

EXAMPLES = """examples:
  python tools/make_nano.py
  python tools/make_nano.py --out data/nano_wide --width 192 --llm-layers 4 --seed 1
  python tools/make_nano.py --out data/nano4 --llm-layers 4 --tied
"""


def parse_options() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=ROOT / "data" / "nano", help="folder to write [data/nano]")
    parser.add_argument("--width", type=int, default=128, help="hidden size of the LLM [%(default)s]")
    parser.add_argument("--llm-layers", type=int, default=2, help="layers of the LLM [%(default)s]")
    parser.add_argument("--vision-layers", type=int, default=2, help="transformer layers of the tower [%(default)s]")
    parser.add_argument("--tied", action="store_true", help="one table of words for options and saying")
    parser.add_argument("--seed", type=int, default=0, help="seed of the weights [%(default)s]")
    return parser.parse_args()


def main(options: argparse.Namespace) -> None:
    """Make the model and say where it lies."""
    from lumen.lmm.nano.model import NanoSizes, make_nano

    sizes = NanoSizes(
        width=options.width,
        llm_layers=options.llm_layers,
        vision_layers=options.vision_layers,
        tied=options.tied,
    )
    print(f"made {make_nano(options.out, sizes=sizes, seed=options.seed)}")


if __name__ == "__main__":
    main(parse_options())

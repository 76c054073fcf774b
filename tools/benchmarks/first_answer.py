"""How long a newcomer waits: clone, install, and the first boxes on a picture, without any training.

An empty folder, a new virtual environment and no cache of pip; wheels come from the index that pip is set up with, so
that the network counts. The picture is generated, the model is the packaged nano. Wall-clock seconds of each step.
"""

import argparse
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

ROOT = Path(__file__).resolve().parents[2]

EXAMPLES = """examples:
  python tools/benchmarks/first_answer.py
  python tools/benchmarks/first_answer.py --python python3.12
"""


def parse_options() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--python", default=sys.executable, help="Python of the environment [this one]")
    return parser.parse_args()


def steps(python: str) -> dict[str, list[str]]:
    """Return the commands in order, to be run in an empty folder."""
    picture = "from pathlib import Path; from lumen.data.shapes import make_shapes; make_shapes(Path('shapes'), 2, 2)"
    pip = ["venv/bin/python", "-m", "pip", "install", "--quiet", "--no-cache-dir", "--only-binary", ":all:"]
    return {
        "clone": ["git", "clone", "--quiet", str(ROOT), "lumen"],
        "environment": [python, "-m", "venv", "venv"],
        "install": [*pip, "--constraint", "lumen/constraints.txt", "./lumen"],
        "generate a picture": ["venv/bin/python", "-c", picture],
        "first boxes": ["venv/bin/lumen", "predict", "shapes/val/000001.jpg", "star", "triangle", "--lmm", "nano"],
    }


def main(options: argparse.Namespace) -> None:
    """Run the steps and print what each took."""
    with TemporaryDirectory() as folder:
        total = 0.0
        for name, command in steps(options.python).items():
            start = time.perf_counter()
            subprocess.run(command, cwd=folder, check=True)
            seconds = time.perf_counter() - start
            total += seconds
            print(f"{name:20} {seconds:7.1f} s", flush=True)
        print(f"{'in all':20} {total:7.1f} s")


if __name__ == "__main__":
    main(parse_options())

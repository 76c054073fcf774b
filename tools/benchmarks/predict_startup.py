"""Time ``lumen predict`` from start to written JSON, above what importing torch and transformers costs by itself."""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
LIMIT_SECONDS = 2.0
EXAMPLES = """examples:
  python tools/benchmarks/predict_startup.py work_dirs/detection_nano_shapes data/shapes/val/000000.jpg
  python tools/benchmarks/predict_startup.py work_dirs/detection_nano_shapes photo.jpg --phrases star --rounds 9
"""


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path, help="work folder of a training run")
    parser.add_argument("image", type=Path, help="image to ask about")
    parser.add_argument("--phrases", nargs="+", default=["star", "red ring"], help="what to ask (default: two phrases)")
    parser.add_argument("--rounds", type=int, default=5, help="the least of so many is reported (default: 5)")
    return parser.parse_args()


def seconds_of(command: list[str], written: Path | None = None) -> tuple[float, float]:
    """Run a command once; return its wall-clock and its CPU seconds.

    Raises:
        SystemExit: The command failed, or did not write what it should.
    """
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    before, start = os.times(), time.perf_counter()
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    wall, after = time.perf_counter() - start, os.times()
    if done.returncode != 0 or (written is not None and not written.is_file()):
        sys.exit(f"error: {' '.join(command)} failed:\n{done.stderr}")
    cpu = after.children_user + after.children_system - before.children_user - before.children_system
    return wall, cpu


def main() -> None:
    """Interleave both commands, so that a busy machine slows both, and print the least of each."""
    args = parse_args()
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder)
        ask = [sys.executable, "-m", "lumen.cli", "predict", str(args.image), *args.phrases]
        ask += ["--model", str(args.model), "--out", str(out)]
        base = [sys.executable, "-c", "import torch, transformers"]
        report = out / f"{args.image.stem}.json"
        rounds = []
        for _ in range(args.rounds):
            report.unlink(missing_ok=True)
            rounds.append((seconds_of(base), seconds_of(ask, report)))
    for index, clock in enumerate(("wall", "cpu")):
        imports = min(first[index] for first, _ in rounds)
        predict = min(second[index] for _, second in rounds)
        verdict = f", limit {LIMIT_SECONDS:.1f} s" if clock == "wall" else ""
        print(
            f"{clock}: import torch, transformers {imports:.2f} s; lumen predict {predict:.2f} s; "
            f"difference {predict - imports:.2f} s{verdict}"
        )


if __name__ == "__main__":
    main()

"""Train and test one config under several seeds, one after the other; print each figure with mean and spread.

Every seed has its own nano weights, order of data and augmentation. Training runs through tools/train.py, evaluation
through tools/test.py, each in a process of its own. ``cpu_seconds`` is the user and system CPU time of training.
"""

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

FIGURES = ("coco/bbox_mAP", "coco/bbox_mAP_50", "coco/bbox_mAP_75", "coco/bbox_mAP_peak_only")
EXAMPLES = """examples:
  python tools/benchmarks/seeds.py configs/detection/detection_nano_shapes.py
  python tools/benchmarks/seeds.py configs/detection/detection_nano_bccd_final.py --seeds 0 1 2
"""


def parse_options() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("config", type=Path, help="config with a nano model")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="seeds [%(default)s]")
    parser.add_argument("--work-dir", type=Path, help="folder of the runs [work_dirs/seeds_<config name>]")
    parser.add_argument("--cfg-options", nargs="+", default=[], metavar="KEY=VALUE", help="change settings")
    return parser.parse_args()


def run_seed(config: Path, seed: int, folder: Path, overrides: list[str]) -> dict[str, float]:
    """Train and test one seed; return its figures and its CPU seconds."""
    from lumen.lmm.nano.model import make_nano
    from lumen.serialization.checkpoint import find_checkpoint, load_checkpoint

    nano = make_nano(folder / "nano", seed=seed).resolve()
    options = ["--seed", str(seed), "--cfg-options", f"model.lmm.name_or_path={nano}", *overrides]
    train = [sys.executable, str(ROOT / "tools" / "train.py"), str(config), "--work-dir", str(folder), *options]
    subprocess.run(train, check=True, stdout=subprocess.DEVNULL)
    checkpoint = find_checkpoint(folder)
    test = [sys.executable, str(ROOT / "tools" / "test.py"), str(config), str(checkpoint)]
    test += ["--work-dir", str(folder / "test"), "--out", str(folder / "figures.json"), *options]
    subprocess.run(test, check=True, stdout=subprocess.DEVNULL)
    figures = json.loads((folder / "figures.json").read_text(encoding="utf-8"))
    clock = load_checkpoint(checkpoint)["meta"]["cpu_seconds"]["train"]
    return {**{name: figures[name] for name in FIGURES if name in figures}, "cpu_seconds": clock}


def main(options: argparse.Namespace) -> None:
    """Run all seeds and print the table."""
    base = options.work_dir or ROOT / "work_dirs" / f"seeds_{options.config.stem}"
    rows = []
    for seed in options.seeds:
        rows.append(run_seed(options.config, seed, base / f"seed_{seed}", options.cfg_options))
        print(f"seed {seed}: " + "  ".join(f"{name} {value:.4f}" for name, value in rows[-1].items()), flush=True)
    for name in rows[0]:
        values = [row[name] for row in rows]
        spread = statistics.stdev(values) if len(values) > 1 else 0.0
        print(f"{name}: mean {statistics.mean(values):.4f}, standard deviation {spread:.4f}, {len(values)} seeds")


if __name__ == "__main__":
    main(parse_options())

"""Train and test one config under several seeds, one after the other; print each figure with mean and spread.

Every seed has its own nano weights, order of data and augmentation. Training runs through tools/train.py, evaluation
through tools/test.py, each in its own process. ``cpu_seconds`` is the user and system CPU time of training. Figures
that start with ``val`` come from the evaluation at the end of training, the others from the test data of the config. A
run that was stopped goes on where it was; a seed that has its figures is not repeated.
"""

import argparse
import json
import statistics
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

FIGURES = ("coco/bbox_mAP", "coco/bbox_mAP_50", "coco/bbox_mAP_75", "coco/bbox_mAP_peak_only", "foreign/false_alarms")
EXAMPLES = """examples:
  python tools/benchmarks/seeds.py configs/detection/detection_nano_shapes.py
  python tools/benchmarks/seeds.py configs/detection/detection_nano_bccd_final.py --seeds 0 1 2
  python tools/benchmarks/seeds.py configs/finetune/detection_photo_bccd.py --tower efficientnet-lite0
"""


def parse_options() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("config", type=Path, help="config with a nano model")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="seeds [%(default)s]")
    parser.add_argument("--tower", default="nano", help="vision tower of tools/make_nano.py [%(default)s]")
    parser.add_argument("--no-test", action="store_true", help="stop after training and its evaluation")
    parser.add_argument("--work-dir", type=Path, help="folder of the runs [work_dirs/seeds_<config name>]")
    parser.add_argument("--cfg-options", nargs="+", default=[], metavar="KEY=VALUE", help="change settings")
    return parser.parse_args()


def run_seed(
    config: Path, seed: int, folder: Path, overrides: Sequence[str], *, tower: str = "nano", test: bool = True
) -> dict[str, float]:
    """Train and judge one seed; return its figures and its CPU seconds. What lies in ``folder`` is not done again."""
    from lumen.lmm.nano.model import NanoSizes, make_nano
    from lumen.serialization.checkpoint import find_checkpoint, load_checkpoint

    nano = folder / "nano"
    if not nano.exists():
        make_nano(nano, sizes=NanoSizes(tower=tower), seed=seed)
    options = ["--seed", str(seed), "--cfg-options", f"model.lmm.name_or_path={nano.resolve()}", *overrides]
    val, tested = folder / "protocol_val.json", folder / "figures.json"
    checkpoint = find_checkpoint(folder)
    if checkpoint is None or not (folder / "trained").exists():
        train = [sys.executable, str(ROOT / "tools" / "train.py"), str(config), "--work-dir", str(folder), "--resume"]
        subprocess.run([*train, *options], check=True, stdout=subprocess.DEVNULL)
        checkpoint = find_checkpoint(folder)
        (folder / "trained").touch()
    if test and not tested.exists():
        command = [sys.executable, str(ROOT / "tools" / "test.py"), str(config), str(checkpoint)]
        command += ["--work-dir", str(folder / "test"), "--out", str(tested), *options]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    judged = {f"val {name}": value for name, value in _figures(val, "figures").items()} if val.exists() else {}
    judged |= _figures(tested) if test else {}
    return {**judged, "cpu_seconds": load_checkpoint(checkpoint)["meta"]["cpu_seconds"]["train"]}


def _figures(path: Path, *keys: str) -> dict[str, float]:
    content = json.loads(path.read_text(encoding="utf-8"))
    for key in keys:
        content = content[key]
    return {name: content[name] for name in FIGURES if name in content}


def main(options: argparse.Namespace) -> None:
    """Run all seeds and print the table."""
    base = options.work_dir or ROOT / "work_dirs" / f"seeds_{options.config.stem}"
    rows = []
    for seed in options.seeds:
        folder = base / f"seed_{seed}"
        settings = {"tower": options.tower, "test": not options.no_test}
        rows.append(run_seed(options.config, seed, folder, options.cfg_options, **settings))
        print(f"seed {seed}: " + "  ".join(f"{name} {value:.4f}" for name, value in rows[-1].items()), flush=True)
    for name in rows[0]:
        values = [row[name] for row in rows]
        print(
            f"{name}: mean {statistics.mean(values):.4f}, standard deviation {spread(values):.4f}, {len(values)} seeds"
        )


def spread(values: Sequence[float]) -> float:
    """Return the standard deviation, 0 for a single value."""
    return statistics.stdev(values) if len(values) > 1 else 0.0


if __name__ == "__main__":
    main(parse_options())

"""Ours and RTMDet-tiny with the same search for the learning rate, then both at equal cost, on shapes.

Each side has a default rate. Multiples of it are tried within ``--short`` CPU seconds and judged on the val split; the
grid grows by a step while the best multiple is at its edge. The best one trains for ``--full`` CPU seconds under every
seed and is judged on the test split, once. Runs have a fixed number of steps, from the cost of a step in earlier runs
of the same side; the true CPU seconds are reported. Every run goes into ``--out`` with its commit; what is in there is
not run again. Needs the ``mmdet`` extra.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import mean
from typing import Any, Protocol

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from _timing import print_table
from difficulty import FIGURES, LR
from seeds import run_seed, spread

from lumen.config import read_config
from lumen.serialization.atomic import write_text

ROOT = Path(__file__).resolve().parents[2]
AP = FIGURES["AP"]
CALIBRATION = (50, 150)
"""Steps of two runs; their difference is the cost of a step without that of the start."""
MAX_GROWTH = 4
EXAMPLES = """examples:
  OMP_NUM_THREADS=1 python tools/benchmarks/rate_search.py
  OMP_NUM_THREADS=1 python tools/benchmarks/rate_search.py --short 300 --full 600 --seeds 0 1 2 --multiples 0.5 1 2
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One training: what is asked for. ``purpose`` is ``calibration``, ``search`` or ``final``."""

    side: str
    purpose: str
    multiple: float
    seed: int
    steps: int

    @property
    def splits(self) -> tuple[str, ...]:
        """The splits that the run is judged on: a run of the search never sees the test split."""
        return {"calibration": (), "search": ("val",), "final": ("val", "test")}[self.purpose]


class Side(Protocol):
    """One of the two that are compared."""

    def train(self, run: Run, folder: Path) -> dict[str, Any]:
        """Train and judge; return ``cpu_seconds`` and the figures of each split."""


@dataclass(frozen=True, slots=True)
class Ours:
    """A config of ours; both rates, of Muon and of AdamW, and the last rate of the schedule are multiplied."""

    config: Path

    def train(self, run: Run, folder: Path) -> dict[str, Any]:
        """Run tools/train.py and tools/test.py."""
        settings = read_config(self.config, import_roots=[ROOT])
        optimizer = settings.optim_wrapper["optimizer"]
        rates = {f"optim_wrapper.optimizer.{name}": optimizer[name] for name in ("lr", "muon_lr")}
        rates["param_scheduler.decay.eta_min"] = settings.param_scheduler["decay"]["eta_min"]
        options = [f"{name}={rate * run.multiple}" for name, rate in rates.items()]
        options.append(f"train_cfg.max_iters={run.steps}")
        if not run.splits:
            options += ["val_cfg=None", "val_dataloader=None", "val_evaluator=None"]
        found = run_seed(self.config, run.seed, folder, options, test="test" in run.splits)
        val = {name: found[f"val {name}"] for name in FIGURES.values() if f"val {name}" in found}
        test = {name: found[name] for name in FIGURES.values() if name in found}
        return {"cpu_seconds": found["cpu_seconds"], "val": val, "test": test}


@dataclass(frozen=True, slots=True)
class Specialist:
    """RTMDet-tiny, by ``difficulty.py``."""

    def train(self, run: Run, folder: Path) -> dict[str, Any]:
        """Run difficulty.py."""
        out = folder / "figures.json"
        command = [sys.executable, str(ROOT / "tools" / "benchmarks" / "difficulty.py"), "--steps", str(run.steps)]
        command += ["--lr", str(LR * run.multiple), "--seed", str(run.seed), "--out", str(out), "--splits", *run.splits]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        found = json.loads(out.read_text(encoding="utf-8"))
        judged = {split: {name: found[split][name] for name in FIGURES.values()} for split in run.splits}
        return {"val": {}, "test": {}, **judged, "cpu_seconds": found["cpu_seconds"]}


class Records:
    """The runs that were done, kept in a JSON file.

    Args:
        path: The file; it may be missing.
        folder: Folder of the runs themselves.
        sides: What can be trained, by name.
    """

    def __init__(self, path: Path, folder: Path, sides: Mapping[str, Side]) -> None:
        self._path, self._folder, self._sides = path, folder, sides
        self.rows: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else []

    def find(self, **wanted: Any) -> list[dict[str, Any]]:
        """Return the runs with all that is ``wanted``."""
        return [row for row in self.rows if all(row[name] == value for name, value in wanted.items())]

    def get(self, run: Run) -> dict[str, Any]:
        """Return the record of a run, which is done now if it was not done before."""
        found = self.find(**asdict(run))
        if found:
            return found[0]
        name = f"{run.side}_{run.purpose}_{run.multiple:g}_seed_{run.seed}_{run.steps}"
        row = {**asdict(run), "commit": _commit(), **self._sides[run.side].train(run, self._folder / name)}
        self.rows.append(row)
        write_text(self._path, json.dumps(self.rows, indent=1) + "\n")
        figures = "  ".join(f"{split} AP {row[split][AP]:.4f}" for split in ("val", "test") if row[split])
        print(f"{name}: {row['cpu_seconds']:.0f} CPU seconds  {figures}", flush=True)
        return row


def main(options: argparse.Namespace) -> None:
    """Search on both sides, train both, print the tables."""
    records = Records(options.out, options.work_dir, {"ours": Ours(options.config), "rtmdet": Specialist()})
    best = {side: search(records, side, options) for side in ("ours", "rtmdet")}
    for seed in options.seeds:  # in turns, so that a change of the machine's load meets both
        for side, multiple in best.items():
            (searched,) = records.find(side=side, purpose="search", multiple=multiple)
            steps = round_steps(options.full * searched["steps"] / searched["cpu_seconds"])
            records.get(Run(side=side, purpose="final", multiple=multiple, seed=seed, steps=steps))
    print_search(records)
    print_finals(records)


def search(records: Records, side: str, options: argparse.Namespace) -> float:
    """Return the multiple of the default rate with the best AP on the val split, not at the edge of what was tried.

    The grid grows ``MAX_GROWTH`` times at most; then its edge is returned, and the table shows it.
    """
    steps = round_steps(options.short / cost_of_a_step(records, side))
    grid = sorted(options.multiples)
    for _ in range(MAX_GROWTH + 1):
        found = {
            m: records.get(Run(side=side, purpose="search", multiple=m, seed=0, steps=steps))["val"][AP] for m in grid
        }
        best = max(found, key=found.get)
        if best not in (grid[0], grid[-1]):
            break
        grid = sorted({*grid, best / 2 if best == grid[0] else best * 2})
    return best


def cost_of_a_step(records: Records, side: str) -> float:
    """Return the CPU seconds of a step, from two short runs."""
    first, second = (
        records.get(Run(side=side, purpose="calibration", multiple=1.0, seed=0, steps=steps)) for steps in CALIBRATION
    )
    return (second["cpu_seconds"] - first["cpu_seconds"]) / (second["steps"] - first["steps"])


def round_steps(number: float) -> int:
    """Round a number of steps to tens."""
    return max(10, round(number / 10) * 10)


def print_search(records: Records) -> None:
    """Print each run of the search."""
    rows = []
    for side in ("ours", "rtmdet"):
        for row in sorted(records.find(side=side, purpose="search"), key=lambda row: row["multiple"]):
            numbers = (f"{row['multiple']:g}", str(row["steps"]), f"{row['cpu_seconds']:.0f}")
            rows.append([side, *numbers, *(f"{row['val'][name]:.3f}" for name in FIGURES.values())])
    print_table(["search, val split", "times the default rate", "steps", "CPU seconds", *FIGURES], rows)


def print_finals(records: Records) -> None:
    """Print mean and spread over the seeds of both sides."""
    rows = []
    for side in ("ours", "rtmdet"):
        runs = records.find(side=side, purpose="final")
        seconds = [run["cpu_seconds"] for run in runs]
        for split in ("val", "test"):
            head = [f"{side}, {split} split, seeds {[run['seed'] for run in runs]}", f"{mean(seconds):.0f}"]
            values = [[run[split][name] for run in runs] for name in FIGURES.values()]
            rows.append([*head, *(f"{mean(figures):.3f} +- {spread(figures):.3f}" for figures in values)])
    print_table(["", "CPU seconds", *FIGURES], rows)


def _commit() -> str:
    command = ["git", "-C", str(ROOT), "describe", "--always", "--dirty", "--exclude", "*"]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def parse_options(words: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--config", type=Path, default=ROOT / "configs/detection/detection_nano_shapes.py", help="our side"
    )
    parser.add_argument("--multiples", type=float, nargs="+", default=[0.5, 1.0, 2.0], help="of the default rates")
    parser.add_argument("--short", type=float, default=150, help="CPU seconds of a run of the search [%(default)s]")
    parser.add_argument("--full", type=float, default=560, help="CPU seconds of a final run [%(default)s]")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="of the final runs [%(default)s]")
    folder = ROOT / "work_dirs" / "rate_search"
    parser.add_argument("--work-dir", type=Path, default=folder, help="folder of the runs [%(default)s]")
    parser.add_argument("--out", type=Path, default=folder / "runs.json", help="file of the runs [%(default)s]")
    return parser.parse_args(words)


if __name__ == "__main__":
    main(parse_options())

"""Runs of cells: training for an equal clock, then each evaluation, all in processes of their own, none done twice."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from comparison._cells import CELLS, STARTS, Cell, cell_of
from comparison._probe import probe_run
from experiments import calls
from experiments.calls import commit, cost_of, digest_of_start, find_start, say
from experiments.results import Results
from lumen.errors import ConfigError
from lumen.serialization.checkpoint import find_checkpoint, load_checkpoint, save_checkpoint

RATES = (1.5e-3, 3e-3, 6e-3)
MUON_PER_ADAMW = 0.02 / 3e-3
"""The rate of Muon goes with that of AdamW, as in the schedule of nano."""
SEARCH_SEED, SEARCH_CLOCK = 10, 20.0
START_LR, START_CLOCK = 3e-3, 200.0
CALIBRATION = (30, 60)
"""Steps between which the cost of a step is measured."""
VAL = {
    "_test.ann_file": "annotations/refs_val.json",
    "_test.instances_file": "annotations/instances_val.json",
    "_test.data_prefix.img": "val",
}
OBJECTS = "objects"
_CONNECTOR = "lmm.base_model.model.multi_modal_projector."


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """A training that is asked for; its fields are in each line of its results.

    Args:
        cell: Name of the cell.
        purpose: ``calibration``, ``start``, ``rates`` or ``final``.
        seed: Seed of the order of images, of sentences and of the readout.
        lr: Rate of AdamW.
        clock: CPU seconds / 2 that it may take; 0 for a calibration.
        base: Digest of the weights that it starts from.
    """

    cell: str
    purpose: str
    seed: int
    lr: float
    clock: float
    base: str

    @property
    def name(self) -> str:
        """Name of its folder."""
        return f"{self.cell}/{self.purpose}_seed_{self.seed}_lr_{self.lr:g}_clock_{self.clock:g}_{self.base}"


@dataclass(frozen=True, slots=True)
class Bench:
    """Where runs happen.

    Args:
        out: Folder of the results file and of all runs.
        base: Folder of the model that the first stages start from.
        results: The measurements so far.
        options: Further changes of every config, as ``--cfg-options`` takes them.
        start_clock: CPU seconds / 2 of a first stage.
    """

    out: Path
    base: Path
    results: Results
    options: tuple[str, ...] = ()
    start_clock: float = START_CLOCK

    @property
    def digest(self) -> str:
        """A short digest of the weights in ``base``, and the clock of the first stage."""
        return f"{digest_of_start(self.base)}_{self.start_clock:g}"

    def folder(self, run: Run) -> Path:
        """Return the folder of a run."""
        return self.out.resolve() / run.name


def bench_of(out: Path, base: Path, options: tuple[str, ...] = (), start_clock: float = START_CLOCK) -> Bench:
    """Return a bench; ``base`` is looked for in the current folder, then in the checkout.

    Raises:
        ConfigError: There is no model at ``base``.
    """
    found = find_start(base, "make it by python tools/pretrain_nano.py")
    return Bench(out, found, Results(out / "results.jsonl"), options, start_clock)


def run_cell(bench: Bench, cell: Cell, *, seed: int, clock: float, lr: float | None) -> None:
    """Train a cell, evaluate it on the test split in all ways, probe it; what is done is skipped."""
    base = bench.digest
    lr = best_rate(bench.results, cell.rated, base) if lr is None else lr
    run = Run(cell=cell.name, purpose="final", seed=seed, lr=lr, clock=clock, base=base)
    for what, changes in cell.evaluations.items():
        measure(bench, run, what, changes)
    if not bench.results.find(**asdict(run), what="probe"):
        say(f"{run.name}: probing")
        record(bench, run, "probe", probe_run(bench.folder(run) / f"{cell.name}.py", checkpoint_of(bench, run)))


def search_rate(bench: Bench, readout: str) -> None:
    """Train the linear cell of a readout at each rate and judge it on the val split."""
    cell = CELLS[cell_of(readout, "linear")]
    for lr in RATES:
        settings = {"seed": SEARCH_SEED, "lr": lr, "clock": SEARCH_CLOCK, "base": bench.digest}
        measure(bench, Run(cell=cell.name, purpose="rates", **settings), cell.main, VAL)
    say(f"{readout}: rate {best_rate(bench.results, readout, bench.digest):g}")


def best_rate(results: Results, readout: str, base: str) -> float:
    """Return the rate with the best accuracy of a readout; of equal ones the lower.

    Raises:
        ConfigError: Not all rates were tried from this base.
    """
    found = results.find(cell=cell_of(readout, "linear"), purpose="rates", base=base)
    if not set(RATES) <= {row["lr"] for row in found}:
        raise ConfigError(
            f"the rates of {readout!r} are not all tried from this base: run tools/compare.py rates --readout "
            f"{readout}, or name a rate with --lr"
        )
    return max(found, key=lambda row: (row["figures"]["answers/accuracy"], -row["lr"]))["lr"]


def measure(bench: Bench, run: Run, what: str, changes: Mapping[str, str]) -> None:
    """Evaluate a run in one way, after training it, unless that is done; print the accuracy."""
    done = bench.results.find(**asdict(run), what=what)
    if not done:
        checkpoint = checkpoint_of(bench, run)
        folder, changes = bench.folder(run), {**changes, "_answers.path": str(bench.folder(run) / f"{what}.npz")}
        out = folder / f"{what}.json"
        call(bench, run, "test.py", checkpoint, "--out", out, work=folder / what, changes=changes)
        card = json.loads((folder / what / "protocol_test.json").read_text(encoding="utf-8"))
        payload = {
            "figures": json.loads(out.read_text(encoding="utf-8")),
            "answers": str(Path(run.name) / f"{what}.npz"),
            "written": card["written_answers"],
            "tokens_per_image": card["lmm_tokens_per_image"],
        }
        record(bench, run, what, payload)
    row = bench.results.find(**asdict(run), what=what)[0]
    say(f"{run.name}: {what}{', done before' * bool(done)}: acc@.5 {row['figures']['answers/accuracy']:.3f}")


def record(bench: Bench, run: Run, what: str, payload: Mapping[str, Any]) -> None:
    """Add a line to the results: the run, its commit, its config, what it cost, and what was measured."""
    folder = bench.folder(run)
    cost = cost_of(load_checkpoint(find_checkpoint(folder)))
    config = (folder / f"{run.cell}.py").read_text(encoding="utf-8")
    bench.results.add({**asdict(run), "what": what, "commit": commit(), **cost, **payload, "config": config})


def checkpoint_of(bench: Bench, run: Run) -> Path:
    """Return the last checkpoint of a run, which is trained now, or goes on, where it is not done."""
    steps = CALIBRATION[1] if run.purpose == "calibration" else steps_of(bench, run)
    done = bench.folder(run) / f"iter_{steps}.pth"
    if not done.is_file():
        say(f"{run.name}: training {steps} steps")
        interval = {"default_hooks.checkpoint.interval": CALIBRATION[0]} if run.purpose == "calibration" else {}
        changes = {"train_cfg.max_iters": str(steps), **{key: str(value) for key, value in interval.items()}}
        call(bench, run, "train.py", "--resume", work=bench.folder(run), changes=changes)
    return done


def steps_of(bench: Bench, run: Run) -> int:
    """Return how many steps of a cell fit the clock; the cost of a step is measured once for each cell and base."""
    trial = replace(run, purpose="calibration", seed=SEARCH_SEED, lr=RATES[1], clock=0.0)
    if not bench.results.find(**asdict(trial)):
        last = checkpoint_of(bench, trial)
        ends = [load_checkpoint(last.with_name(f"iter_{step}.pth"))["meta"]["cpu_seconds"] for step in CALIBRATION]
        seconds = (ends[1]["train"] - ends[0]["train"]) / (CALIBRATION[1] - CALIBRATION[0])
        record(bench, trial, "calibration", {"clock_per_step": seconds / 2})
    step = bench.results.find(**asdict(trial))[0]["clock_per_step"]
    return max(10, round(run.clock / step / 10) * 10)


def start_of(bench: Bench, cell: Cell) -> Path:
    """Return the checkpoint that a cell starts from; the first stage of its connector is trained unless it is there."""
    settings = {
        "purpose": "start",
        "seed": SEARCH_SEED,
        "lr": START_LR,
        "clock": bench.start_clock,
        "base": bench.digest,
    }
    run = Run(cell=cell.start, **settings)
    checkpoint = checkpoint_of(bench, run)
    if not bench.results.find(**asdict(run)):
        record(bench, run, "start", {})
    return with_inner_connector(checkpoint) if cell.readout == OBJECTS else checkpoint


def with_inner_connector(checkpoint: Path) -> Path:
    """Return a copy of a checkpoint in which the connector has the names that it has inside an ``ObjectConnector``."""
    copy = checkpoint.with_name(f"{checkpoint.stem}_inner.pth")
    if not copy.is_file():
        content = load_checkpoint(checkpoint)
        for weights in (content[name] for name in ("state_dict", "raw_state_dict") if name in content):
            for name in [name for name in weights if name.startswith(_CONNECTOR)]:
                weights[f"{_CONNECTOR}inner.{name.removeprefix(_CONNECTOR)}"] = weights.pop(name)
        save_checkpoint(copy, content)
    return copy


def call(bench: Bench, run: Run, tool: str, *words: object, work: Path, changes: Mapping[str, str]) -> None:
    """Run tools/train.py or tools/test.py on a run; see ``experiments.calls.call``."""
    cell = (CELLS | STARTS)[run.cell]
    rates = {"optim_wrapper.optimizer.lr": run.lr, "optim_wrapper.optimizer.muon_lr": run.lr * MUON_PER_ADAMW}
    changes = {"_lmm.name_or_path": bench.base, **rates, **changes}
    if run.cell in CELLS:
        changes["load_from.checkpoint"] = str(start_of(bench, cell))
    calls.call(tool, cell.config, *words, work=work, seed=run.seed, changes=changes, options=bench.options)

"""Runs of the ablations: a training and its evaluations, all in processes of their own, none done twice."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ablation._cells import CELLS, LABELS, Cell, Evaluation
from experiments.calls import call, commit, cost_of, digest_of_start, find_start, say
from experiments.results import Results
from lumen.serialization.checkpoint import load_checkpoint

_NO_VALIDATION = dict.fromkeys(("val_dataloader", "val_evaluator", "val_cfg"), "None")


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """A training that is asked for; its fields are in each line of its results.

    Args:
        config: Its config, from the root of the checkout.
        changes: What was changed in it, as words of ``--cfg-options``.
        seed: Seed of the order of images, of prompts and of what starts from scratch.
        max_steps: Its steps.
        base: Digest of the weights that it starts from.
    """

    config: str
    changes: str
    seed: int
    max_steps: int
    base: str

    @property
    def digest(self) -> str:
        """A short digest of all fields."""
        return hashlib.sha256(json.dumps(asdict(self)).encode()).hexdigest()[:8]


@dataclass(frozen=True, slots=True)
class Bench:
    """Where runs happen.

    Args:
        out: Folder of the results file and of all runs.
        base: Folder of the model that all cells start from.
        results: The measurements so far.
        options: Further changes of every config, as ``--cfg-options`` takes them.
    """

    out: Path
    base: Path
    results: Results
    options: tuple[str, ...] = ()

    def run_of(self, cell: Cell, *, seed: int, steps: int | None) -> Run:
        """Return the training of a cell, of ``steps`` where it is not to have its own number."""
        changes = [*(f"{key}={value}" for key, value in cell.changes.items()), *self.options]
        config = cell.config.relative_to(cell.config.parents[2]).as_posix()
        return Run(
            config=config,
            changes=" ".join(changes),
            seed=seed,
            max_steps=steps or cell.steps,
            base=digest_of_start(self.base),
        )


def bench_of(out: Path, base: Path, options: tuple[str, ...] = ()) -> Bench:
    """Return a bench; ``base`` is looked for in the current folder, then in the checkout, then in the package.

    Raises:
        ConfigError: There is no model at ``base``.
    """
    return Bench(out, find_start(base, "the packaged one is called nano"), Results(out / "results.jsonl"), options)


def run_cell(bench: Bench, cell: Cell, *, seed: int, steps: int | None = None) -> None:
    """Train a cell and evaluate it in all its ways; what is done is skipped.

    Args:
        bench: Where.
        cell: The cell.
        seed: The seed.
        steps: Steps in place of the cell's own number, for a trial; such runs are not in the tables.
    """
    trained = CELLS[cell.trained_as] if cell.trained_as else cell
    run = bench.run_of(trained, seed=seed, steps=steps)
    for what, evaluation in cell.evaluations.items():
        wanted = {"cell": cell.name, "what": what, **asdict(run)}
        done = bench.results.find(**wanted)
        if not done:
            checkpoint = _trained(bench, trained, run)
            figures = _evaluated(bench, trained, run, checkpoint, f"{cell.name}_{what}", evaluation)
            config = (checkpoint.parent / trained.config.name).read_text(encoding="utf-8")
            cost = cost_of(load_checkpoint(checkpoint))
            bench.results.add({**wanted, "commit": commit(), **cost, "figures": figures, "config_text": config})
        figures = bench.results.find(**wanted)[0]["figures"]
        shown = ", ".join(f"{label} {figures[name]:.3f}" for name, label in LABELS.items() if name in figures)
        say(f"{cell.name}, seed {seed}: {what}{', done before' * bool(done)}: {shown}")


def _trained(bench: Bench, cell: Cell, run: Run) -> Path:
    """Return the last checkpoint of a run, which is trained now, or goes on, where it is not done."""
    folder = bench.out.resolve() / f"{cell.name}_seed_{run.seed}_{run.digest}"
    done = folder / f"iter_{run.max_steps}.pth"
    if not done.is_file():
        say(f"{cell.name}, seed {run.seed}: training {run.max_steps} steps")
        changes = {"train_cfg.max_iters": run.max_steps, **_NO_VALIDATION}
        _call(bench, "train.py", cell.config, "--resume", work=folder, run=run, changes={**cell.changes, **changes})
    return done


def _evaluated(
    bench: Bench, cell: Cell, run: Run, checkpoint: Path, name: str, evaluation: Evaluation
) -> dict[str, float]:
    folder = checkpoint.parent / name
    out, config = folder / "figures.json", evaluation.config or cell.config
    # Without a training in the config of its own an evaluation has none to leave out.
    changes = {**cell.changes, **evaluation.changes, **_NO_VALIDATION}
    _call(bench, "test.py", config, checkpoint, "--out", out, work=folder, run=run, changes=changes)
    return json.loads(out.read_text(encoding="utf-8"))


def _call(
    bench: Bench, tool: str, config: Path, *words: object, work: Path, run: Run, changes: Mapping[str, Any]
) -> None:
    changes = {"_lmm.name_or_path": bench.base, **changes}
    call(tool, config, *words, work=work, seed=run.seed, changes=changes, options=bench.options)

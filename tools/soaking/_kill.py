"""Trainings that are killed at random moments, resumed and killed again, until one comes to its end.

After each kill all that counts as whole must be whole; at the end of such a chain all weights and random states equal
those of a training that was never killed.
"""

import json
import random
import shutil
import tempfile
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from experiments.results import Results
from lumen.engine.work_folder import was_evaluated
from lumen.errors import LumenError
from lumen.serialization.atomic import TEMPORARY
from lumen.serialization.checkpoint import load_checkpoint, load_newest
from soaking._machine import provenance
from soaking._processes import adopt_orphans, end_group, has_ended, kill, start, wait
from soaking._training import MAX_ITERS, METRIC, Watch, make_runner, train

TWO_RANKS_EACH = 4
SHARE_IN_SAVES = 0.5
_LAST = f"iter_{MAX_ITERS}.pth"
_PATIENCE = 300.0


class FoundFault(Exception):  # noqa: N818 - what is looked for
    """A kill lost or damaged something."""


@dataclass(frozen=True, slots=True)
class Reference:
    """A training that was not killed.

    Args:
        folder: Its work folder.
        seconds: How long it took.
        figures: Figure of each evaluation, by iteration.
    """

    folder: Path
    seconds: float
    figures: dict[int, float]


def soak_kills(results: Results, *, kills: int, seed: int) -> None:
    """Run chains until so many kills are in the results; a chain that is there is not repeated."""
    adopt_orphans()
    done = results.find(what="kill", seed=seed)
    number, num_kills = len(done), sum(row["kills"] for row in done)
    with tempfile.TemporaryDirectory() as place:
        make_runner(Path(place) / "warm")  # imports what a runner needs, once for all processes
        references: dict[int, Reference] = {}
        while num_kills < kills:
            ranks = 2 if number % TWO_RANKS_EACH == TWO_RANKS_EACH - 1 else 1
            if ranks not in references:
                references[ranks] = reference(Path(place) / f"whole-{ranks}", ranks)
            folder = Path(place) / f"chain-{number}"
            row = run_chain(folder, references[ranks], ranks=ranks, rng=random.Random(f"{seed} {number}"))
            shutil.rmtree(folder, ignore_errors=True)
            results.add({"what": "kill", "seed": seed, "chain": number, "ranks": ranks, **row, **provenance()})
            number, num_kills = number + 1, num_kills + row["kills"]
            print(f"chain {number}, {ranks} ranks: {row}; {num_kills} kills in all", flush=True)


def reference(folder: Path, ranks: int) -> Reference:
    """Train without a kill.

    Raises:
        FoundFault: It failed.
    """
    folder.mkdir()
    begin = time.monotonic()
    children = launch(folder, ranks, Watch(), number=0)
    for child in children:
        if wait(child, _PATIENCE) != 0:
            raise FoundFault(f"a training that was not killed failed: {_errors(folder)}")
        end_group(child)
    figures = dict(json.loads(line) for line in (folder / "figures.jsonl").read_text().splitlines())
    return Reference(folder, time.monotonic() - begin, figures)


def launch(folder: Path, ranks: int, watch: Watch, *, number: int) -> list[int]:
    """Start the ranks of a training; the first one, which saves, is watched."""

    def work(rank: int) -> None:
        if rank == 0:
            watch.install()
        train(folder, rank=rank, ranks=ranks, store=folder / f"meeting-{number}")

    return [start(partial(work, rank), folder / f"errors-{rank}.txt") for rank in range(ranks)]


def run_chain(folder: Path, whole: Reference, *, ranks: int, rng: random.Random) -> dict[str, Any]:
    """Kill a training until it ends, and return the counts; a fault ends the chain."""
    folder.mkdir()
    watch, groups = Watch(), []
    counts: dict[str, Any] = {"kills": 0, "inside": 0, "leftovers": 0, "starts": 0, "faults": []}
    best = -float("inf")
    try:
        while True:
            watch.reset()
            children = launch(folder, ranks, watch, number=counts["starts"])
            groups += children
            counts["starts"] += 1
            wait_for_moment(children, watch, seconds=whole.seconds, rng=rng)
            if any(has_ended(child) for child in children):
                if any(wait(child, _PATIENCE) != 0 for child in children):
                    raise FoundFault(f"a training failed by itself: {_errors(folder)}")
                break
            kill(children, rng)
            counts["kills"] += 1
            counts["inside"] += watch.is_inside
            counts["leftovers"] += any(folder.glob(f"{TEMPORARY}*"))
            best = check_whole(folder, whole, best)
        check_equal(folder, whole)
    except FoundFault as fault:
        counts["faults"].append(str(fault))
    finally:
        for group in groups:
            end_group(group)
    return counts


def wait_for_moment(children: list[int], watch: Watch, *, seconds: float, rng: random.Random) -> None:
    """Wait for a moment of the run, or for one in a save; return early where a process ends before it."""
    wanted = rng.randint(1, 8) if rng.random() < SHARE_IN_SAVES else None
    deadline = time.monotonic() + (_PATIENCE if wanted else rng.uniform(0.0, 1.2 * seconds))
    while time.monotonic() < deadline and not any(has_ended(child) for child in children):
        if wanted is not None and watch.num_begun >= wanted and watch.is_inside:
            time.sleep(rng.uniform(0.0, 0.004))
            return
        time.sleep(0.0005)


def check_whole(folder: Path, whole: Reference, best: float) -> float:
    """Check a work folder after a kill; return the figure of the best checkpoint.

    Args:
        folder: The work folder.
        whole: The training without kills.
        best: What an earlier call returned.

    Raises:
        FoundFault: A file that counts as whole is not, or a better checkpoint was there before.
    """
    complaints: list[str] = []
    try:
        newest = load_newest(folder, complaints.append)
        for path in folder.glob("*.pth"):
            if not path.name.startswith(TEMPORARY):
                load_checkpoint(path)
    except LumenError as error:
        raise FoundFault(f"after a kill: {error}") from error
    if complaints:
        raise FoundFault(f"after a kill: {complaints}")
    # An evaluation before the newest checkpoint was finished, so that its weights are kept where they were best.
    num_iters = 0 if newest is None else newest[1]["meta"]["iter"]
    expected = max((figure for number, figure in whole.figures.items() if number < num_iters), default=best)
    path = folder / "best.pth"
    figure = load_checkpoint(path)["meta"]["metrics"][METRIC] if path.exists() else -float("inf")
    if figure < max(best, expected):
        raise FoundFault(f"best.pth has {figure} after {num_iters} iterations, there was {max(best, expected)}")
    return figure


def check_equal(folder: Path, whole: Reference) -> None:
    """Compare what a chain ended with with the training without kills.

    Raises:
        FoundFault: Weights, averages, optimizer, schedulers or random states differ, or the last evaluation is missing.
    """
    for name in (_LAST, "best.pth"):
        found, expected = load_checkpoint(folder / name), load_checkpoint(whole.folder / name)
        unequal = [key for key in expected if key != "meta" and not _same(found[key], expected[key])]
        if unequal or found["meta"]["metrics"] != expected["meta"]["metrics"]:
            raise FoundFault(f"{name} differs from that of a training that was not killed: {unequal or 'metrics'}")
    if not was_evaluated(folder, MAX_ITERS):
        raise FoundFault("the last evaluation was never finished")


def _same(first: Any, second: Any) -> bool:
    if isinstance(first, dict):
        return (
            isinstance(second, dict)
            and first.keys() == second.keys()
            and all(_same(first[k], second[k]) for k in first)
        )
    if isinstance(first, list):
        return len(first) == len(second) and all(map(_same, first, second))
    if isinstance(first, torch.Tensor):
        return torch.equal(first, second)
    return first == second


def _errors(folder: Path) -> str:
    texts = [path.read_text(errors="replace").strip().splitlines()[-1:] for path in folder.glob("errors-*.txt")]
    return "; ".join(text for lines in texts for text in lines)

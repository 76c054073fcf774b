"""Mutated inputs for every reader: each is read, or refused by an error of Lumen, in bounded memory and time."""

import base64
import gc
import logging
import random
import signal
import tempfile
import traceback
import warnings
from collections.abc import Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from experiments.results import Results
from lumen.errors import LumenError
from soaking._bounded import run_bounded
from soaking._machine import provenance
from soaking._readers import Reader

MEGABYTES = 512
SECONDS = 5.0
MEMORY = Path("/dev/shm")
_KEPT_FAULTS = 5


class TooSlowError(BaseException):
    """One input took too long; no reader may catch it."""


def fuzz(results: Results, readers: Sequence[Reader], *, count: int, round_size: int, seed: int) -> None:
    """Give every reader its share of ``count`` inputs, round by round; what is in the results is not repeated.

    Args:
        results: Where each reader adds a line per round.
        readers: What is fuzzed.
        count: Inputs in all; the last round is a whole one.
        round_size: Inputs of a round, over all readers. A reader gets those of a round in one process.
        seed: Of the mutations; each round of a reader has its own generator, made of this, its name and the number.
    """
    total = sum(reader.share for reader in readers)
    for number in range(-(-count // round_size)):
        for reader in readers:
            size = -(-round_size * reader.share // total)
            place = {"what": "fuzz", "reader": reader.name, "round": number, "seed": seed, "inputs": size}
            if not results.find(**place):
                row = place | fuzz_chunk(reader, number=number, size=size, seed=seed)
                results.add(row | provenance())
                _tell(row)


def fuzz_chunk(reader: Reader, *, number: int, size: int, seed: int) -> dict[str, Any]:
    """Return what a reader did with its part of a round: how many inputs it read and refused, and its faults."""
    rng = random.Random(f"{seed} {reader.name} {number}")
    outcome = run_bounded(
        lambda: _read_all(reader, rng, size),
        megabytes=MEGABYTES,
        cpu_seconds=int(60 + 0.2 * size),
        wall_seconds=120 + 0.5 * size,
    )
    if outcome.death is not None:
        dead = {"error": outcome.death, "number": 1, "input": None}
        return {"read": 0, "refused": 0, "faults": [dead], "peak_megabytes": 0}
    return {**outcome.result, "peak_megabytes": outcome.peak}


def _read_all(reader: Reader, rng: random.Random, size: int) -> dict[str, Any]:
    faults: dict[str, dict[str, Any]] = {}
    counts = {"read": 0, "refused": 0}
    gc.freeze()  # MMEngine collects garbage for each data set that it reads
    warnings.simplefilter("ignore")
    logging.disable()
    # In memory where there is such a place: a disk would be written to a million times.
    with tempfile.TemporaryDirectory(dir=MEMORY if MEMORY.is_dir() else None) as folder:
        read = reader.prepare(Path(folder))
        for _ in range(size):
            content = reader.mutate(rng)
            fault = _try(read, content, counts)
            if fault is not None:
                kept = faults.setdefault(fault, {"number": 0, "input": base64.b64encode(content[:20_000]).decode()})
                kept["number"] += 1
    rows = [{"error": name, **fault} for name, fault in faults.items()]
    return {**counts, "faults": rows}


def _try(read: Any, content: bytes, counts: dict[str, int]) -> str | None:
    """Read one input; return the kind of its fault, which is an error that is not one of Lumen."""
    try:
        with _limited(SECONDS):
            read(content)
    except LumenError:
        counts["refused"] += 1
    except TooSlowError:
        return f"more than {SECONDS:g} s"
    except Exception as error:  # what is looked for; it is reported with the input
        last = traceback.extract_tb(error.__traceback__)[-1]
        return f"{type(error).__name__} at {Path(last.filename).name}:{last.lineno}"
    else:
        counts["read"] += 1
    return None


@contextmanager
def _limited(seconds: float) -> Any:
    """Raise TooSlowError when the block takes more processor time."""

    def stop(number: int, frame: Any) -> None:
        raise TooSlowError

    signal.signal(signal.SIGPROF, stop)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)


def _tell(row: dict[str, Any]) -> None:
    head = f"{row['reader']} {row['round']}: {row['read']} read, {row['refused']} refused"
    print(f"{head}, {sum(fault['number'] for fault in row['faults'])} faults", flush=True)
    for fault in row["faults"][:_KEPT_FAULTS]:
        print(f"  {fault['number']} x {fault['error']}", flush=True)

"""The reliability suite in small: each part runs, finds what is wrong, and finds nothing in Lumen."""

import json
import os
import pickle
import signal
import subprocess
import sys
import time
from pathlib import Path
from random import Random

import pytest

from lumen.errors import LumenError
from lumen.inference.predictor import LumenPredictor

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tools"))

from experiments.results import Results  # noqa: E402
from experiments.tables import BEGIN, END  # noqa: E402
from soaking import _fuzz, _reader, _readers_model  # noqa: E402
from soaking._bounded import run_bounded  # noqa: E402
from soaking._disk import Writer, try_disk  # noqa: E402
from soaking._fuzz import fuzz, fuzz_chunk  # noqa: E402
from soaking._hostile import Hostile, try_file  # noqa: E402
from soaking._hostile_data import Payload, written  # noqa: E402
from soaking._reader import Reader, text_reader  # noqa: E402
from soaking._readers import all_readers  # noqa: E402
from soaking._tables import all_tables, count_faults  # noqa: E402
from soaking._threads import ask_in_threads  # noqa: E402
from soaking._writers import all_writers  # noqa: E402


@pytest.fixture(scope="module")
def readers():
    return all_readers()


def test_mutated_inputs_are_read_or_refused(readers):
    rows = {reader.name: fuzz_chunk(reader, number=0, size=12, seed=7) for reader in readers if reader.share > 2}
    faults = {(name, fault["error"], fault["input"]) for name, row in rows.items() for fault in row["faults"]}
    # Types of arguments are checked in tests alone.
    assert [fault for fault in faults if not fault[1].startswith("TypeCheckError")] == []
    assert sum(row["read"] for row in rows.values()) > 0 < sum(row["refused"] for row in rows.values())


def test_every_reader_reads_what_was_not_changed(readers, tmp_path, monkeypatch):
    """Else no changed input would come further than the fault that all of them have."""
    for module in (_reader, _readers_model):
        monkeypatch.setattr(module, "mutated_json", lambda content, rng: json.dumps(content).encode())
        monkeypatch.setattr(module, "mutated_bytes", lambda content, rng: content)
        if hasattr(module, "mutated_tree"):
            monkeypatch.setattr(module, "mutated_tree", lambda content, rng: content)
    refused = []
    for number, reader in enumerate(readers):
        (tmp_path / str(number)).mkdir()
        try:
            reader.prepare(tmp_path / str(number))(reader.mutate(Random(0)))
        except LumenError as error:
            refused.append(f"{reader.name}: {error}")
    assert refused == []


def test_what_a_reader_does_wrong_is_found_with_its_input(tmp_path, monkeypatch):
    def read(text):
        if "x" in text:
            raise KeyError(text)
        while "y" in text:
            pass
        return bytearray(2**30) if "z" in text else text

    reader = Reader("wrong", 1, lambda rng: rng.choice([b"a", b"x", b"z"]), lambda folder: lambda c: read(c.decode()))
    results = Results(tmp_path / "results.jsonl")
    fuzz(results, [reader], count=20, round_size=10, seed=0)
    kinds = {fault["error"].partition(" ")[0]: fault["input"] for row in results.rows for fault in row["faults"]}
    assert kinds == {"KeyError": "eA==", "MemoryError": "eg=="}
    assert count_faults(results.rows) == 4 and len(results.rows) == 2
    fuzz(results, [reader], count=20, round_size=10, seed=0)
    assert len(results.rows) == 2, "rounds that are done are not repeated"
    slow = text_reader("slow", 1, ["y"], read)
    monkeypatch.setattr(_fuzz, "SECONDS", 0.1)
    assert fuzz_chunk(slow, number=0, size=1, seed=0)["faults"][0]["error"] == "more than 0.1 s"


@pytest.mark.parametrize(
    ("work", "seconds", "death"),
    [
        (lambda: time.sleep(60), 0.2, "no answer in 0.2 s"),
        (lambda: [].pop(), 20.0, "ended with code 70"),
        (lambda: os.kill(os.getpid(), signal.SIGKILL), 20.0, "ended by SIGKILL"),
    ],
)
def test_what_ends_a_bounded_process_is_told(work, seconds, death):
    limits = {"megabytes": 200, "cpu_seconds": 5, "wall_seconds": seconds}
    assert run_bounded(work, **limits).death == death
    assert run_bounded(lambda: [1, "a"], **(limits | {"wall_seconds": 20.0})).result == [1, "a"]


HARMLESS = ("pickle, calls os.system, protocol 4", "image, PNG that", "image, pipe", "COCO, lists", "tar, a link")


def test_hostile_files_are_refused_and_code_that_runs_is_found():
    from soaking._hostile_files import all_files

    files = all_files()
    assert len({file.name for file in files}) == len(files) >= 100
    outcomes = {file.name: try_file(file) for file in files if file.name.startswith(HARMLESS)}
    assert len(outcomes) > 5 and [name for name, row in outcomes.items() if row["is_fault"]] == []

    open_to_code = Hostile(
        "x",
        lambda folder: written("a", pickle.dumps(Payload(folder)))(folder),
        lambda path: pickle.loads(path.read_bytes()),  # the code that it runs is ours
    )
    assert try_file(open_to_code)["is_fault"] and "CODE RAN" in try_file(open_to_code)["outcome"]


def test_threads_get_the_answers_of_one_thread(tiny_lumen):
    predictor = LumenPredictor(tiny_lumen, input_hw=(64, 64))
    assert ask_in_threads(predictor, answers=24, threads=4, rng=Random(0)) == []


def test_full_disks_leave_whole_files_and_a_writer_in_place_is_found():
    writers = {writer.name: writer for writer in all_writers()}
    for name in ("checkpoint", "feature cache"):
        row = try_disk(writers[name], "bounded file size", 0.5)
        assert row["outcome"].startswith("refused") and not row["is_fault"], row

    def in_place(folder, version):
        (folder / "a").write_bytes(bytes([version]) * 50_000)

    row = try_disk(Writer("in place", in_place), "bounded file size", 0.5)
    assert row["is_fault"] and "the old a is damaged" in row["outcome"]


def run_tool(*arguments, folder):
    command = [sys.executable, "tools/soak.py", *arguments, "--out", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return [json.loads(line) for line in (folder / "results.jsonl").read_text().splitlines()]


def test_killed_trainings_resume_and_end_with_the_same_bits(tmp_path):
    rows = run_tool("kill", "--kills", "6", folder=tmp_path)
    assert sum(row["kills"] for row in rows) >= 6 and sum(row["inside"] for row in rows) >= 1
    assert "| all |" in all_tables(Results(tmp_path / "results.jsonl"))


@pytest.mark.slow
@pytest.mark.parametrize(
    "arguments",
    [
        ("kill", "--kills", "60"),
        ("fuzz", "--count", "20000", "--seed", "1"),
        ("hostile",),
        ("threads", "--answers", "1000"),
        ("disk",),
    ],
    ids=lambda arguments: arguments[0],
)
def test_a_longer_run_finds_no_fault(arguments, tmp_path):
    assert count_faults(run_tool(*arguments, folder=tmp_path)) == 0


def test_the_page_has_its_figures_between_marks():
    text = (ROOT / "docs" / "reliability.md").read_text(encoding="utf-8")
    tables = text.partition(BEGIN)[2].partition(END)[0]
    assert "python tools/soak.py kill" in text and "**Killed trainings**" in tables

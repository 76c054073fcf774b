import math
from pathlib import Path

import pytest
import torch


def test_each_way_gets_its_own_number_of_turns_in_turns(load_benchmark):
    timing = load_benchmark("_timing")
    calls = []
    ways = {"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}
    seconds = timing.time_in_turns(ways, {"a": 3, "b": 1}, repeats=2)
    assert calls == ["a", "a", "b", "b", "a", "a", "a", "a"]
    assert set(seconds) == {"a", "b"}
    assert all(value >= 0 for value in seconds.values())


def test_a_difference_is_relative_to_the_largest_expected_value(load_benchmark):
    timing = load_benchmark("_timing")
    assert timing.relative_difference(torch.tensor([1.0, 4.5]), torch.tensor([1.0, -4.0])) == 8.5 / 4
    assert timing.relative_difference(torch.zeros(2), torch.zeros(2)) == 0
    assert timing.relative_difference(torch.zeros(0), torch.zeros(0)) == 0
    assert timing.relative_difference(torch.ones(2), torch.zeros(2)) == math.inf
    assert math.isnan(timing.relative_difference(torch.full((2,), math.nan), torch.ones(2)))
    with pytest.raises(ValueError, match="one shape"):
        timing.relative_difference(torch.zeros(2), torch.zeros(3))


def test_the_table_lines_up(load_benchmark, capsys):
    load_benchmark("_timing").print_table(["", "ms"], [["a", "1.00"], ["bcd", "10.00"]])
    assert capsys.readouterr().out == "        ms\na     1.00\nbcd  10.00\n"


FOLDER = Path(__file__).resolve().parents[2] / "tools" / "benchmarks"
SCRIPTS = sorted(file.stem for file in FOLDER.glob("[!_]*.py"))


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_benchmark_finds_what_it_imports(load_benchmark, name):
    assert callable(load_benchmark(name).main)

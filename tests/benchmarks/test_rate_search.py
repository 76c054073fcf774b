import json

import pytest


class Peaked:
    """A side whose AP on val is best at one multiple of its rate; it notes what was trained."""

    def __init__(self, best: float) -> None:
        self.best, self.trained = best, []

    def train(self, run, folder):
        self.trained.append(run)
        judged = {split: dict.fromkeys(FIGURES, 1 / (1 + abs(run.multiple - self.best))) for split in run.splits}
        return {"cpu_seconds": 7 + 0.5 * run.steps, "val": {}, "test": {}, **judged}


FIGURES = ("coco/bbox_mAP", "coco/bbox_mAP_50", "coco/bbox_mAP_75")


@pytest.mark.parametrize(
    ("best", "tried"), [(1.0, [0.5, 1, 2]), (4.0, [0.5, 1, 2, 4, 8]), (0.25, [0.125, 0.25, 0.5, 1, 2])]
)
def test_the_grid_grows_until_its_best_rate_is_inside(load_benchmark, tmp_path, best, tried):
    bench = load_benchmark("rate_search")
    side = Peaked(best)
    records = bench.Records(tmp_path / "runs.json", tmp_path, {"ours": side})
    assert bench.search(records, "ours", bench.parse_options(["--short", "30"])) == best
    assert sorted(run.multiple for run in side.trained if run.purpose == "search") == tried
    assert {run.steps for run in side.trained if run.purpose == "search"} == {60}


def test_only_the_chosen_rates_meet_the_test_split_and_nothing_is_run_twice(load_benchmark, tmp_path, capsys):
    bench = load_benchmark("rate_search")
    sides = {"ours": Peaked(1.0), "rtmdet": Peaked(2.0)}
    options = bench.parse_options(["--work-dir", str(tmp_path), "--out", str(tmp_path / "runs.json"), "--full", "100"])
    for _ in range(2):
        records = bench.Records(options.out, tmp_path, sides)
        best = {name: bench.search(records, name, options) for name in sides}
        for seed in options.seeds:
            for name, multiple in best.items():
                records.get(bench.Run(side=name, purpose="final", multiple=multiple, seed=seed, steps=200))
    assert best == {"ours": 1.0, "rtmdet": 2.0}
    assert [len(side.trained) for side in sides.values()] == [2 + 3 + 3, 2 + 4 + 3]
    tested = [row for row in json.loads(options.out.read_text()) if row["test"]]
    assert {(row["side"], row["multiple"], row["seed"]) for row in tested} == {
        (name, best[name], seed) for name in sides for seed in (0, 1, 2)
    }
    assert all(row["commit"] for row in tested)
    bench.print_search(records)
    bench.print_finals(records)
    assert "rtmdet, test split, seeds [0, 1, 2]" in capsys.readouterr().out

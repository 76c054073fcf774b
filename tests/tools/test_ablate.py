import os
import subprocess
import sys
from pathlib import Path

import pytest
from matplotlib import pyplot

from lumen.data.shapes import make_shapes
from lumen.engine.check_config import load_config, parse_overrides
from lumen.lmm.nano.model import NanoSizes, make_nano

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tools"))

from ablation import _cells as cells  # noqa: E402
from ablation import _plots as plots  # noqa: E402
from ablation import _runs as runs  # noqa: E402
from ablation import _tables as tables  # noqa: E402
from experiments.results import Results  # noqa: E402
from experiments.tables import MISSING  # noqa: E402


def test_every_cell_answers_a_question_and_every_row_is_a_cell():
    named = {name for ablation in cells.ABLATIONS for name in ablation.cells}
    assert named == set(cells.CELLS)
    known = {cells.LABELS[figure] for ablation in cells.ABLATIONS for figure in ablation.figures}
    assert known == set(cells.LABELS.values())
    for cell in cells.CELLS.values():
        assert cell.evaluations
        assert not cell.trained_as or (cell.trained_as in cells.CELLS and not cell.changes)


def test_training_and_evaluations_take_the_settings_of_every_cell():
    asked = {}
    for cell in cells.CELLS.values():
        trained = cells.CELLS[cell.trained_as] if cell.trained_as else cell
        for evaluation in cell.evaluations.values():
            changes = {**trained.changes, **evaluation.changes}
            asked[evaluation.config or trained.config, *(f"{key}={value}" for key, value in changes.items())] = cell
    for (config, *words), cell in asked.items():
        settings = load_config(config, parse_overrides(words), tool_root=ROOT)
        assert settings.test_evaluator and settings.model.lmm.name_or_path == "nano", cell.name


def test_what_a_cell_changes_arrives():
    def load(name, **further):
        cell = cells.CELLS[name]
        words = {**cell.changes, **further}
        overrides = parse_overrides(f"{key}={value}" for key, value in words.items())
        return load_config(cell.config, overrides, tool_root=ROOT)

    coarse, prompts = load("coarse_convolutions"), load("prompts_4")
    assert (coarse.model.aligner.fine_levels, coarse.model.aligner.mixing) == (0, "convolutions")
    assert not any("layers" in name for name in coarse.optim_wrapper.paramwise_cfg.adamw)
    pipeline = prompts.train_dataloader.dataset.pipeline
    assert (prompts.train_dataloader.batch_size, pipeline[2].num_prompts) == (6, 4)
    assert load("no_presence").model.loss_weights == {"aligner/loss_presence": 0.0, "detection/loss_box": 2.0}
    limits = cells.CELLS["peaks_5"].evaluations["names"].changes
    assert load("base", **limits).model.decoders[0].limits == {"num_peaks": 5}
    mix = load("mix_no_pose").train_dataloader.dataset
    assert [part.ann_file for part in mix.datasets] == [
        f"annotations/{name}_train.json" for name in ("instances", "refs")
    ]


# ---- runs


@pytest.fixture
def bench(tmp_path):
    (tmp_path / "base").mkdir()
    (tmp_path / "base" / "model.safetensors").write_bytes(b"weights")
    return runs.bench_of(tmp_path / "out", tmp_path / "base")


def row_of(bench, name, seed=0, ap=0.5, *, steps=None, what="names", **further):
    cell = cells.CELLS[name]
    trained = cells.CELLS[cell.trained_as] if cell.trained_as else cell
    run = runs.asdict(bench.run_of(trained, seed=seed, steps=steps))
    figures = {cells.AP: ap, cells.AP_50: ap + 0.25, cells.PEAK_AP: ap - 0.25}
    cost = {"steps": run["max_steps"], "clock_used": 40.0 + seed, "parameters": 9, "commit": "abc"}
    return {"cell": name, "what": what, **run, **cost, "figures": figures, **further}


def test_what_is_done_is_not_run_again(bench, capsys):
    bench.results.add(row_of(bench, "peaks_5", seed=3, ap=0.125))
    runs.run_cell(bench, cells.CELLS["peaks_5"], seed=3)
    assert "done before: AP 0.125, AP50 0.375, AP, peak alone -0.125" in capsys.readouterr().out
    assert [path.name for path in bench.out.iterdir()] == ["results.jsonl"]


def test_a_run_is_told_by_its_settings_and_its_start(bench, tmp_path):
    base = bench.run_of(cells.CELLS["base"], seed=0, steps=None)
    assert base.max_steps == cells.STEPS and base.config == "configs/ablations/base.py"
    others = [
        bench.run_of(cells.CELLS["coarse"], seed=0, steps=None),
        bench.run_of(cells.CELLS["base"], seed=1, steps=None),
        bench.run_of(cells.CELLS["base"], seed=0, steps=7),
        runs.bench_of(bench.out, bench.base, ("_ask.num_prompts=3",)).run_of(cells.CELLS["base"], seed=0, steps=None),
    ]
    assert len({base.digest, *(run.digest for run in others)}) == 5


# ---- tables and plot


def test_tables_of_nothing_say_so(bench):
    text = tables.all_tables(bench.results)
    assert text.startswith(f"{MISSING.capitalize()}.")
    assert text.count(f"| {MISSING} |") == sum(len(ablation.cells) for ablation in cells.ABLATIONS)
    assert all(ablation.paper in text for ablation in cells.ABLATIONS)


def test_tables_show_mean_and_spread_of_the_newest_runs_alone(bench):
    rows = [
        row_of(bench, "coarse", base="another", ap=0.9),
        row_of(bench, "coarse", ap=0.9),
        row_of(bench, "coarse", ap=0.25),  # the same seed once more
        row_of(bench, "coarse", seed=1, ap=0.5),
        row_of(bench, "coarse", seed=2, ap=0.9, steps=2),  # a trial
        row_of(bench, "base", ap=0.5),
        row_of(bench, "peaks_1", ap=0.125),
        row_of(bench, "mix", ap=0.5),
        row_of(bench, "mix", what="sentences", figures={cells.SENTENCES: 0.75}),
    ]
    for row in rows:
        bench.results.add(row)
    text = tables.all_tables(bench.results)
    assert text.startswith(f"Commits abc; start {rows[-1]['base']}.")
    assert "| stride 16, the tower's tokens | `coarse` | 2 | 0.375 +- 0.177 | 0.625 +- 0.177 | 300 | 40 | 9 |" in text
    assert "| K = 1 | `peaks_1` | 1 | 0.125 | 0.375 | 300 | 40 | 9 |" in text
    assert "| names .69, sentences .23, keypoints .08 | `mix` | 1 | 0.750 | 0.750 | 300 | 40 | 9 |" in text
    assert f"| 75 steps | `steps_75` | {MISSING} |  |  |  |  |  |" in text
    assert "| trained, and part of the score | `base` | 1 | 0.250 | 0.500 | 300 | 40 | 9 |" in text


def test_the_plot_has_a_bar_for_each_cell_that_ran(bench):
    for seed in (0, 1):
        bench.results.add(row_of(bench, "coarse", seed=seed, ap=0.25 + seed / 2))
    figure, axes = pyplot.subplots()
    plots.draw_all(axes, tables.rows_of(bench.results))
    assert [bar.get_width() for bar in axes.patches] == [0.5] * 3  # aligner, grid, head
    assert len(axes.get_yticks()) == sum(len(ablation.cells) + 1 for ablation in cells.ABLATIONS)
    pyplot.close(figure)
    (path,) = plots.draw(bench.results, bench.out)
    assert path.name == "ablations.png" and path.stat().st_size > 0


# ---- all of it


@pytest.mark.slow
def test_cells_are_trained_and_evaluated_once(tmp_path):
    make_shapes(tmp_path / "data" / "shapes", num_train=32, num_val=4, num_test=4, workers=1)
    sizes = NanoSizes(width=32, llm_layers=1, vision_layers=1, tied=True, seeing=True)
    make_nano(tmp_path / "base", sizes=sizes)
    names = ("base", "peaks_1", "coarse_convolutions", "mix")

    def ablate(*words):
        command = [sys.executable, ROOT / "tools" / "ablate.py", *words, "--out", "out"]
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=1800)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    run = ("run", "--cell", *names, "--steps", "2", "--base", "base")
    assert ablate(*run).count("training 2 steps") == 3
    results = Results(tmp_path / "out" / "results.jsonl")
    assert [row["cell"] for row in results.rows] == [*names, "mix"]
    for row in results.rows:
        assert row["steps"] == 2 and row["clock_used"] > 0 and row["parameters"] > 0 and row["commit"]
        assert "CosineAnnealingLR" in row["config_text"]
    assert cells.ALARMS in results.find(cell="base")[0]["figures"]
    assert cells.SENTENCES in results.find(cell="mix", what="sentences")[0]["figures"]
    again = ablate(*run)
    assert again.count("done before") == 5 and "training" not in again
    assert MISSING in ablate("table")
    ablate("plot")
    assert (tmp_path / "out" / "ablations.png").is_file()

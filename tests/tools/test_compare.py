import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import make_images, make_sample

from lumen.data.shapes import make_shapes
from lumen.engine.check_config import load_config
from lumen.errors import ConfigError, DataError
from lumen.lmm.connectors import LinearConnector, ObjectConnector, QueryConnector
from lumen.lmm.generation import end_tokens
from lumen.lmm.nano.model import NanoSizes, make_nano
from lumen.metrics.bootstrap import Interval
from lumen.metrics.refer_answers import Answers
from lumen.ops.geometry import box_iou
from lumen.structures import Prompt

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tools"))

from comparison import _cells as cells  # noqa: E402
from comparison import _hypotheses as hypotheses  # noqa: E402
from comparison import _probe as probe  # noqa: E402
from comparison import _runs as runs  # noqa: E402
from comparison import _tables as tables  # noqa: E402
from experiments import calls  # noqa: E402
from experiments.results import Results  # noqa: E402
from experiments.tables import BEGIN, END, MISSING, write_between_marks  # noqa: E402

FIGURES = {"accuracy": 0.5, "accuracy_75": 0.25, "mean_iou": 0.4, "unanswered": 0.0}


def test_the_cells_are_the_configs():
    assert sorted(cells.CELLS | cells.STARTS) == sorted(
        path.stem for path in (ROOT / "configs" / "compare").glob("*.py")
    )
    assert all(next(iter(cell.evaluations)) == cell.main for cell in cells.CELLS.values())


def test_cells_differ_in_readout_and_connector_alone():
    configs = {name: load_config(cell.config, tool_root=ROOT) for name, cell in cells.CELLS.items()}
    connectors = {name: config.model.lmm.base.pop("connector") for name, config in configs.items()}
    for name, connector in connectors.items():
        connector = connector.get("inner", connector)
        assert connector["type"].__name__.lower().startswith(cells.CELLS[name].connector)
        start = load_config(cells.STARTS[cells.CELLS[name].start].config, tool_root=ROOT)
        assert start.model.lmm.base.connector == connector
        assert cells.CELLS[name].start in configs[name].load_from.checkpoint
    one = configs["text_linear"]
    for name, config in configs.items():
        if cells.CELLS[name].readout in cells.MASKS:  # these read masks too
            for loader in (config.train_dataloader, config.test_dataloader):
                assert loader.dataset.pop("with_masks")
            assert config.test_evaluator.pop("masks")
        # The same images, flips and sentences: what is drawn depends on the seed and the position alone.
        same = ("train_dataloader", "test_dataloader", "test_evaluator", "param_scheduler", "custom_hooks")
        assert [key for key in same if str(config[key]) != str(one[key])] == []
        assert str(config.model.lmm) == str(one.model.lmm)
        assert str(config.optim_wrapper.optimizer) == str(one.optim_wrapper.optimizer)


# ---- the results file


def test_a_torn_last_line_is_left_out_said_and_replaced(tmp_path, capsys):
    path = tmp_path / "new" / "results.jsonl"
    Results(path).add({"cell": "a", "seed": 0})
    with path.open("a") as file:
        file.write('{"cell": "b", "se')
    results = Results(path)
    assert "the last line is torn" in capsys.readouterr().out
    assert results.find(cell="b") == []
    results.add({"cell": "b", "seed": 1})
    assert [json.loads(line) for line in path.read_text().splitlines()] == results.rows
    assert Results(path).find(cell="b", seed=1) == [{"cell": "b", "seed": 1}]
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("line", ["{", "[1]"])
def test_a_whole_line_that_is_no_object_is_an_error(tmp_path, line):
    path = tmp_path / "results.jsonl"
    path.write_text(f'{{"cell": "a"}}\n{line}\n')
    with pytest.raises(DataError, match="line 2"):
        Results(path)


# ---- runs


@pytest.fixture
def bench(tmp_path):
    (tmp_path / "base").mkdir()
    (tmp_path / "base" / "model.safetensors").write_bytes(b"weights")
    return runs.bench_of(tmp_path / "out", tmp_path / "base")


def row_of(bench, cell, what, seed=0, accuracy=0.5, **further):
    run = {"cell": cell, "purpose": "final", "seed": seed, "lr": 0.003, "clock": 200.0, "base": bench.digest}
    figures = {f"answers/{name}": value for name, value in {**FIGURES, "accuracy": accuracy}.items()}
    return {**run, "what": what, "figures": figures, "steps": 7, "clock_used": 201.0, "parameters": 9, **further}


def probed():
    pixels = {"at_cell": 3.0, "mean": 20.0, "slot": 5.0}
    return {"pixels": pixels, "ms_per_image": {"1": 10.0, "8": 20.0, "80": 30.0}, "image_tokens": 100, "proposed": None}


def test_what_is_done_is_not_run_again(bench, capsys):
    for what in ("forced", "generated", "shuffled"):
        bench.results.add(row_of(bench, "slot_pool", what))
    bench.results.add(row_of(bench, "slot_pool", "probe", **probed()))
    count = len(bench.results.rows)
    runs.run_cell(bench, cells.CELLS["slot_pool"], seed=0, clock=200.0, lr=0.003)
    assert capsys.readouterr().out.count("done before: acc@.5 0.500") == 3
    assert len(bench.results.rows) == count
    assert [path.name for path in bench.out.iterdir()] == ["results.jsonl"]


def test_the_best_rate_of_a_readout_is_taken_and_must_be_known(bench):
    assert runs.bench_of(bench.out, bench.base).digest == bench.digest
    for lr, accuracy in zip(runs.RATES, (0.25, 0.5, 0.5), strict=True):
        with pytest.raises(ConfigError, match=r"rates of 'slot'.*--lr"):
            runs.best_rate(bench.results, "slot", bench.digest)
        row = row_of(bench, "slot_linear", "forced", accuracy=accuracy)
        bench.results.add({**row, "purpose": "rates", "lr": lr})
    assert runs.best_rate(bench.results, "slot", bench.digest) == runs.RATES[1]
    with pytest.raises(ConfigError, match="rates"):
        runs.best_rate(bench.results, "slot", "another")


def test_a_start_that_is_missing_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"holds no model.*pretrain_nano"):
        runs.bench_of(tmp_path, tmp_path / "gone")


def test_trained_parameters_are_those_of_the_optimizer():
    layer = torch.nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(layer.parameters())
    layer(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    assert calls.trained_parameters({"optimizer": optimizer.state_dict()}) == 8


# ---- tables


def save_answers(bench, name, ious, sides):
    number = len(ious)
    boxes = np.zeros((number, 4))
    order = np.arange(number)
    kinds = np.array(["group"] * number)
    answers = Answers(order, order, kinds, np.array(sides), boxes, boxes, np.ones(number), np.array(ious, dtype=float))
    answers.save(bench.out / name)
    return {"answers": name}


def test_tables_say_what_is_missing(bench):
    text = tables.all_tables(bench.results, bench.out, 200.0)
    assert text.count(f"| {MISSING} |") >= 4 * len(cells.CELLS) + len(hypotheses.CLAIMS)


def test_tables_of_two_cells_and_one_that_did_not_learn(bench, tmp_path):
    # Small targets: 3 of 4 against 1 of 4; large ones: all against all.
    sides = [1.0] * 4 + [2.0] * 4
    heat = save_answers(bench, "heat.npz", [1, 1, 1, 0, 1, 1, 1, 1], sides)
    slot = save_answers(bench, "slot.npz", [1, 0, 0, 0, 1, 1, 1, 1], sides)
    for cell, further, accuracy in (("heatmap_linear", heat, 0.875), ("slot_linear", slot, 0.625)):
        kinds = {f"answers/accuracy_{name}": 0.5 for name in (*tables.KINDS, *tables.side_names())}
        row = row_of(bench, cell, "forced", accuracy=accuracy, **further)
        row["figures"] |= kinds
        bench.results.add(row)
        bench.results.add(row_of(bench, cell, "shuffled", accuracy=0.55))
        bench.results.add(row_of(bench, cell, "probe", **probed()))
    page = tmp_path / "page.md"
    page.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    write_between_marks(page, tables.all_tables(bench.results, bench.out, 200.0))
    text = page.read_text()
    assert text.startswith("before\n") and text.endswith("after\n") and "old" not in text
    assert "| heatmap_linear | 1 | 0.875 | 0.250 | 0.400 | 0.000 |  | 0.550 |  |" in text
    assert "| slot_linear | 1 | 0.625 | 0.250 | 0.400 | 0.000 |  | 0.550 | did not learn: seeds [0] |" in text
    assert "|  | heatmap_linear - slot_linear | +0.250 [+0.000, +0.625] | open |" in text
    # Two of four small targets more, none of the large ones.
    assert "| H3 | heatmap_linear - slot_linear, small less large targets | +0.500 [+0.000, +1.000] | open |" in text
    with pytest.raises(DataError, match="no place for tables"):
        write_between_marks(bench.out / "results.jsonl", "")


@pytest.mark.parametrize(
    ("hypothesis", "intervals", "verdict"),
    [
        ("H1", [(-0.02, 0.04), (-0.04, 0.01)], "supported"),
        ("H1", [(0.01, 0.04), (0.01, 0.04)], "supported"),
        ("H1", [(0.01, 0.09), (0.02, 0.08)], "refuted"),
        ("H1", [(-0.02, 0.06), (-0.04, 0.01)], "open"),
        ("H2", [(0.01, 0.2), (0.1, 0.2)], "supported"),
        ("H2", [(0.01, 0.2), (-0.01, 0.2)], "open"),
        ("H3", [(-0.2, -0.1)], "refuted"),
        ("", [(0.1, 0.2)], "above 0"),
        ("", [(0.1, 0.2), (-0.2, -0.1)], "open"),
    ],
)
def test_verdicts(hypothesis, intervals, verdict):
    found = [Interval((low + high) / 2, low, high) for low, high in intervals]
    assert hypotheses.Claim(hypothesis, "a", "b").verdict(found) == verdict


# ---- where the position is lost


def test_a_linear_map_finds_positions_that_are_there_and_no_others():
    generator = torch.Generator().manual_seed(0)
    points = torch.rand(400, 2, generator=generator) * 160
    noise = torch.randn(400, 6, generator=generator)
    known = torch.cat([points @ torch.tensor([[1.0, 2.0], [-1.0, 1.0]]), noise], 1)
    assert probe.ridge_error((known[:200], points[:200]), (known[200:], points[200:])) < 0.5
    assert probe.ridge_error((noise[:200], points[:200]), (noise[200:], points[200:])) > 40


def test_points_lie_in_the_cells_that_are_counted_row_by_row():
    # 2 x 4 tokens on 32 x 64 pixels: cells of 16 pixels.
    points = torch.tensor([[0.0, 0.0], [63.0, 0.0], [16.0, 16.0], [64.0, 32.0]])
    assert probe.cells_at(points, (2, 4), (32, 64)).tolist() == [0, 3, 5, 7]


@pytest.fixture
def asked():
    """Return an image of 64 x 96 pixels and a function that makes two sentences about it, of a task."""

    def make(task):
        prompts = [Prompt("red circle", task), Prompt("the cat", task)]
        return make_sample(prompts, [[0, 0, 16, 16], [64, 32, 96, 64]], [1, 0])

    return make_images(1), make


def test_states_stand_in_the_order_of_the_sentences(make_adapter, asked):
    connector = {"type": ObjectConnector, "inner": {"type": LinearConnector}, "num_objects": 3}
    template = {"name": "short", "before": "where is", "after": "?", "answer": "[LOC]"}
    adapter = make_adapter(connector=connector, template=template)
    sample = asked[1]("grounding")
    with torch.no_grad():
        encoded = adapter.encode_images(asked[0])
        states = probe.states_of(adapter, encoded, [sample])
        query = adapter.ask(encoded, [sample.prompts], predicting=True).query
    assert states.centres.tolist() == [[80.0, 48.0], [8.0, 8.0]]
    (tokens,) = encoded.states.pooler_output
    assert torch.equal(states.at_cell, tokens[[3 * 6 + 5, 0]])
    assert torch.equal(states.mean[1], tokens[:24].mean(0))
    assert torch.equal(states.slot, query)
    boxes = encoded.states.proposals.boxes[0] * torch.tensor([96.0, 64.0, 96.0, 64.0])
    best = box_iou(boxes, torch.tensor([[64.0, 32.0, 96.0, 64.0], [0.0, 0.0, 16.0, 16.0]])).amax(0)
    torch.testing.assert_close(states.proposed, best)


def test_the_state_of_a_written_box_is_the_one_that_its_first_word_comes_from(make_adapter, asked):
    adapter = make_adapter(connector={"type": QueryConnector, "num_queries": 5, "width": 16, "num_layers": 2,
                                      "num_heads": 2}, dialect="corner_words")  # fmt: skip
    sample = asked[1]("written_boxes")
    with torch.no_grad():
        encoded = adapter.encode_images(asked[0])
        states = probe.states_of(adapter, encoded, [sample])
        first = adapter.base_model.get_output_embeddings()(states.slot).argmax(1).tolist()
        prefix = adapter.text.prefix(encoded.image_text)
        questions = [[[*prefix, *adapter.text.question(prompt)] for prompt in sample.prompts]]
        runner = adapter.runner_with(adapter.packing)
        (written,) = adapter.writer.go_on(runner, encoded, len(prefix), questions, 1)
    assert states.at_cell is None and states.proposed is None
    ends = [token for answer, token in zip(written, first, strict=True) if not answer.ids]
    assert set(ends) <= set(end_tokens(adapter.base_model, adapter.encoder))
    assert [answer.ids for answer in written] == [[] if token in ends else [token] for token in first]


# ---- all of it


@pytest.mark.slow
def test_cells_are_trained_evaluated_and_probed_once(tmp_path):
    make_shapes(tmp_path / "data" / "shapes", num_train=32, num_val=4, num_test=4, workers=1)
    sizes = NanoSizes(width=32, llm_layers=1, vision_layers=1, tied=True, seeing=True)
    make_nano(tmp_path / "base", sizes=sizes)
    names = ("text_pool", "objects_query")
    options = ["--clock", "0.01", "--start-clock", "0.01", "--lr", "3e-3", "--base", "base", "--out", "out"]

    def compare(*words):
        command = [sys.executable, ROOT / "tools" / "compare.py", *words]
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=1800)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    compare("run", "--cell", *names, *options)
    results = Results(tmp_path / "out" / "results.jsonl")
    for name in names:
        run = results.find(cell=name, what=cells.CELLS[name].main)[0]
        assert run["steps"] == 10 and run["clock_used"] > 0 and run["parameters"] > 0 and "_lmm" not in run["commit"]
        assert "CosineAnnealingLR" in run["config"]
        assert Answers.load(tmp_path / "out" / run["answers"]).ious.size
        found = results.find(cell=name, what="probe")[0]
        assert (found["pixels"]["at_cell"] is None) == (name == "objects_query")
        assert (found["proposed"] is None) == (name == "text_pool")
        assert set(found["ms_per_image"]) == {"1", "8", "80"}
    again = compare("run", "--cell", *names, *options)
    assert {row["steps"] for row in results.find(purpose="start")} == {10}
    assert again.count("done before") == 5
    assert "training" not in again
    assert len(Results(tmp_path / "out" / "results.jsonl").rows) == len(results.rows)
    compare("table", "--clock", "0.01", "--out", "out")
    compare("plot", "--clock", "0.01", "--out", "out")
    assert len(list((tmp_path / "out").glob("compare_*.png"))) == 5

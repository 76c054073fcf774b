"""The notebooks of the documentation run, and what is kept of their outputs is small."""

import json

import pytest
from pages import ROOT, load_tool

NOTEBOOKS = sorted((ROOT / "docs" / "notebooks").glob("*.ipynb"))
notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


@notebook
def test_kept_outputs_are_small_and_without_places_of_a_machine(path):
    text = path.read_text(encoding="utf-8")
    assert len(text) < 150_000
    cells = [cell for cell in json.loads(text)["cells"] if cell["cell_type"] == "code"]
    outputs = [output for cell in cells for output in cell["outputs"]]
    assert {output["output_type"] for output in outputs} <= {"stream", "execute_result"}
    assert {output.get("name", "stdout") for output in outputs} == {"stdout"}
    assert not any(place in json.dumps(output) for output in outputs for place in ("/tmp", "/home", "/root", str(ROOT)))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of the clients of Jupyter
@notebook
def test_a_notebook_runs(path):
    ran = load_tool("run_notebooks").run_notebook(path)
    kept = json.loads(path.read_text(encoding="utf-8"))["cells"]
    for cell, before in zip(ran.cells, kept, strict=True):
        names = [output["output_type"] for output in cell.get("outputs", [])]
        assert sorted(set(names)) == sorted({output["output_type"] for output in before.get("outputs", [])})

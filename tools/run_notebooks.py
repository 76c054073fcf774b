"""Run the notebooks of the documentation and keep what they print and draw."""

import argparse
import os
from pathlib import Path

import nbformat
from nbclient import NotebookClient

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = ROOT / "docs" / "notebooks"
KEPT = ("text/plain", "image/jpeg")
QUIET = {"HF_HUB_DISABLE_PROGRESS_BARS": "1", "TRANSFORMERS_VERBOSITY": "error", "OMP_NUM_THREADS": "1"}

EXAMPLES = """examples:
  python tools/run_notebooks.py                 all of them; a cell that fails is shown, and its notebook stays as it is
  python tools/run_notebooks.py quick_start
"""


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    names = sorted(path.stem for path in NOTEBOOKS.glob("*.ipynb"))
    parser.add_argument("names", nargs="*", help=f"notebooks to run, of {', '.join(names)} [all]")
    options = parser.parse_args()
    if unknown := sorted(set(options.names) - set(names)):
        parser.error(f"there are no notebooks {unknown} in {NOTEBOOKS}")
    options.names = options.names or names
    return options


def run_notebook(path: Path) -> nbformat.NotebookNode:
    """Return a notebook with its outputs: texts and small pictures, without warnings, progress and times.

    Raises:
        CellExecutionError: A cell fails.
    """
    notebook = nbformat.read(path, nbformat.NO_CONVERT)
    NotebookClient(notebook, timeout=None).execute(env={**os.environ, **QUIET, "PYTHONPATH": str(ROOT)})
    for cell in notebook.cells:
        cell.metadata = {}
        if cell.cell_type == "code":
            cell.outputs = [output for output in cell.outputs if output.get("name") != "stderr"]
            for data in (output["data"] for output in cell.outputs if "data" in output):
                for kind in set(data) - set(KEPT):
                    del data[kind]
    return notebook


def main() -> None:
    """Run the notebooks and write them."""
    for name in parse_args().names:
        path = NOTEBOOKS / f"{name}.ipynb"
        nbformat.write(run_notebook(path), path)
        print(f"wrote {path.relative_to(ROOT)}")


if __name__ == "__main__":
    main()

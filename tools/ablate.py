"""Ablations of Lumen on the packaged nano and shapes: one setting changed at a time, several seeds.

Results are lines of OUT/results.jsonl; what is in there is not done again, and what was interrupted goes on.
docs/ablations.md holds all settings, what the paper found, and the figures.
"""

import argparse
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
sys.path.insert(0, str(ROOT / "tools"))

from ablation._cells import CELLS  # noqa: E402

EXAMPLES = """examples:
  python tools/ablate.py run --cell base coarse --seed 0        train and evaluate two cells
  python tools/ablate.py run --seed 0 1 2                       all cells, seed by seed
  python tools/ablate.py run --cell mix --steps 2 --out /tmp/trial
  python tools/ablate.py table --write docs/ablations.md
  python tools/ablate.py plot --to docs/assets
"""


def parse_options() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run", help="train and evaluate cells")
    run.add_argument("--cell", nargs="+", choices=sorted(CELLS), default=list(CELLS), help="cells [all, in order]")
    run.add_argument("--seed", type=int, nargs="+", default=[0], help="seeds, one after the other [0]")
    run.add_argument("--steps", type=int, help="steps of a trial, which is left out of the tables [those of the cell]")
    run.add_argument("--base", type=Path, default=Path("nano"), help="model to start from [%(default)s]")
    run.add_argument("--cfg-options", nargs="+", default=[], metavar="KEY=VALUE", help="change settings of all configs")
    table = commands.add_parser("table", help="print the tables; no model is needed")
    table.add_argument("--write", type=Path, metavar="FILE", help="put them between the marks of this Markdown file")
    plot = commands.add_parser("plot", help="draw the plot; no model is needed")
    plot.add_argument("--to", type=Path, help="folder of the picture [that of the results]")
    for command in (run, table, plot):
        command.add_argument(
            "--out", type=Path, default=Path("work_dirs/ablations"), help="folder of runs and results [%(default)s]"
        )
        command.add_argument("--debug", action="store_true", help="show the full traceback of an error")
    return parser.parse_args()


def main(options: argparse.Namespace) -> None:
    """Do what is asked for."""
    if options.command == "run":
        from ablation._runs import bench_of, run_cell

        bench = bench_of(options.out, options.base, tuple(options.cfg_options))
        for seed in options.seed:
            for name in options.cell:
                run_cell(bench, CELLS[name], seed=seed, steps=options.steps)
        return
    from experiments.results import Results

    results = Results(options.out / "results.jsonl")
    if options.command == "table":
        from ablation._tables import all_tables
        from experiments.tables import write_between_marks

        text = all_tables(results)
        print(text)
        if options.write is not None:
            write_between_marks(options.write, text)
    else:
        from ablation._plots import draw

        print("\n".join(f"wrote {path}" for path in draw(results, options.to or options.out)))


if __name__ == "__main__":
    from lumen.engine.tool import run_tool

    run_tool(main, parse_options())

"""Compare readouts and connectors at an equal clock: is it the output format or the connector that costs precision?

Every cell of configs/compare starts from the same model, which has first learned to read images through the connector
of the cell. Results are lines of OUT/results.jsonl; what is in there is not done again, and what was interrupted goes
on. docs/comparison.md holds the hypotheses and all settings.
"""

import argparse
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
sys.path.insert(0, str(ROOT / "tools"))

from comparison._cells import CELLS, READOUTS  # noqa: E402

EXAMPLES = """examples:
  python tools/compare.py rates                                 the rate of each readout, on val
  python tools/compare.py rates --readout slot
  python tools/compare.py run --cell text_pool --seed 0         one cell: train, evaluate, probe
  python tools/compare.py run --seed 0 1 2                      all cells, in order
  python tools/compare.py run --cell text_query --clock 200     a cell that did not learn, at four times the clock
  python tools/compare.py run --cell slot_linear --clock 1 --lr 3e-3 --out /tmp/trial
  python tools/compare.py table --write docs/comparison.md
  python tools/compare.py plot --to docs/assets
"""


def parse_options() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run", help="train, evaluate and probe cells")
    run.add_argument("--cell", nargs="+", choices=sorted(CELLS), default=list(CELLS), help="cells [all, in order]")
    run.add_argument("--seed", type=int, nargs="+", default=[0], help="seeds, one after the other [0]")
    run.add_argument("--clock", type=float, default=50.0, help="CPU seconds / 2 of training [%(default)s]")
    run.add_argument("--lr", type=float, help="rate of AdamW [the best one that rates found for the readout]")
    rates = commands.add_parser("rates", help="try the rates of each readout on the val images")
    rates.add_argument("--readout", nargs="+", choices=READOUTS, default=list(READOUTS), help="readouts [all]")
    for command in (run, rates):
        command.add_argument(
            "--start-clock", type=float, default=200.0, help="CPU seconds / 2 of the first stage [%(default)s]"
        )
        command.add_argument("--base", type=Path, default=Path("nano"), help="model to start from [%(default)s]")
        command.add_argument(
            "--cfg-options", nargs="+", default=[], metavar="KEY=VALUE", help="change settings of every config"
        )
    table = commands.add_parser("table", help="print the tables; no model is needed")
    table.add_argument("--write", type=Path, metavar="FILE", help="put them between the marks of this Markdown file")
    table.add_argument("--clock", type=float, default=50.0, help="of the runs that are compared [%(default)s]")
    plot = commands.add_parser("plot", help="draw the plots; no model is needed")
    plot.add_argument("--clock", type=float, default=50.0, help="of the runs that are compared [%(default)s]")
    plot.add_argument("--to", type=Path, help="folder of the pictures [that of the results]")
    for command in (run, rates, table, plot):
        command.add_argument(
            "--out", type=Path, default=Path("work_dirs/compare"), help="folder of runs and results [%(default)s]"
        )
        command.add_argument("--debug", action="store_true", help="show the full traceback of an error")
    return parser.parse_args()


def main(options: argparse.Namespace) -> None:
    """Do what is asked for."""
    if options.command in ("run", "rates"):
        from comparison._runs import bench_of, run_cell, search_rate

        bench = bench_of(options.out, options.base, tuple(options.cfg_options), options.start_clock)
        if options.command == "rates":
            for readout in options.readout:
                search_rate(bench, readout)
            return
        for seed in options.seed:  # seed by seed, so that a change of the machine's load meets all cells
            for name in options.cell:
                run_cell(bench, CELLS[name], seed=seed, clock=options.clock, lr=options.lr)
        return
    from experiments.results import Results

    results = Results(options.out / "results.jsonl")
    if options.command == "table":
        from comparison._tables import all_tables
        from experiments.tables import write_between_marks

        text = all_tables(results, options.out, options.clock)
        print(text)
        if options.write is not None:
            write_between_marks(options.write, text)
    else:
        from comparison._plots import draw

        print("\n".join(f"wrote {path}" for path in draw(results, options.to or options.out, options.clock)))


if __name__ == "__main__":
    from lumen.engine.tool import run_tool

    run_tool(main, parse_options())

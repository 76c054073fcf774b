"""The tables of docs/comparison.md, made of the results file and the answers of each run alone."""

from pathlib import Path
from typing import Any

from comparison._cells import CELLS, READOUTS, Cell, cell_of
from comparison._hypotheses import CLAIMS, did_not_learn, intervals_of
from experiments.results import Results
from experiments.tables import MISSING, markdown, shown
from lumen.metrics.bootstrap import Interval
from lumen.metrics.refer_answers import Answers, side_names

KINDS = ("attribute", "relation", "group")
Rows = dict[tuple[str, int, str], dict[str, Any]]


def all_tables(results: Results, out: Path, clock: float) -> str:
    """Return all tables as Markdown.

    Args:
        results: The measurements.
        out: Folder that the answers are named from.
        clock: Of the runs that are compared; others stand in a table of their own.
    """
    rows = final_rows(results, clock)
    parts = [
        ("Accuracy", accuracy_table(rows)),
        ("By kind of sentence and side of the target, acc@.5", class_table(rows)),
        ("Differences of acc@.5 with 95 % intervals, by seed", claim_table(rows, out)),
        ("Median error of a linear map to the centre of the target, pixels; what is proposed", probe_table(rows)),
        ("Cost", cost_table(rows)),
        ("Rates, acc@.5 on val", rate_table(results)),
    ]
    further = further_table(results, clock)
    parts += [("Runs at another clock", further)] if further else []
    head = f"Clock {clock:g}, start {newest_base(results) or MISSING}."
    return "\n\n".join([head, *(f"**{title}**\n\n{text}" for title, text in parts)])


def newest_base(results: Results) -> str | None:
    """Return the start of the newest final run: runs from other starts are not compared with it."""
    return next((row["base"] for row in reversed(results.rows) if row["purpose"] == "final"), None)


def final_rows(results: Results, clock: float) -> Rows:
    """Return the newest line of each cell, seed and measurement."""
    found = results.find(purpose="final", clock=clock, base=newest_base(results))
    return {(row["cell"], row["seed"], row["what"]): row for row in found}


def seeds_of(rows: Rows, cell: str, what: str) -> list[int]:
    """Return the seeds with a measurement."""
    return sorted(seed for name, seed, kind in rows if (name, kind) == (cell, what))


def figures_of(rows: Rows, cell: str, what: str, name: str) -> list[float]:
    """Return a figure of each seed."""
    return [rows[cell, seed, what]["figures"][f"answers/{name}"] for seed in seeds_of(rows, cell, what)]


def accuracy_table(rows: Rows) -> str:
    """Return accuracy of the main evaluation, beside generated answers and the blind baseline."""
    lines = []
    for cell in CELLS.values():
        main = figures_of(rows, cell.name, cell.main, "accuracy")
        if not main:
            lines.append([cell.name, MISSING, *[""] * 7])
            continue
        further = [
            shown(figures_of(rows, cell.name, cell.main, name)) for name in ("accuracy_75", "mean_iou", "unanswered")
        ]
        others = [shown(figures_of(rows, cell.name, what, "accuracy")) for what in ("generated", "shuffled")]
        lines.append([cell.name, len(main), shown(main), *further, *others, note(rows, cell)])
    header = ["cell", "seeds", "acc@.5", "acc@.75", "mean IoU", "unanswered", "generated", "shuffled", "note"]
    return markdown(header, lines)


def note(rows: Rows, cell: Cell) -> str:
    """Return which seeds of a cell did not learn."""
    seeds = set(seeds_of(rows, cell.name, cell.main)) & set(seeds_of(rows, cell.name, "shuffled"))
    lost = [
        seed
        for seed in sorted(seeds)
        if did_not_learn(
            *(rows[cell.name, seed, what]["figures"]["answers/accuracy"] for what in (cell.main, "shuffled"))
        )
    ]
    return f"did not learn: seeds {lost}" if lost else ""


def class_table(rows: Rows) -> str:
    """Return accuracy by kind and by side."""
    names = [*KINDS, *side_names()]
    lines = []
    for cell in CELLS.values():
        found = [figures_of(rows, cell.name, cell.main, f"accuracy_{name}") for name in names]
        lines.append([cell.name, *map(shown, found)] if found[0] else [cell.name, MISSING, *[""] * (len(names) - 1)])
    return markdown(["cell", *(name.replace("_", " ") for name in names)], lines)


def claim_table(rows: Rows, out: Path) -> str:
    """Return each difference with its interval for each seed, and the verdict over all seeds."""
    seeds = sorted({seed for _, seed, _ in rows})
    by_seed = {seed: intervals_of(CLAIMS, answers_of(rows, out, seed)) for seed in seeds}
    lines = []
    for claim in CLAIMS:
        found = [by_seed[seed][claim] for seed in seeds if claim in by_seed[seed]]
        verdict = claim.verdict(found) if found else ""
        lines.append([claim.hypothesis, claim.text, "; ".join(map(shown_interval, found)) or MISSING, verdict])
    return markdown(["", "difference", "by seed", "all seeds"], lines)


def answers_of(rows: Rows, out: Path, seed: int) -> dict[str, Answers]:
    """Return the answers of each cell's main evaluation for one seed."""
    mains = {cell.name: rows.get((cell.name, seed, cell.main)) for cell in CELLS.values()}
    return {name: Answers.load(out / row["answers"]) for name, row in mains.items() if row is not None}


def probe_table(rows: Rows) -> str:
    """Return the pixel errors of the linear maps."""
    lines = []
    for name in CELLS:
        probes = [rows[name, seed, "probe"]["pixels"] for seed in seeds_of(rows, name, "probe")]
        if not probes:
            lines.append([name, MISSING, *[""] * 4])
            continue
        columns = ([probe[key] for probe in probes if probe[key] is not None] for key in ("at_cell", "mean", "slot"))
        cells = [shown(column, digits=1) for column in columns]
        found = [rows[name, seed, "probe"]["proposed"] for seed in seeds_of(rows, name, "probe")]
        ceiling = [shown([each[least] for each in found if each is not None]) for least in ("0.5", "0.75")]
        lines.append([name, "no cells" if probes[0]["at_cell"] is None else cells[0], *cells[1:], *ceiling])
    header = ["cell", "image token at its cell", "mean image token", "state of the answer"]
    return markdown([*header, "targets proposed, IoU .5", "IoU .75"], lines)


def cost_table(rows: Rows) -> str:
    """Return what each cell costs."""
    lines = []
    for name in CELLS:
        found = [rows[name, seed, "probe"] for seed in seeds_of(rows, name, "probe")]
        if not found:
            lines.append([name, MISSING, *[""] * 7])
            continue
        times = (shown([row["ms_per_image"][number] for row in found], digits=0) for number in ("1", "8", "80"))
        numbers = (shown([row[key] for row in found], digits=0) for key in ("steps", "clock_used"))
        first = found[0]
        lines.append([name, f"{first['lr']:g}", *numbers, first["parameters"], first["image_tokens"], *times])
    header = ["cell", "rate", "steps", "clock", "trained parameters", "image tokens"]
    return markdown([*header, "ms, 1 phrase", "8 phrases", "80 phrases"], lines)


def rate_table(results: Results) -> str:
    """Return the accuracy on val of each readout at each rate; the best one is marked."""
    lines = []
    for readout in READOUTS:
        cell = cell_of(readout, "linear")
        found = results.find(cell=cell, purpose="rates", base=newest_base(results) or newest_rates(results))
        best = max((row["figures"]["answers/accuracy"] for row in found), default=None)
        for row in sorted(found, key=lambda row: row["lr"]):
            accuracy = row["figures"]["answers/accuracy"]
            mark = "**" if accuracy == best else ""
            lines.append([readout, f"{row['lr']:g}", f"{mark}{accuracy:.3f}{mark}", row["steps"]])
        lines += [] if found else [[readout, MISSING, "", ""]]
    return markdown(["readout", "rate", "acc@.5", "steps"], lines)


def newest_rates(results: Results) -> str | None:
    """Return the start of the newest run of the rates."""
    return next((row["base"] for row in reversed(results.rows) if row["purpose"] == "rates"), None)


def further_table(results: Results, clock: float) -> str:
    """Return the final runs at another clock; empty where there are none."""
    lines = [
        [row["cell"], row["seed"], f"{row['clock']:g}", row["what"], f"{row['figures']['answers/accuracy']:.3f}"]
        for row in results.find(purpose="final")
        if row["clock"] != clock and "figures" in row
    ]
    return markdown(["cell", "seed", "clock", "evaluation", "acc@.5"], lines) if lines else ""


def shown_interval(found: Interval) -> str:
    """Return a difference with its interval."""
    return f"{found.value:+.3f} [{found.low:+.3f}, {found.high:+.3f}]"

"""The tables of docs/ablations.md, made of the results file alone."""

from statistics import mean
from typing import Any

from ablation._cells import ABLATIONS, CELLS, LABELS, Ablation
from experiments.results import Results
from experiments.tables import MISSING, markdown, shown

Rows = dict[str, list[dict[str, Any]]]
"""The newest line of each seed and evaluation, by cell."""


def all_tables(results: Results) -> str:
    """Return a table for each ablation, with what the paper found above it, as Markdown; the plot stands first."""
    rows = rows_of(results)
    commits = sorted({row["commit"] for of_cell in rows.values() for row in of_cell})
    head = f"Commits {', '.join(commits)}; start {newest_base(results)}." if commits else f"{MISSING.capitalize()}."
    plot = ["![The first figure of each table](assets/ablations.png)"] if rows else []
    return "\n\n".join([head, *plot, *(_section(ablation, rows) for ablation in ABLATIONS)])


def newest_base(results: Results) -> str | None:
    """Return the start of the newest run: runs from other starts are not compared with it."""
    return results.rows[-1]["base"] if results.rows else None


def rows_of(results: Results) -> Rows:
    """Return the newest line of each cell, seed and evaluation, of runs with the cell's own number of steps."""
    newest = {}
    for row in results.find(base=newest_base(results)):
        cell = CELLS.get(row["cell"])
        if cell is not None and row["max_steps"] == (CELLS[cell.trained_as] if cell.trained_as else cell).steps:
            newest[row["cell"], row["seed"], row["what"]] = row
    rows: Rows = {}
    for (name, _, _), row in sorted(newest.items()):
        rows.setdefault(name, []).append(row)
    return rows


def figures_of(rows: Rows, cell: str, figure: str) -> list[float]:
    """Return a figure of each seed, in their order; empty where it was not measured."""
    return [row["figures"][figure] for row in rows.get(cell, []) if figure in row["figures"]]


def _section(ablation: Ablation, rows: Rows) -> str:
    header = ["", "cell", "seeds", *(LABELS[figure] for figure in ablation.figures), "steps", "clock", "parameters"]
    lines = [_line(name, label, ablation, rows) for name, label in ablation.cells.items()]
    return f"### {ablation.title}\n\n{ablation.paper}\n\n{markdown(header, lines)}"


def _line(name: str, label: str, ablation: Ablation, rows: Rows) -> list[Any]:
    found = rows.get(name, [])
    if not found:
        return [label, f"`{name}`", MISSING, *[""] * (len(ablation.figures) + 3)]
    figures = [shown(figures_of(rows, name, figure)) for figure in ablation.figures]
    seeds = len({row["seed"] for row in found})
    cost = [found[0]["steps"], f"{mean(row['clock_used'] for row in found):.0f}", found[0]["parameters"]]
    return [label, f"`{name}`", seeds, *figures, *cost]

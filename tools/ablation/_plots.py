"""The plot of the ablations, made of the results file alone: the first figure of each question, cell by cell."""

from pathlib import Path
from statistics import mean

from matplotlib.axes import Axes

from ablation._cells import ABLATIONS, LABELS
from ablation._tables import Rows, figures_of, rows_of
from experiments.pictures import save_pictures
from experiments.results import Results

_HEIGHT_PER_ROW = 0.22


def draw(results: Results, folder: Path) -> list[Path]:
    """Write ``ablations.png`` and return its path; cells that have not run are left empty.

    Args:
        results: The measurements.
        folder: Where the picture goes.
    """
    rows = rows_of(results)
    number = sum(len(ablation.cells) + 1 for ablation in ABLATIONS)
    size = (7.0, _HEIGHT_PER_ROW * number)
    return save_pictures({"ablations": lambda axes: draw_all(axes, rows)}, folder, size=size)


def draw_all(axes: Axes, rows: Rows) -> None:
    """Draw a bar for the mean of each cell and a point for each seed, one colour for each question."""
    place, labels = 0, []
    for number, ablation in enumerate(ABLATIONS):
        figure = ablation.figures[0]
        labels.append((place, f"{ablation.title} ({LABELS[figure]})"))
        for name, label in ablation.cells.items():
            place += 1
            labels.append((place, label.replace("`", "")))
            values = figures_of(rows, name, figure)
            if values:
                axes.barh(place, mean(values), color=f"C{number}", alpha=0.5)
                axes.scatter(values, [place] * len(values), 9, f"C{number}")
        place += 1
    axes.set_yticks(*zip(*labels, strict=True), fontsize="x-small")
    axes.set(ylim=(place - 0.5, -0.5), xlim=(0, 1))
    axes.grid(axis="x", alpha=0.3)

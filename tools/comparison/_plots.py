"""The plots of the comparison, made of the results file alone."""

from pathlib import Path
from statistics import mean

from matplotlib.axes import Axes

from comparison._cells import CELLS, CONNECTORS, READOUTS, cell_of
from comparison._tables import Rows, figures_of, final_rows, newest_base, seeds_of
from experiments.pictures import save_pictures
from experiments.results import Results
from lumen.metrics.refer_answers import side_names

_STYLES = dict(zip(CONNECTORS, ("-o", "--s", ":^"), strict=True))


def draw(results: Results, folder: Path, clock: float) -> list[Path]:
    """Write ``compare_{accuracy,clock,size,phrases,probe}.png`` and return their paths.

    Args:
        results: The measurements.
        folder: Where the pictures go.
        clock: Of the runs that are compared; ``compare_clock`` shows all.
    """
    rows = final_rows(results, clock)
    pictures = {
        "accuracy": lambda axes: draw_accuracy(axes, rows),
        "clock": lambda axes: draw_clock(axes, results),
        "size": lambda axes: draw_size(axes, rows),
        "phrases": lambda axes: draw_phrases(axes, rows),
        "probe": lambda axes: draw_probe(axes, rows),
    }
    return save_pictures({f"compare_{name}": fill for name, fill in pictures.items()}, folder, size=(6, 4))


def draw_accuracy(axes: Axes, rows: Rows) -> None:
    """Draw acc@.5 by connector, a line for each readout, a point for each seed; blind baselines as crosses."""
    for number, readout in enumerate(READOUTS):
        cells = [CELLS[cell_of(readout, connector)] for connector in CONNECTORS]
        found = [figures_of(rows, cell.name, cell.main, "accuracy") for cell in cells]
        blind = [figures_of(rows, cell.name, "shuffled", "accuracy") for cell in cells]
        colour = f"C{number}"
        places = [place for place, values in enumerate(found) if values]
        axes.plot(places, [mean(found[place]) for place in places], color=colour, label=readout)
        for marker, groups in (("o", found), ("x", blind)):
            points = [(place, value) for place, values in enumerate(groups) for value in values]
            axes.scatter([place for place, _ in points], [value for _, value in points], 16, colour, marker)
    axes.set(xlabel="connector", ylabel="acc@.5 (crosses: sentences of other images)", ylim=(0, 1))
    axes.set_xticks(range(len(CONNECTORS)), CONNECTORS)


def draw_clock(axes: Axes, results: Results) -> None:
    """Draw acc@.5 of each final run by the clock that it used."""
    for cell in CELLS.values():
        found = results.find(cell=cell.name, purpose="final", what=cell.main, base=newest_base(results))
        points = sorted((row["clock_used"], row["figures"]["answers/accuracy"]) for row in found)
        if points:
            colour = f"C{READOUTS.index(cell.rated)}"
            axes.plot(*zip(*points, strict=True), _STYLES[cell.connector], color=colour, label=cell.name, markersize=4)
    axes.set(xlabel="CPU seconds / 2 of training", ylabel="acc@.5", ylim=(0, 1))


def draw_size(axes: Axes, rows: Rows) -> None:
    """Draw acc@.5 by the side of the target, a line for each cell."""
    names = side_names()
    for cell in CELLS.values():
        found = [figures_of(rows, cell.name, cell.main, f"accuracy_{name}") for name in names]
        if all(found):
            colour = f"C{READOUTS.index(cell.rated)}"
            axes.plot(range(len(names)), [mean(values) for values in found], _STYLES[cell.connector],
                      color=colour, label=cell.name, markersize=4)  # fmt: skip
    axes.set(xlabel="side of the target, cells", ylabel="acc@.5", ylim=(0, 1))
    axes.set_xticks(range(len(names)), [name.removeprefix("side_").replace("_", " ") for name in names])


def draw_phrases(axes: Axes, rows: Rows) -> None:
    """Draw milliseconds an image by the number of phrases, both on a logarithmic scale."""
    for cell in CELLS.values():
        times = [rows[cell.name, seed, "probe"]["ms_per_image"] for seed in seeds_of(rows, cell.name, "probe")]
        if times:
            numbers = list(times[0])
            values = [mean(each[number] for each in times) for number in numbers]
            colour = f"C{READOUTS.index(cell.rated)}"
            axes.plot([int(number) for number in numbers], values, _STYLES[cell.connector], color=colour,
                      label=cell.name, markersize=4)  # fmt: skip
    axes.set(xlabel="phrases", ylabel="ms an image", xscale="log", yscale="log")


def draw_probe(axes: Axes, rows: Rows) -> None:
    """Draw the pixel errors of the linear maps of each cell as bars."""
    names = [name for name in CELLS if seeds_of(rows, name, "probe")]
    labels = {"at_cell": "image token at its cell", "mean": "mean image token", "slot": "state of the answer"}
    for shift, (key, label) in enumerate(labels.items()):
        heights = []
        for name in names:
            found = [rows[name, seed, "probe"]["pixels"][key] for seed in seeds_of(rows, name, "probe")]
            heights.append(0.0 if found[0] is None else mean(found))
        axes.bar([place + 0.27 * (shift - 1) for place in range(len(names))], heights, width=0.25, label=label)
    axes.set(ylabel="median error of the centre, pixels")
    axes.set_xticks(range(len(names)), names, rotation=45, ha="right", fontsize="small")

"""Plots of a results file, one picture each."""

from collections.abc import Callable, Mapping
from pathlib import Path

import matplotlib
from matplotlib import pyplot
from matplotlib.axes import Axes

matplotlib.use("Agg")
_DPI = 130


def save_pictures(
    pictures: Mapping[str, Callable[[Axes], None]], folder: Path, *, size: tuple[float, float]
) -> list[Path]:
    """Draw pictures and return their paths.

    Args:
        pictures: What fills the axes of each picture, by the name of its file without ``.png``.
        folder: Where the pictures go.
        size: Width and height in inches.
    """
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for name, fill in pictures.items():
        figure, axes = pyplot.subplots(figsize=size)
        fill(axes)
        if axes.get_legend_handles_labels()[0]:
            axes.legend(fontsize="small")
        paths.append(folder / f"{name}.png")
        figure.savefig(paths[-1], dpi=_DPI, bbox_inches="tight")
        pyplot.close(figure)
    return paths

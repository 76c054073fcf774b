"""The hypotheses of docs/comparison.md, and what the answers of all runs say about them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from comparison._cells import CONNECTORS, cell_of
from lumen.metrics.bootstrap import Interval, interval, resampled_means
from lumen.metrics.refer_answers import Answers

MARGIN = 0.05
"""Accuracy within which two connectors count as equal, H1."""
SMALL = 1.5
"""Side in cells below which a target is small, H3."""


@dataclass(frozen=True, slots=True)
class Claim:
    """A difference of accuracies, and what is claimed of it.

    Args:
        hypothesis: ``H1`` and so on; empty where nothing is claimed.
        first: Cell whose accuracy the other one is taken from.
        second: The other cell.
        by_size: Whether it is the difference for small targets less that for large ones.
    """

    hypothesis: str
    first: str
    second: str
    by_size: bool = False

    @property
    def text(self) -> str:
        """The difference in words."""
        return f"{self.first} - {self.second}" + ", small less large targets" * self.by_size

    def verdict(self, intervals: Sequence[Interval]) -> str:
        """Return what the intervals of all seeds say together; a claim is open where they differ.

        H1 claims that there is no difference, the others that it is above 0.
        """
        signs = {found.sign for found in intervals}
        if not self.hypothesis:
            return {frozenset({1}): "above 0", frozenset({-1}): "below 0"}.get(frozenset(signs), "open")
        if self.hypothesis == "H1":
            is_supported = all(found.lies_within(MARGIN) for found in intervals)
            is_refuted = signs in ({1}, {-1})
        else:
            is_supported, is_refuted = signs == {1}, signs == {-1}
        return "supported" if is_supported else "refuted" if is_refuted else "open"


CLAIMS = (
    *(Claim("H1", "heatmap_linear", f"heatmap_{connector}") for connector in ("pool", "query")),
    *(
        Claim("H2", cell_of(readout, first), cell_of(readout, second))
        for readout in ("text", "slot")
        for first, second in (("linear", "pool"), ("pool", "query"))
    ),
    *(
        Claim("H3", f"heatmap_{connector}", cell_of(readout, connector), by_size=True)
        for readout in ("text", "slot")
        for connector in CONNECTORS
    ),
    *(
        Claim("", f"heatmap_{connector}", cell_of(readout, connector))
        for readout in ("text", "slot", "objects")
        for connector in CONNECTORS
    ),
    Claim("", "heatmap_linear", "heatmap_linear_fine0"),
    Claim("", "heatmask_linear", "slotmask_linear"),
)
"""In the order of the table."""


def intervals_of(claims: Sequence[Claim], answers: Mapping[str, Answers]) -> dict[Claim, Interval]:
    """Return the intervals of the claims whose cells are there, for one seed.

    Args:
        claims: The claims.
        answers: The answers of each cell.

    Raises:
        DataError: The cells were asked different sentences.
    """
    claims = [claim for claim in claims if {claim.first, claim.second} <= answers.keys()]
    if not claims:
        return {}
    cells = list(answers)
    one = answers[cells[0]]
    for cell in cells:
        one.require_same_sentences(answers[cell], cell)
    is_right = np.stack([answers[cell].ious >= 0.5 for cell in cells], 1).astype(np.float64)
    is_small = one.sides < SMALL
    # One drawing serves all differences over the same sentences.
    parts = {"all": _means(is_right, 0)}
    if any(claim.by_size for claim in claims):
        parts |= {"small": _means(is_right[is_small], 1), "large": _means(is_right[~is_small], 2)}
    found = {}
    for claim in claims:
        columns = cells.index(claim.first), cells.index(claim.second)
        gaps = {name: rows[:, columns[0]] - rows[:, columns[1]] for name, rows in parts.items()}
        gap = gaps["small"] - gaps["large"] if claim.by_size else gaps["all"]
        found[claim] = interval(gap[0], gap[1:])
    return found


def _means(is_right: Float[np.ndarray, "n cells"], seed: int) -> Float[np.ndarray, "rows cells"]:
    """Return the accuracies in the first row, and those of all draws behind it."""
    return np.concatenate([is_right.mean(0, keepdims=True), resampled_means(is_right, seed=seed)])


def did_not_learn(accuracy: float, shuffled: float) -> bool:
    """Return whether a cell is too close to its blind baseline to be compared."""
    return accuracy < shuffled + 0.10

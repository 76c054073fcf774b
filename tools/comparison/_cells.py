"""The cells of the comparison: a readout with a connector, each a config of ``configs/compare``."""

from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
CONNECTORS = ("linear", "pool", "query")
READOUTS = ("text", "slot", "heatmap", "objects")
TEXT = "text"
FURTHER = ("heatmap_linear_fine0", "slotmask_linear", "heatmask_linear")
MASKS = {"slotmask": "slot", "heatmask": "heatmap"}
"""Readouts of masks, and the readout of boxes whose rate each takes."""
START = "start"


@dataclass(frozen=True, slots=True)
class Cell:
    """A readout with a connector.

    Args:
        name: Name of its config; the readout comes first, then the connector.
    """

    name: str

    @property
    def readout(self) -> str:
        """How a box, or a mask, is read."""
        return self.name.split("_")[0]

    @property
    def rated(self) -> str:
        """The readout by which its rate is chosen."""
        return MASKS.get(self.readout, self.readout)

    @property
    def connector(self) -> str:
        """What makes the image tokens."""
        return self.name.split("_")[1]

    @property
    def start(self) -> str:
        """Its first stage, which all cells with its connector share."""
        return cell_of(START, self.connector)

    @property
    def config(self) -> Path:
        """Its config."""
        return ROOT / "configs" / "compare" / f"{self.name}.py"

    @property
    def main(self) -> str:
        """The evaluation that cells are compared by: text can only be generated, slots are forced."""
        return "generated" if self.readout == TEXT else "forced"

    @property
    def evaluations(self) -> dict[str, dict[str, str]]:
        """What changes in the config for each evaluation, by name; the main one comes first.

        ``shuffled`` asks each image the sentences of others.
        """
        blind = {"test_dataloader.dataset.type": "ShuffledReferDataset"}
        if self.readout == TEXT:
            return {"generated": {}, "shuffled": blind}
        return {"forced": {}, "generated": {"_lmm.generation.answer_mode": "generated"}, "shuffled": blind}


CELLS = {
    name: Cell(name)
    for name in (*(f"{readout}_{connector}" for readout in READOUTS for connector in CONNECTORS), *FURTHER)
}
"""By name, in the order in which they are run."""

STARTS = {name: Cell(name) for name in (f"{START}_{connector}" for connector in CONNECTORS)}
"""The first stages, one for each connector."""


def cell_of(readout: str, connector: str) -> str:
    """Return the name of a cell."""
    return f"{readout}_{connector}"

"""The protocol card: what the figures of one evaluation depend on, so that they can be compared."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.pretty import pretty_repr

from lumen.serialization.atomic import write_text


@dataclass(frozen=True, slots=True)
class ProtocolCard:
    """What a figure depends on besides the weights. ``None`` stands for what this evaluation does not have.

    Args:
        config: Config file, or name of the run.
        checkpoint: Where the weights come from.
        dataset: Annotation file, or class of the data set.
        num_images: Samples of the data set.
        unusable_images: Path -> fault of the images that could not be read; they count as images without answers.
        boxes: Where the boxes of person crops come from; ``not used`` where whole images are asked.
        prompts_per_image: Mean number of prompts asked.
        answer_mode: ``forced`` or ``generated``.
        template: Name of the template.
        packing: ``packed`` or ``separate`` prompts.
        dialect: How the LMM was asked for boxes that it writes, and where their scores come from.
        written_answers: How many answers to location prompts the LMM wrote, and what they lacked, zeros when forced;
            and how many questions for written boxes, with what was read of the answers and what could not be.
        heatmap_stride: Input pixels per cell of the heatmap.
        dtype: Precision of the evaluation.
        lmm_passes_per_image: Mean number of sequences through the LLM.
        lmm_tokens_per_image: Mean number of their tokens, image tokens and written ones included, padding left
            out.
        lmm_padding_share: Share of padding in what went through the LLM.
        ms_per_image: Wall-clock time of model and decoding, without loading and metrics.
        peak_memory_mb: Most memory used: of the GPU, or of the process on a CPU since its start.
        device: What it ran on.
        metrics: For each metric its own protocol, such as backend, thresholds and ground truth.
        figures: The values of the metrics.
    """

    config: str
    checkpoint: str
    dataset: str
    num_images: int
    unusable_images: Mapping[str, str]
    boxes: str
    prompts_per_image: float
    answer_mode: str | None
    template: str | None
    packing: str | None
    dialect: str | None
    written_answers: Mapping[str, int] | None
    heatmap_stride: int | None
    dtype: str
    lmm_passes_per_image: float | None
    lmm_tokens_per_image: float | None
    lmm_padding_share: float | None
    ms_per_image: float
    peak_memory_mb: float
    device: str
    metrics: Mapping[str, Mapping[str, Any]]
    figures: Mapping[str, Any]

    def text(self) -> str:
        """Return the card as text, without the figures, which are printed separately."""
        rows = {name: value for name, value in asdict(self).items() if name != "figures"}
        return "protocol\n" + "\n".join(f"  {name}: {_shown(value)}" for name, value in rows.items())

    def write(self, path: Path) -> None:
        """Write the card as json; numpy's numbers become plain ones."""
        write_text(path, json.dumps(asdict(self), indent=2, default=_plain) + "\n")


def _shown(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}" if value < 1000 else f"{value:.0f}"
    return value if isinstance(value, str) else pretty_repr(value, max_width=200)


def _plain(value: Any) -> Any:
    """Return a number that json can hold, else the text of the value."""
    return value.item() if callable(getattr(value, "item", None)) else str(value)

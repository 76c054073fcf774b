"""The cells of the ablations: settings that depart from one base, and the questions that put them side by side."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from experiments.calls import ROOT

AP, AP_50, PEAK_AP = "coco/bbox_mAP", "coco/bbox_mAP_50", "coco/bbox_mAP_peak_only"
SENTENCES = "grounding/accuracy"
ALARMS = "foreign/false_alarms"
LABELS = {
    AP: "AP",
    AP_50: "AP50",
    PEAK_AP: "AP, peak alone",
    SENTENCES: "sentences, acc@.5",
    ALARMS: "false alarms",
}
"""Headings of the figures."""
STEPS = 300
"""Steps of all cells but those that ask how many: about 40 CPU seconds / 2 of the base."""
_CONFIGS = ROOT / "configs"
_MIXES = _CONFIGS / "ablations"
_BASE = _MIXES / "base.py"
_NAMES = "names"
"""The evaluation of all cells: 8 class names on each test image."""
_FOREIGN = {"test_cfg.foreign_names": "100"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """One way to judge a cell.

    Args:
        config: Config whose test data and metrics are taken; that of the cell when left out.
        changes: What changes in it.
    """

    config: Path | None = None
    changes: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One training and how it is judged.

    Args:
        name: Its name.
        config: Config of the training.
        changes: What changes in it, in training and evaluation.
        steps: Steps of the training.
        trained_as: Name of the cell whose training is judged, where this one has none of its own.
        evaluations: How it is judged, by name.
    """

    name: str
    config: Path = _BASE
    changes: Mapping[str, str] = field(default_factory=dict)
    steps: int = STEPS
    trained_as: str = ""
    evaluations: Mapping[str, Evaluation] = field(default_factory=lambda: {_NAMES: Evaluation()})


@dataclass(frozen=True, slots=True, kw_only=True)
class Ablation:
    """A question, and the cells that answer it.

    Args:
        name: Short name.
        title: Heading of its table.
        paper: What the paper found, or another source; what is not known of it too.
        cells: What each row is called, by the name of its cell.
        figures: Figures of the table; the first one is plotted.
    """

    name: str
    title: str
    paper: str
    cells: Mapping[str, str]
    figures: tuple[str, ...] = (AP, AP_50)


def _peaks(number: int) -> Cell:
    limits = Evaluation(changes={"model.decoders.0.limits": f"{{'num_peaks':{number}}}"})
    return Cell(name=f"peaks_{number}", trained_as="base", evaluations={_NAMES: limits})


def _prompts(number: int) -> Cell:
    changes = {"_ask.num_prompts": str(number), "train_dataloader.batch_size": str(24 // number)}
    return Cell(name=f"prompts_{number}", changes=changes)


def _negatives(number: int) -> Cell:
    changes = {"_ask.negatives": "everyday", "_ask.num_negatives": str(number)}
    return Cell(name=f"negatives_{number}", changes=changes, evaluations={_NAMES: Evaluation(changes=_FOREIGN)})


def _mix(name: str, *evaluations: str) -> Cell:
    known = {_NAMES: Evaluation(), "sentences": Evaluation(config=_MIXES / "eval_mix_sentences.py")}
    return Cell(name=name, config=_MIXES / f"{name}.py", evaluations={key: known[key] for key in evaluations})


_COARSE = {"model.aligner.fine_levels": "0"}
_PEAKS, _STEPS, _PROMPTS, _NEGATIVES = (1, 2, 5, 20, 200), (75, 150, 600, 1200), (1, 4, 8), (4, 8, 24)
CELLS = {
    cell.name: cell
    for cell in (
        Cell(name="base", evaluations={_NAMES: Evaluation(changes=_FOREIGN)}),
        Cell(name="convolutions", config=_MIXES / "convolutions.py"),
        Cell(name="coarse", changes=_COARSE),
        Cell(name="coarse_convolutions", config=_MIXES / "convolutions.py", changes=_COARSE),
        Cell(name="loc_alone", changes={"_lmm.readout.add_phrase_state": "False"}),
        Cell(name="paper_head", config=_MIXES / "paper_head.py"),
        Cell(name="coarse_paper_head", config=_MIXES / "paper_head.py", changes=_COARSE),
        _mix("mix", _NAMES, "sentences"),
        _mix("mix_no_pose", _NAMES, "sentences"),
        Cell(name="no_presence", changes={"model.loss_weights": "{'aligner/loss_presence':0.0}"}),
        *map(_negatives, _NEGATIVES),
        *map(_prompts, reversed(_PROMPTS)),
        *(Cell(name=f"steps_{number}", steps=number) for number in _STEPS),
        *map(_peaks, _PEAKS),
        Cell(name="finest", changes={"model.aligner.fine_levels": "2"}),
        _mix("mix_no_sentences", _NAMES),
        _mix("mix_no_detection", "sentences"),
    )
}
"""By name, the most telling first: the order in which they are run."""

ABLATIONS = (
    Ablation(
        name="aligner",
        title="Two convolutions or two-way attention",
        paper="The paper, table 3a: the transformer is much better than concatenation and two convolutions.",
        cells={
            "coarse": "two-way attention, stride 16",
            "coarse_convolutions": "two convolutions, stride 16",
            "base": "two-way attention, stride 8",
            "convolutions": "two convolutions, stride 8",
        },
    ),
    Ablation(
        name="grid",
        title="The grid of the heatmap",
        paper="The paper: always 14 pixels. Table 9a varies the input: 448 is clearly better than 336, 896 is worse.",
        cells={"coarse": "stride 16, the tower's tokens", "base": "stride 8", "finest": "stride 4"},
    ),
    Ablation(
        name="peaks",
        title="Peaks per phrase, K",
        paper="The paper, table 9c: AP rises from K = 20 to 100 and stays the same up to 200.",
        cells={
            **{f"peaks_{number}": f"K = {number}" for number in _PEAKS if number < 100},
            "base": "K = 100",
            **{f"peaks_{number}": f"K = {number}" for number in _PEAKS if number > 100},
        },
    ),
    Ablation(
        name="mix",
        title="What is in the mix",
        paper="The paper, table 4: detection and grounding help each other; without pose both are better.",
        cells={
            "mix": "names .69, sentences .23, keypoints .08",
            "mix_no_pose": "without keypoints",
            "mix_no_sentences": "without sentences",
            "mix_no_detection": "without names",
        },
        figures=(AP_50, SENTENCES),
    ),
    Ablation(
        name="steps",
        title="Iterations",
        paper="The paper, table 9d: a slow, steady rise up to where the authors stopped for lack of compute.",
        cells={
            **{f"steps_{number}": f"{number} steps" for number in _STEPS if number < STEPS},
            "base": f"{STEPS} steps",
            **{f"steps_{number}": f"{number} steps" for number in _STEPS if number > STEPS},
        },
    ),
    Ablation(
        name="head",
        title="The paper's box head or ours",
        paper="The paper: no ablation. Its head reads [H] and [W] at the peak; the centre stays on the grid.",
        cells={
            "coarse": "distances to four sides, stride 16",
            "coarse_paper_head": "[H] and [W], stride 16",
            "base": "distances to four sides, stride 8",
            "paper_head": "[H] and [W], stride 8",
        },
        figures=(AP, AP_50, PEAK_AP),
    ),
    Ablation(
        name="query",
        title="`[LOC]` alone or with the phrase",
        paper="The paper: no ablation; it reads the state of [LOC] alone.",
        cells={"base": "[LOC] and the mean state of the phrase", "loc_alone": "[LOC] alone"},
    ),
    Ablation(
        name="presence",
        title="Presence",
        paper="The paper: has none; a box is scored by its peak.",
        cells={"base": "trained, and part of the score", "no_presence": "not trained: read AP of the peak alone"},
        figures=(PEAK_AP, AP),
    ),
    Ablation(
        name="prompts",
        title="Prompts an image, 24 prompts a step",
        paper="The paper: no ablation; it asks one class or one sentence a sample.",
        cells={f"prompts_{number}": f"{number} on each of {24 // number} images" for number in _PROMPTS},
    ),
    Ablation(
        name="negatives",
        title="Negative names",
        paper="The paper does not say whether absent classes are asked at all. SAM 3 reports 28 cgF1 "
        "without and 43 with 30 negatives.",
        cells={"base": "0", **{f"negatives_{number}": str(number) for number in _NEGATIVES}},
        figures=(AP, ALARMS),
    ),
)
"""In the order of docs/ablations.md."""

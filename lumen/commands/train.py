"""``lumen train``: a decoder on labelled pictures, from a look at the data to an AP."""

from pathlib import Path
from typing import Annotated

import typer

from lumen.commands.options import refuse_others
from lumen.errors import ConfigError
from lumen.paths import real_path

EXAMPLES = (
    "Examples:",
    "lumen train --data photos/",
    "lumen train --data photos/ --lmm HuggingFaceTB/SmolVLM-Instruct --minutes 60",
    "lumen train --data labels/coco.json --images photos/ --task segmentation --out work_dirs/cups --dry-run",
    "lumen train --resume --out work_dirs/cups",
    "lumen train --data new_photos/ --lmm work_dirs/cups --cfg-options optim_wrapper.optimizer.lr=1e-4",
)

Data = Annotated[
    Path | None,
    typer.Option(
        help="Labelled images: a folder with COCO .json files, or with labels of YOLO or VOC, or a COCO .json. Splits "
        "are found by their names; without a validation split, images are held out.",
        show_default=False,
    ),
]
TaskName = Annotated[str, typer.Option(help="detection, segmentation, pose or counting.")]
LmmName = Annotated[
    str,
    typer.Option(
        help="Folder or id of a pretrained LMM, which stays unchanged but for LoRA; an id is downloaded. nano is part "
        "of this package. Or the work folder or a checkpoint of a run, to go on from."
    ),
]
OutFolder = Annotated[
    Path | None, typer.Option("--out", "-o", help="Work folder; by default work_dirs/DATA_TASK.", show_default=False)
]
Images = Annotated[Path | None, typer.Option(help="Folder that file names start from, where it is not in --data.")]
Iters = Annotated[int | None, typer.Option(min=1, help="Steps; by default a number by the size of the data.")]
Minutes = Annotated[float | None, typer.Option(min=0.1, help="Take as many steps as fit, by a trial of some steps.")]
ValShare = Annotated[
    float | None,
    typer.Option(min=0.01, max=0.9, help="Share held out where there is no validation split; 0.2 if left out."),
]
SkipBudget = Annotated[float, typer.Option(min=0, max=1, help="Share of images or of labels that may be unusable.")]
Seed = Annotated[int, typer.Option(min=0, help="Seed of the run, and of the images that are held out.")]
Tune = Annotated[
    str | None,
    typer.Option(
        help="What learns in the LMM: frozen, nothing; lora, low-rank adapters; whole, tower and LLM, for nano alone. "
        "By default whole of nano and lora of a larger one.",
        show_default=False,
    ),
]
CfgOptions = Annotated[
    list[str] | None,
    typer.Option(help="KEY.PATH=VALUE: a line more in the config; once per setting.", show_default=False),
]
DryRun = Annotated[bool, typer.Option("--dry-run", "--no-run", help="Write the config and the plan, and stop.")]
Resume = Annotated[
    bool, typer.Option("--resume", help="Run the config in --out, as it is now, from its newest checkpoint, if any.")
]


def train(
    data: Data = None,
    task: TaskName = "detection",
    lmm: LmmName = "nano",
    out: OutFolder = None,
    images: Images = None,
    iters: Iters = None,
    minutes: Minutes = None,
    tune: Tune = None,
    val_share: ValShare = None,
    skip_budget: SkipBudget = 0.01,
    seed: Seed = 0,
    cfg_options: CfgOptions = None,
    dry_run: DryRun = False,
    resume: Resume = False,
) -> None:
    """Train a decoder on labelled pictures: looks at them, writes a config of some lines, trains, and prints the AP.

    The config is all there is to the run: python tools/train.py WORK/config.py runs the same.
    """
    if resume:
        refuse_others(train, locals(), ("resume", "out"), "--resume takes --out alone: its config is run as it is")
        if out is None:
            raise ConfigError("--resume takes --out, the work folder")
        return _run(out, resume=True)
    if data is None:
        raise ConfigError("give --data, a folder of labelled images, such as: lumen train --data photos/")
    if iters is not None and minutes is not None:
        raise ConfigError("give --iters or --minutes, not both")
    from rich.console import Console
    from rich.progress import track

    from lumen.tuning.recipe import Wishes
    from lumen.tuning.start import Source, prepare

    folder = out or Path("work_dirs") / f"{real_path(data).stem}_{task}"
    wishes = Wishes(task, iters, seed, skip_budget, tune, tuple(cfg_options or ()))
    options = {"progress": lambda records: track(records, "images", console=Console(stderr=True), transient=True)}
    config = prepare(Source(data, images, val_share), lmm, wishes, folder, minutes=minutes, **options)
    print(f"config: {config}\n")
    print(config.read_text(encoding="utf-8"))
    if dry_run:
        print(f"to train: lumen train --resume --out {folder}")
        return
    _run(folder, resume=False)


def _run(folder: Path, *, resume: bool) -> None:
    """Train in a work folder and print the figures of the validation."""
    from lumen.engine.ending import ending_on_sigterm

    with ending_on_sigterm():
        from lumen.tuning.start import config_to_resume, train

        headline, figures = train(config_to_resume(folder), resume=resume)
    others = [f"{name} {value:.3f}" for name, value in figures.items() if name != headline and value >= 0]
    print(f"validation: {', '.join(others)}")
    print(f"{'AP' if 'AP' in headline else headline} {figures[headline]:.3f}  ({headline}, validation)")
    print(f"to use it: lumen predict PICTURE NAME --model {folder}")

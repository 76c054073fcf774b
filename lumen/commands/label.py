"""``lumen label``: boxes and masks for many pictures."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from lumen.commands.options import (
    WRITTEN,
    BaseModel,
    CheckpointFile,
    ConfigFile,
    Device,
    DialectName,
    LmmName,
    MaxNewTokens,
    MaxPixels,
    ModelFolder,
    Threshold,
    choose_source,
    refuse_bare_options,
    refuse_others,
)
from lumen.errors import ConfigError
from lumen.inference.reports import Request
from lumen.inference.sources import MAX_NEW_TOKENS, DetectorFiles, Source, describe_source

EXAMPLES = (
    "Examples:",
    "lumen label photos/ star 'red ring' --out labels/ --model work_dirs/detection_nano_shapes",
    "lumen label photos/ dog 'red cup' --out labels/ --lmm Qwen/Qwen3-VL-4B-Instruct",
    "lumen label shards/ star --out labels/ --format coco --format yolo --format parquet",
    "lumen label photos/ star --out labels/ --part 3/8, and when all eight are done: lumen label --merge labels/",
)
_PART_SIZE = 256
_MAX_DIGITS = 9  # of the tasks of an array
_FORMATS = ("coco", "yolo", "voc", "parquet", "masks", "label-studio", "fiftyone")

Words = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="SOURCE NAME...",
        help="A folder of images or tar shards, a .tar, a .txt with one image per line, or a COCO .json; then what to "
        "label.",
        show_default=False,
    ),
]
OutFolder = Annotated[
    Path | None, typer.Option("--out", "-o", help="Folder of the labels; a job in it goes on where it was ended.")
]
Formats = Annotated[
    list[str] | None,
    typer.Option(
        "--format",
        help=f"coco (default), {', '.join(_FORMATS[1:-1])} or {_FORMATS[-1]}; once per format.",
        show_default=False,
        autocompletion=lambda: list(_FORMATS),
    ),
]
Merge = Annotated[
    Path | None, typer.Option(help="Write the files of a folder whose parts are all done, and nothing else.")
]
Images = Annotated[Path | None, typer.Option(help="Folder that the paths of a list or a COCO file start from.")]
TaskName = Annotated[
    str, typer.Option(help="detection, segmentation, grounding, referring_segmentation or semantic_segmentation.")
]
PartName = Annotated[
    str, typer.Option(metavar="I/N", help="The share of one task of an array, from 1/N to N/N; --merge follows.")
]
RayWorkers = Annotated[int | None, typer.Option(min=1, help="Answer in so many processes of Ray, on any machines.")]
PartSize = Annotated[int, typer.Option(min=1, help="Pictures of a part; a job that is killed loses one at most.")]
BatchSize = Annotated[int, typer.Option(min=1, help="Pictures that are computed at once.")]
Workers = Annotated[
    int | None, typer.Option(min=1, help="Threads that read pictures; by default one per core, up to 8.")
]
SkipBudget = Annotated[float, typer.Option(min=0, max=1, help="Share of the pictures that may be unreadable.")]
Teacher = Annotated[
    tuple[Path, Path] | None,
    typer.Option(
        metavar="CONFIG CHECKPOINT",
        help="A detector of mmdet, in place of a model of Lumen; it labels its own classes. The config is run as "
        "Python code.",
        show_default=False,
    ),
]
Precision = Annotated[
    str | None, typer.Option(help="float32 or bfloat16; by default bfloat16 on a GPU.", show_default=False)
]


def label(
    words: Words = None,
    out: OutFolder = None,
    formats: Formats = None,
    merge: Merge = None,
    images: Images = None,
    task: TaskName = "detection",
    model: ModelFolder = None,
    base_model: BaseModel = None,
    config: ConfigFile = None,
    checkpoint: CheckpointFile = None,
    teacher: Teacher = None,
    lmm: LmmName = None,
    dialect: DialectName = None,
    max_new_tokens: MaxNewTokens = MAX_NEW_TOKENS,
    max_pixels: MaxPixels = None,
    threshold: Threshold = None,
    device: Device = None,
    dtype: Precision = None,
    part: PartName = "1/1",
    ray: RayWorkers = None,
    part_size: PartSize = _PART_SIZE,
    batch_size: BatchSize = 32,
    workers: Workers = None,
    skip_budget: SkipBudget = 0.01,
) -> None:
    """Label the pictures of SOURCE with each NAME: COCO, YOLO, VOC or parquet files, or masks.

    Started again, it goes on where it was ended, even by kill -9. Exit code 0: all pictures are labelled; 1: some could
    not be read and are in faults.txt; 2: it stopped, and the message says why.
    """
    given, formats = locals(), formats or ["coco"]
    if merge is not None:
        refuse_others(label, given, ("merge", "formats"), "--merge takes a folder that --out wrote, and --format")
        return _write_files(merge, formats)
    if not words or len(words) < 2 or out is None:
        raise ConfigError("give a source, what to label, and --out, such as: lumen label photos/ star --out labels/")
    choice = (lmm, dialect, max_new_tokens, max_pixels), (model, config, checkpoint, base_model), teacher
    sizes = {"batch_size": batch_size, "skip_budget": skip_budget, **({} if workers is None else {"workers": workers})}
    asked, place = (words, images, task, threshold), (device, dtype)
    _label(asked, choice, place, out, formats, share=part, part_size=part_size, ray=ray, sizes=sizes)


def _label(
    asked: tuple[Sequence[str], Path | None, str, float | None],
    choice: tuple[Any, Any, tuple[Path, Path] | None],
    place: tuple[str | None, str | None],
    out: Path,
    formats: Sequence[str],
    *,
    share: str,
    sizes: Mapping[str, Any],
    **options: Any,
) -> None:
    """Answer the pictures of a share, and write the files where it is the whole."""
    words, images, task, threshold = asked
    part = parse_part(share)
    if options["ray"] is not None and part != (1, 1):
        raise ConfigError("--ray shares the pictures among its workers; leave --part out")
    source = _choose(task, *choice)
    request = Request(tuple(words[1:]), WRITTEN if choice[0][0] else task, threshold)
    from lumen.inference.labelling.run import Effort
    from lumen.inference.labelling.start import ModelChoice, label_source

    print(f"model: {describe_source(source)}")
    options |= {"formats": formats, "part": part, "effort": Effort(**sizes)}
    counts = label_source((Path(words[0]), images), request, ModelChoice(source, *place), out, **options)
    if part == (1, 1):
        _write_files(out, formats)
        return
    print(
        f"part {share}: {counts['pictures']} pictures, {counts['faulty']} of them not readable, {counts['objects']} "
        f"objects; when all parts are done: lumen label --merge {out}"
    )
    if counts["faulty"]:
        raise typer.Exit(1)


def _choose(task: str, bare: Any, files: Any, teacher: tuple[Path, Path] | None) -> Source:
    """Return what answers."""
    if teacher is None:
        return choose_source(task, bare, files)
    if bare[0] is not None or any(file is not None for file in files):
        raise ConfigError("give --teacher alone, without --lmm, --model, --base-model, --config and --checkpoint")
    refuse_bare_options(*bare)
    return DetectorFiles(*teacher)


def parse_part(text: str) -> tuple[int, int]:
    """Return the number of a task and how many there are, of ``3/8``.

    Raises:
        ConfigError: It is not of this form, or not from 1/N to N/N.
    """
    number, _, of = text.partition("/")
    are_numbers = number.isdecimal() and of.isdecimal() and max(len(number), len(of)) <= _MAX_DIGITS
    if not are_numbers or not 1 <= int(number) <= int(of):
        raise ConfigError(f"--part is a number from 1 and how many there are, such as 3/8, got {text[:40]!r}")
    return int(number), int(of)


def _write_files(folder: Path, formats: Sequence[str]) -> None:
    from lumen.inference.labelling.merge import FAULTS, merge_parts

    summary = merge_parts(folder, formats)
    found = ", ".join(f"{count} {name}" for name, count in summary["objects"].items())
    print(f"{summary['pictures']} pictures, {summary['faulty']} of them not readable: {found} -> {folder}")
    if summary["faulty"]:
        print(f"the pictures that could not be read are in {folder / FAULTS}")
        raise typer.Exit(1)

"""The ``lumen`` command. Heavy imports wait until the command is known."""

import io
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import Annotated

import typer

from lumen import __version__
from lumen.commands import convert, label, serve, train
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
)
from lumen.errors import ConfigError, DataError, LumenError, printable
from lumen.inference.reports import Output, Request, predict_files
from lumen.inference.sources import MAX_NEW_TOKENS, Source, describe_source, find_model, open_model
from lumen.inference.tiles import Tiles
from lumen.paths import IMAGE_SUFFIXES
from lumen.prompts import KNOWN_TASKS

_EXAMPLES = (
    "Examples:",
    "lumen predict photo.jpg star 'red ring' --model work_dirs/detection_nano_shapes --out out/",
    "lumen predict photos/ 'stop sign' -t 0.4 --json all.json",
    "lumen predict photo.jpg star --task segmentation",
    "lumen predict photo.jpg 'the red star left of the ring' --task grounding",
    "lumen predict photo.jpg 'the red star left of the ring' --task referring_segmentation",
    "lumen predict photo.jpg sky road car --task semantic_segmentation",
    "lumen predict photo.jpg --task pose --category star --keypoints 'top tip,left tip,right tip'",
    "lumen predict photo.jpg --task pose --category person --skeleton-from annotations/person_keypoints_val2017.json",
    "lumen predict photo.jpg star ring --task counting",
    "lumen predict photo.jpg 'how many stars are there?' --task vqa",
    "lumen predict photo.jpg --task caption",
    "lumen predict aerial.jpg car --tiles 640",
    "lumen predict photo.jpg dog 'red cup' --lmm Qwen/Qwen3-VL-4B-Instruct",
)

# Options of `lumen predict`.
Inputs = Annotated[
    list[str],
    typer.Argument(help="Images or folders of images, then phrases, sentences or questions.", show_default=False),
]
TaskName = Annotated[
    str,
    typer.Option(
        help="detection, segmentation, pose, grounding, referring_segmentation, semantic_segmentation, counting, "
        "vqa, caption, or a task of your own; the model must have a decoder for it.",
        autocompletion=lambda: [wording.name for wording in KNOWN_TASKS],
    ),
]
OutFolder = Annotated[Path, typer.Option("--out", "-o", help="Folder for pictures and JSON files.")]
JsonFile = Annotated[
    Path | None, typer.Option("--json", help="One JSON file for all images, in place of one per image.")
]
Category = Annotated[str | None, typer.Option(help="pose: name of the objects.")]
KeypointNames = Annotated[str | None, typer.Option(help="pose: names of the keypoints, with commas between.")]
SkeletonFile = Annotated[
    Path | None, typer.Option(help="pose: COCO-format JSON that names the category's keypoints and bones.")
]
WithPictures = Annotated[bool, typer.Option(help="Write a picture per image, unless the answer is text.")]
WithHeatmaps = Annotated[bool, typer.Option(help="Write a heatmap picture per phrase.")]
TileSide = Annotated[
    int | None,
    typer.Option(
        help="Ask about tiles of so many pixels, too, and join the answers: for small objects in large images."
    ),
]
Overlap = Annotated[
    float | None,
    typer.Option(help="--tiles: share of the side that neighbouring tiles have in common; by default 0.2."),
]

app = typer.Typer(
    help="Find anything you can name: one multimodal model pass, any number of phrases.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)


app.command("label", epilog="\n\n".join(label.EXAMPLES))(label.label)
app.command("convert", epilog="\n\n".join(convert.EXAMPLES))(convert.convert)
app.command("serve", epilog="\n\n".join(serve.EXAMPLES))(serve.serve)
app.command("train", epilog="\n\n".join(train.EXAMPLES))(train.train)


def main() -> None:
    """Run the command; an error that the user can correct is one line and exit code 2."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        # A path may hold bytes that are not UTF-8, which would end a job when it is printed.
        sys.stdout.reconfigure(errors="backslashreplace")
    with one_line_errors():
        app(prog_name="lumen")


@app.callback(invoke_without_command=True)
def _root(
    version: Annotated[bool, typer.Option("--version", help="Print the version and stop.")] = False,
) -> None:
    if version:
        print(__version__)
        raise typer.Exit


@app.command(epilog="\n\n".join(_EXAMPLES))
def predict(
    inputs: Inputs,
    task: TaskName = "detection",
    out: OutFolder = Path("out"),
    json_file: JsonFile = None,
    model: ModelFolder = None,
    base_model: BaseModel = None,
    config: ConfigFile = None,
    checkpoint: CheckpointFile = None,
    lmm: LmmName = None,
    dialect: DialectName = None,
    max_new_tokens: MaxNewTokens = MAX_NEW_TOKENS,
    max_pixels: MaxPixels = None,
    threshold: Threshold = None,
    category: Category = None,
    keypoints: KeypointNames = None,
    skeleton_from: SkeletonFile = None,
    tiles: TileSide = None,
    overlap: Overlap = None,
    device: Device = None,
    pictures: WithPictures = True,
    heatmaps: WithHeatmaps = False,
) -> None:
    """Ask about images: writes NAME.png and NAME.json per image, and NAME_heat_N_PHRASE.png with --heatmaps.

    The first argument is an image or a folder, and so are those behind it that exist and end like an image or hold a
    slash; the rest are phrases.
    """
    warn_about_namesake()
    paths, phrases = split_inputs(inputs)
    bare, files = (lmm, dialect, max_new_tokens, max_pixels), (model, config, checkpoint, base_model)
    source = choose_source(task, bare, files)
    request = make_request(phrases, WRITTEN if lmm else task, threshold, category, keypoints, skeleton_from)
    request = replace(request, tiles=make_tiles(tiles, overlap, heatmaps))
    if predict_with(source, paths, request, Output(out, json_file, pictures, heatmaps), device=device):
        raise typer.Exit(2)


@app.command(
    epilog="\n\n".join(
        (
            "Examples:",
            "lumen chat photo.jpg --model work_dirs/chat_nano_llava",
            "lumen chat photo.jpg --model exported/ --masks masks/",
            "lumen chat photo.jpg --route '[SEG]=referring_segmentation' --masks masks/",
            "echo 'Where is the red star?' | lumen chat photo.jpg --model exported/",
        )
    )
)
def chat(
    image: Annotated[Path, typer.Argument(help="The image to talk about.", show_default=False)],
    model: ModelFolder = None,
    base_model: BaseModel = None,
    config: ConfigFile = None,
    checkpoint: CheckpointFile = None,
    masks: Annotated[
        Path | None,
        typer.Option(
            help="Folder for masks: NAME_TURN_NUMBER.png, grey, 255 on the object, as image editors take them."
        ),
    ] = None,
    route: Annotated[
        list[str] | None,
        typer.Option(help="TOKEN=TASK: the decoder for what the answer points at by this token; once per token."),
    ] = None,
    threshold: Threshold = None,
    device: Device = None,
) -> None:
    """Talk about an image: a line in, an answer out, and the objects that the answer points at.

    Ends with the input (Ctrl-D) or by Ctrl-C.
    """
    from lumen.inference.chat import chat_about, read_routes, typed_lines

    warn_about_namesake()
    routes = read_routes(route or ())
    if not image.is_file():
        raise DataError(f"there is no image {str(image)!r}")
    source = find_model(model, config, checkpoint, base_model)
    print(f"model: {describe_source(source)}")
    options = {"masks": masks, "slot_routes": routes or None, "score_threshold": threshold}
    chat_about(open_model(source, device), image, typed_lines(), **options)


@app.command(
    "check-data",
    epilog="Examples: lumen check-data annotations/instances_val2017.json --images val2017 --decode | "
    "lumen check-data annotations/captions_val2017.json --show 100 | "
    "lumen check-data annotations/validation --images images/validation",
)
def check_data(
    ann_file: Annotated[
        Path,
        typer.Argument(
            help="COCO-format JSON (instances, keypoints or captions), questions, LLaVA's conversations, or a folder "
            "of label maps.",
            show_default=False,
        ),
    ],
    images: Annotated[
        Path | None, typer.Option(help="Folder of the images, whose headers are read. Left out: the file alone.")
    ] = None,
    decode: Annotated[bool, typer.Option("--decode", help="Decode every image, too, which takes longer.")] = False,
    show: Annotated[int, typer.Option(min=0, help="How many ids are listed per problem.")] = 20,
) -> None:
    """List everything that is wrong with a data set: one line per kind of problem, with how often and which ids.

    Exit code 0: nothing is wrong; 1: there are problems; 2: the file is of no known format.
    """
    from rich.console import Console
    from rich.progress import track

    from lumen.data.annotations import format_report
    from lumen.data.check_other import check_data as check

    if decode and images is None:
        raise ConfigError("--decode reads images: name their folder with --images")
    if images is not None and not images.is_dir():
        raise DataError(f"there is no folder {str(images)!r}; --images names the folder that file names start from")
    console = Console(stderr=True)
    report = check(ann_file, images, decode=decode, progress=lambda records: track(records, "images", console=console))
    if not report:
        print(f"{ann_file}: nothing is wrong")
        return
    print(f"{ann_file}: {sum(map(len, report.values()))} problems of {len(report)} kinds")
    print(format_report(report, num_shown=show))
    raise typer.Exit(1)


@app.command(
    "check-decoder",
    epilog="Examples: lumen check-decoder projects/example_decoder | "
    "lumen check-decoder mine/my_decoder.py --option num_parts=3",
)
def check_decoders(
    path: Annotated[Path, typer.Argument(help="File of a decoder, or a folder with such files.", show_default=False)],
    option: Annotated[
        list[str] | None, typer.Option(help="NAME=VALUE for the constructor; give it once per name.")
    ] = None,
) -> None:
    """Check that decoders keep to the contract: losses, predictions, declared fields, bfloat16, saved weights.

    Exit code 0: they do; 1: there are problems; 2: there is no decoder to check.
    """
    from lumen.decoders.contract import check_decoder, find_decoders, format_findings
    from lumen.engine.check_config import parse_overrides

    options, failed = parse_overrides(option or ()), False
    for kind in find_decoders(path):
        findings = check_decoder(kind, options)
        failed |= any(finding.problem for finding in findings)
        print(format_findings(kind, findings))
    if failed:
        raise typer.Exit(1)


def predict_with(source: Source, paths: Sequence[Path], request: Request, output: Output, *, device: str | None) -> int:
    """Load a model and run ``predict_files``, whose arguments and result these are."""
    print(f"model: {describe_source(source)}")
    return predict_files(open_model(source, device), paths, request, output)


def make_request(
    phrases: Sequence[str],
    task: str,
    threshold: float | None,
    category: str | None,
    keypoints: str | None,
    skeleton_from: Path | None,
) -> Request:
    """Return what the command line asks for.

    Raises:
        ConfigError: The options do not fit each other.
        DataError: The file names no keypoints for the category.
    """
    if task != "pose":
        if (category, keypoints, skeleton_from) != (None, None, None):
            raise ConfigError(f"--category, --keypoints and --skeleton-from belong to --task pose, got --task {task}")
        asked = tuple(phrases) or (("",) if task == "caption" else ())
        return Request(asked, task, threshold)
    if phrases or category is None or (keypoints is None) == (skeleton_from is None):
        raise ConfigError(
            "pose takes --category NAME, either --keypoints 'NAME,NAME' or --skeleton-from FILE, and no phrases; got "
            f"{category=}, {keypoints=}, {skeleton_from=!s}, phrases={list(phrases)}"
        )
    if keypoints is not None:
        names = tuple(name.strip() for name in keypoints.split(",") if name.strip())
        return Request((category,), task, threshold, names)
    from lumen.data.keypoints import read_skeleton

    skeleton = read_skeleton(skeleton_from, category)
    return Request((category,), task, threshold, skeleton.names, skeleton.bones)


def make_tiles(side: int | None, overlap: float | None, heatmaps: bool) -> Tiles | None:
    """Return how large images are cut, if they are; raises ConfigError where options do not fit each other."""
    if side is None:
        if overlap is not None:
            raise ConfigError("--overlap belongs to --tiles")
        return None
    if heatmaps:
        raise ConfigError("--heatmaps draws the maps of whole images, not of tiles: leave --heatmaps or --tiles out")
    return Tiles(side) if overlap is None else Tiles(side, overlap)


def split_inputs(inputs: Sequence[str]) -> tuple[list[Path], list[str]]:
    """Split command-line words into image files and phrases; folders stand for the images in them.

    The first word is an image; a word behind it only if it exists and ends like one or holds a slash, so that a folder
    called ``star`` does not hide the phrase.

    Raises:
        DataError: The first word is not a file or folder, or a folder holds no image.
    """
    number = next((place for place, word in enumerate(inputs) if place and not _is_image(word)), len(inputs))
    # A missing photo.jpg is more likely a typing error than a phrase.
    missing = [word for word in inputs[number:] if Path(word).suffix.lower() in IMAGE_SUFFIXES]
    if missing:
        raise DataError(f"there is no image {missing[0]!r}; give files or folders first, then phrases")
    return list_images([Path(word) for word in inputs[:number]]), list(inputs[number:])


def _is_image(word: str) -> bool:
    return Path(word).exists() and (Path(word).suffix.lower() in IMAGE_SUFFIXES or "/" in word)


def list_images(paths: Sequence[Path]) -> list[Path]:
    """Return the files, with each folder replaced by the images in it, in order of their names.

    Raises:
        DataError: A path does not exist, or a folder holds no image.
    """
    images: list[Path] = []
    for path in paths:
        if not path.exists():
            raise DataError(f"there is no image {str(path)!r}")
        found = (
            sorted(file for file in path.iterdir() if file.suffix.lower() in IMAGE_SUFFIXES)
            if path.is_dir()
            else [path]
        )
        if not found:
            raise DataError(f"the folder {path} holds no image; known endings are {', '.join(IMAGE_SUFFIXES)}")
        images += found
    return images


def warn_about_namesake() -> None:
    """Warn that another distribution with the import name ``lumen`` is installed, if one is."""
    try:
        other = metadata.distribution("lumen")
    except metadata.PackageNotFoundError:
        return
    print(
        f"warning: the distribution 'lumen' {other.version} is installed too; it has the same import name as "
        "'lumen-perception', and one hides the other. Uninstall it, or use another environment",
        file=sys.stderr,
    )


@contextmanager
def one_line_errors() -> Iterator[None]:
    """Turn an error of Lumen, or of the system, such as a full disk, into one line and exit code 2; Ctrl-C into 130."""
    try:
        yield
    except (LumenError, OSError) as error:
        print(f"error: {printable(' '.join(str(error).split()))}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)


if __name__ == "__main__":
    main()

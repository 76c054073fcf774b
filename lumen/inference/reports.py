"""Answers about image files, as JSON and pictures. Nothing heavy is imported before there is something to answer."""

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lumen.errors import ConfigError, DataError, printable
from lumen.inference.tiles import Tiles
from lumen.serialization.atomic import write_text

if TYPE_CHECKING:
    from lumen.inference.predictor import LumenPredictor
    from lumen.lmm.generation import AnswerReport

_DIGITS = {"bboxes": 3, "keypoints": 3, "points": 3, "counts": 3}
_OTHER_DIGITS = 5
_NAMES = {"bboxes": "bboxes_xyxy"}
_WITHOUT_HEATMAPS = frozenset({"pose", "vqa", "caption", "chat", "written_boxes"})


@dataclass(frozen=True, slots=True)
class Request:
    """What to ask about each image.

    Args:
        phrases: Phrases, sentences or questions; for ``pose`` the category alone, for ``caption`` an instruction,
            which may be empty.
        task: Task of the decoder that answers.
        threshold: Lowest score that is kept; None for the task's own.
        keypoints: Names of the keypoints, for ``pose``.
        bones: Pairs of indices into ``keypoints``; used for drawing only.
        tiles: How large images are cut; see ``AskedImage.predict``.

    Raises:
        ConfigError: The task lacks what it needs, or gets what it does not take.
    """

    phrases: tuple[str, ...]
    task: str = "detection"
    threshold: float | None = None
    keypoints: tuple[str, ...] = ()
    bones: tuple[tuple[int, int], ...] = ()
    tiles: Tiles | None = None

    def __post_init__(self) -> None:
        if self.task == "pose" and (len(self.phrases) != 1 or not self.keypoints):
            raise ConfigError(
                "pose needs one category and its keypoints, such as --category star --keypoints 'top tip,left tip', or "
                f"--skeleton-from FILE; got {list(self.phrases)} and {list(self.keypoints)}"
            )
        if self.task != "pose" and self.keypoints:
            raise ConfigError(f"keypoints belong to task pose, got task {self.task!r}")
        if self.task == "pose" and self.tiles is not None:
            raise ConfigError("--tiles belongs to tasks that find boxes and masks, got task 'pose'")
        if not self.phrases:
            raise ConfigError("name at least one phrase to look for, such as: lumen predict photo.jpg star 'red ring'")


@dataclass(frozen=True, slots=True)
class Output:
    """Where answers go.

    Args:
        folder: Gets pictures, and a JSON file per image; made if missing.
        json: One JSON file for all images, in place of one per image.
        pictures: Whether to write pictures.
        heatmaps: Whether to write a heatmap picture per phrase, for tasks that have heatmaps.
    """

    folder: Path
    json: Path | None = None
    pictures: bool = True
    heatmaps: bool = False


def predict_files(predictor: "LumenPredictor", paths: Sequence[Path], request: Request, output: Output) -> int:
    """Answer a request about image files and write the files that ``output`` selects.

    An unreadable file is reported and skipped. The number of files done is shown where standard error is a
    terminal.

    Returns:
        How many files could not be read.
    """
    from lumen.data.image import read_image

    output.folder.mkdir(parents=True, exist_ok=True)
    reports: list[dict] = []
    failed = 0
    with _progress(len(paths)) as advance:
        for path, stem in zip(paths, unique_stems(paths), strict=True):
            try:
                image = read_image(path)
            except DataError as error:
                print(f"error: {printable(str(error))}", file=sys.stderr)
                failed += 1
            else:
                report = _predict_file(predictor, path, stem, image, request, output)
                reports += [] if output.json is None else [report]
            advance()
    if output.json is not None:
        write_json(output.json, {"model": dict(predictor.description), "images": reports})
    return failed


def ask(predictor: "LumenPredictor", request: Request) -> Any:
    """Return the table that answers a request about the image that was set."""
    if request.task == "pose":
        return predictor.pose(request.phrases[0], request.keypoints, score_threshold=request.threshold)
    options = {"score_threshold": request.threshold, "tiles": request.tiles}
    return predictor.predict(request.phrases, task=request.task, **options)


def describe_answer(path: Path, size_hw: Sequence[int], request: Request, table: Any) -> dict[str, Any]:
    """Return an answer as plain lists: every field of its task, coordinates in pixels of the image.

    ``labels`` index ``phrases``. Masks are COCO run-length codes; boxes are called ``bboxes_xyxy``.
    """
    fields = {_NAMES.get(key, key): _plain(key, value) for key, value in sorted(table.items()) if key != "phrases"}
    skeleton = {"keypoint_names": list(request.keypoints), "bones": [list(bone) for bone in request.bones]}
    return {
        "image": str(path),
        "height": size_hw[0],
        "width": size_hw[1],
        "task": request.task,
        "phrases": list(request.phrases),
        **(skeleton if request.keypoints else {}),
        **({} if request.tiles is None else {"tiles": asdict(request.tiles)}),
        **fields,
    }


def draw_answer(image: Any, request: Request, table: Any, kinds: Mapping[str, str] | None = None) -> Any:
    """Return a picture of an answer, or None for an answer in words; ``kinds`` are those of the task's ``TaskSpec``."""
    from lumen import visualization as drawing
    from lumen.structures import Prompt

    if "texts" in table:
        return None
    answer = table[:]
    answer.prompt_index = table.labels
    prompts = [Prompt(phrase, request.task) for phrase in request.phrases]
    return drawing.draw_answer(image, prompts, answer, edges=request.bones, min_score=0.0, kinds=kinds)


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a dict with a line per key, and per element of a list of dicts such as images."""
    lines = ",\n".join(f" {json.dumps(key)}: {_json_value(value)}" for key, value in content.items())
    write_text(path, f"{{\n{lines}\n}}\n")


def unique_stems(paths: Sequence[Path]) -> list[str]:
    """Return a name per file without its ending; equal names get a number."""
    taken: set[str] = set()
    stems = []
    for path in paths:
        stem, number = path.stem, 2
        while stem in taken:
            stem, number = f"{path.stem}-{number}", number + 1
        taken.add(stem)
        stems.append(stem)
    return stems


def slug(phrase: str) -> str:
    """Return a phrase as a part of a file name: letters, digits and hyphens, at most 40."""
    words = "".join(letter if letter.isalnum() and letter.isascii() else " " for letter in phrase.lower()).split()
    return "-".join(words)[:40].rstrip("-") or "phrase"


def _predict_file(
    predictor: "LumenPredictor", path: Path, stem: str, image: Any, request: Request, output: Output
) -> dict[str, Any]:
    predictor.set_image(image)
    predictor.model.lmm.answer_report.clear()
    table = ask(predictor, request)
    written = predictor.model.lmm.answer_report if request.task == "written_boxes" else None
    report = describe_answer(path, image.shape[:2], request, table)
    if written is not None:
        report |= {"unparsed": written.unparsed, "unasked": written.unasked}
    if output.json is None:
        write_json(output.folder / f"{stem}.json", {**report, "model": dict(predictor.description)})
    kinds = predictor.model.decoders[request.task].spec.kinds
    picture = draw_answer(image, request, table, kinds) if output.pictures else None
    if picture is not None:
        _save(output.folder / f"{stem}.png", picture)
    if output.heatmaps and request.task not in _WITHOUT_HEATMAPS:
        _draw_heatmaps(predictor, image, request, output.folder / stem)
    summary = _summary(table, request) + ("" if written is None else _unread(written))
    print(printable(f"{path}: {summary}" + (f" -> {output.folder / stem}.png" if picture is not None else "")))
    return report


def _summary(table: Any, request: Request) -> str:
    if "texts" in table:
        return " | ".join(f"{phrase} {text}".strip() for phrase, text in zip(table.phrases, table.texts, strict=True))
    if "counts" in table:
        counted = zip(table.phrases, table.counts.tolist(), strict=True)
        return ", ".join(f"{count:g} {phrase}" for phrase, count in counted)
    return f"{len(table)} found"


def _unread(written: "AnswerReport") -> str:
    """Return what of a written answer became no box."""
    return f", {written.unparsed} unparsed, {written.unasked} of other names"


def _plain(key: str, value: Any) -> Any:
    if isinstance(value, list):
        return value
    return _rounded(value.tolist(), _DIGITS.get(key, _OTHER_DIGITS))


def _rounded(value: Any, digits: int) -> Any:
    if isinstance(value, list):
        return [_rounded(item, digits) for item in value]
    return round(value, digits)


def _json_value(value: Any) -> str:
    if not isinstance(value, list) or not value or not isinstance(value[0], dict):
        return json.dumps(value)
    return "[\n  " + ",\n  ".join(map(json.dumps, value)) + "\n ]"


def _save(path: Path, picture: Any) -> None:
    from lumen.visualization import save_png

    save_png(path, picture)


def _draw_heatmaps(predictor: "LumenPredictor", image: Any, request: Request, start: Path) -> None:
    from lumen.visualization import draw_heatmap

    # So many phrases at once that their maps take a quarter of a gigabyte at most.
    at_once = max(1, 2**26 // (image.shape[0] * image.shape[1]))
    for first in range(0, len(request.phrases), at_once):
        phrases = request.phrases[first : first + at_once]
        heat = predictor.heatmaps(phrases, task=request.task).numpy()
        for number, (phrase, values) in enumerate(zip(phrases, heat, strict=True), start=first + 1):
            name = f"{start.name}_heat_{number}_{slug(phrase)}.png"
            _save(start.with_name(name), draw_heatmap(image, values, phrase))


@contextmanager
def _progress(total: int) -> Iterator[Any]:
    """Yield a function that moves a progress bar on by one; the bar is left out for one file or without a terminal."""
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    is_hidden = total < 2 or not console.is_terminal
    with Progress(console=console, disable=is_hidden, redirect_stdout=sys.stdout.isatty()) as bar:
        task = bar.add_task("images", total=total)
        yield lambda: bar.advance(task)

"""A conversation about an image on the command line: a line in, an answer out, masks as files."""

import io
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lumen.errors import ConfigError, DataError, PromptError, printable

if TYPE_CHECKING:
    from mmengine.structures import InstanceData

    from lumen.inference.conversation import Reply
    from lumen.inference.predictor import LumenPredictor

_MAX_LINE = 2**20


def typed_lines() -> Iterator[str]:
    """Yield lines of standard input up to its end; a terminal shows where to type.

    Bytes that are not UTF-8 become halves of surrogate pairs, which a prompt must not hold.

    Raises:
        DataError: Standard input is closed, or a line has no end.
    """
    if sys.stdin is None:
        raise DataError("standard input is closed: type the questions, or pass them as lines")
    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(errors="surrogateescape")
    is_terminal = sys.stdin.isatty()
    while True:
        try:
            line = input("> ") if is_terminal else sys.stdin.readline(_MAX_LINE)
        except EOFError:
            return
        if not is_terminal and not line:
            return
        if len(line) == _MAX_LINE:
            raise DataError(f"a line of standard input has {_MAX_LINE} characters or more: pass a question per line")
        yield line.removesuffix("\n")


def read_routes(given: Sequence[str]) -> dict[str, str]:
    """Return the routes of ``--route``; raise ConfigError where one is not TOKEN=TASK, or a token is given twice."""
    routes: dict[str, str] = {}
    for text in given:
        token, mark, task = text.partition("=")
        if not (token and mark and task) or token in routes:
            raise ConfigError(f"--route takes TOKEN=TASK, such as '[SEG]=segmentation', once per token; got {text!r}")
        routes[token] = task
    return routes


def chat_about(
    predictor: "LumenPredictor",
    path: Path,
    lines: Iterable[str],
    *,
    masks: Path | None = None,
    slot_routes: Mapping[str, str] | None = None,
    score_threshold: float | None = None,
) -> None:
    """Answer lines about an image one by one, each in the light of those before it.

    Prints the answer and a line for each object that it points at. A line that cannot be asked is reported and left
    out of the conversation; an empty one is skipped. The conversation ends with the lines, or by Ctrl-C.

    Args:
        predictor: The model.
        path: The image.
        lines: What the user says.
        masks: Folder for the masks, NAME_TURN_NUMBER.png: 8-bit grey, of the size of the image, 255 on the object.
        slot_routes: See ``AskedImage.converse``.
        score_threshold: See ``AskedImage.converse``.

    Raises:
        DataError: The image cannot be read.
        ConfigError: The routes do not fit the model.
    """
    from lumen.inference.conversation import routes_of

    routes = routes_of(predictor.model, slot_routes)
    image, history, turn = predictor.image(path), (), 0
    try:
        for line in lines:
            if not line.strip():
                continue
            try:
                reply = image.converse(line, history, slot_routes=routes, score_threshold=score_threshold)
            except PromptError as error:
                print(f"error: {printable(str(error))}", file=sys.stderr)
                continue
            history, turn = reply.history, turn + 1
            _print_reply(reply, f"{path.stem}_{turn}", masks)
    except KeyboardInterrupt:
        print()


def _print_reply(reply: "Reply", stem: str, masks: Path | None) -> None:
    print(printable(reply.text) or "(no words)")
    if reply.num_unpaired:
        print(f"  {reply.num_unpaired} slots in the answer give nothing: another slot of the template is missing")
    number = 0
    for task, table in reply.tables.items():
        for row in range(len(table)):
            number += 1
            print(f"  {number} {_describe(task, table, row)}{_save_mask(table, row, masks, f'{stem}_{number}.png')}")
    sys.stdout.flush()


def _describe(task: str, table: "InstanceData", row: int) -> str:
    parts = [task]
    if "scores" in table:
        parts.append(f"score {table.scores[row].item():.2f}")
    if "bboxes" in table:
        parts.append("box " + " ".join(f"{side:.1f}" for side in table.bboxes[row].tolist()))
    if "counts" in table:
        parts.append(f"count {table.counts[row].item():g}")
    if "texts" in table:
        parts.append(repr(table.texts[row]))
    return ", ".join(parts)


def _save_mask(table: "InstanceData", row: int, folder: Path | None, name: str) -> str:
    """Write the mask of a row where there is one and a folder for it; return what to print of it."""
    if folder is None or "masks" not in table:
        return ""
    from PIL import Image

    from lumen.ops.masks import decode_masks
    from lumen.serialization.atomic import atomic_file

    code = table.masks[row]
    mask = decode_masks([code], code["size"])[0]
    folder.mkdir(parents=True, exist_ok=True)
    with atomic_file(folder / name) as file:
        Image.fromarray(mask.numpy().astype("uint8") * 255).save(file, format="PNG")
    return f" -> {folder / name}"

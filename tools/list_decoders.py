"""Print the registered decoders: what each reads, writes and is judged by. Or print the tasks, or the configs."""

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

EXAMPLES = """examples:
  python tools/list_decoders.py
  python tools/list_decoders.py --markdown > decoders.md
  python tools/list_decoders.py tasks --markdown
  python tools/list_decoders.py configs
  python tools/list_decoders.py --import projects.example_decoder.example_decoder
"""
COLUMNS = ("task", "decoder", "token", "targets", "predictions", "headline", "losses", "map queries", "extras")
TASK_COLUMNS = ("ask", "answer", "metric", "config")
CONFIG_COLUMNS = ("config", "decoders for", "data", "metrics")


@dataclass(frozen=True, slots=True)
class Question:
    """An example prompt of a task, and a config to begin with.

    Args:
        words: An example.
        config: A leaf below ``configs`` that judges the task.
    """

    words: str
    config: str


QUESTIONS = {
    "detection": Question("a class name: `star`", "detection/detection_nano_shapes.py"),
    "segmentation": Question("a class name: `star`", "segmentation/segmentation_full_nano_shapes.py"),
    "semantic_segmentation": Question(
        "a class name: `sky`", "semantic_segmentation/semantic_segmentation_nano_ade20k.py"
    ),
    "pose": Question("a class name and its keypoints: `star`, `top tip`", "multitask/eval_pose.py"),
    "grounding": Question("a sentence: `the red star left of the ring`", "multitask/eval_grounding.py"),
    "referring_segmentation": Question("a sentence: `the red star`", "multitask/eval_referring_segmentation.py"),
    "counting": Question("a class name: `star`", "multitask/eval_counting.py"),
    "vqa": Question("a question: `how many stars are there?`", "multitask/eval_vqa.py"),
    "caption": Question("nothing", "text/caption_nano_coco.py"),
    "chat": Question("a turn, with the turns before it", "text/chat_nano_llava.py"),
    "written_boxes": Question("a class name: `star`", "zero_shot/detection_coco.py"),
}
_FOR_BOOKKEEPING = {"labels", "prompt_index"}


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "table", nargs="?", choices=("decoders", "tasks", "configs"), default="decoders", help="what to list [decoders]"
    )
    parser.add_argument("--markdown", action="store_true", help="print a Markdown table")
    parser.add_argument("--import", dest="modules", nargs="*", default=[], help="modules of plug-ins to import first")
    return parser.parse_args()


def decoder_rows() -> list[tuple[str, ...]]:
    """Return a row per registered decoder, ordered by task and name."""
    from lumen.prompts import KNOWN_TASKS
    from lumen.registry import DECODERS

    tokens = {wording.name: "words" if wording.is_text else f"`{wording.routing_token}`" for wording in KNOWN_TASKS}
    DECODERS.import_from_location()
    rows = []
    for name, decoder in DECODERS.module_dict.items():
        spec = decoder.spec
        losses = ", ".join(f"{loss} / {count}" for loss, count in sorted(spec.losses.items()))
        targets, predictions, extras = (_join(names) for names in (spec.targets, spec.predictions, spec.extras))
        token = tokens.get(spec.name, "its own")
        rows.append(
            (spec.name, name, token, targets, predictions, spec.headline, losses, str(spec.map_queries), extras)
        )
    return sorted(rows)


def task_rows() -> list[tuple[str, ...]]:
    """Return a row per task that Lumen brings."""
    rows = []
    for task, question in QUESTIONS.items():
        config = _read(ROOT / "configs" / question.config)
        spec = next(decoder.spec for decoder in _decoders(config) if decoder.spec.name == task)
        metrics = _metrics(config)
        judged = f"`{spec.headline}` by {metrics}" if metrics else "none"
        answer = ", ".join(f"`{name}`" for name in sorted(spec.predictions - _FOR_BOOKKEEPING))
        rows.append((f"**{task}**: {question.words}", answer, judged, f"`configs/{question.config}`"))
    return rows


def config_rows() -> list[tuple[str, ...]]:
    """Return a row per config that can be trained or tested, in order of their paths."""
    rows = []
    for path in sorted((ROOT / "configs").glob("[!_]*/*.py")):
        config = _read(path)
        tasks = dict.fromkeys(decoder.spec.name for decoder in _decoders(config))
        roots = dict.fromkeys(_data_roots([config.get("train_dataloader"), config.get("test_dataloader")]))
        name = f"`{path.parent.name}/{path.stem}`"
        rows.append((name, ", ".join(tasks), ", ".join(sorted(roots)), _metrics(config)))
    return rows


def markdown(rows: Sequence[Sequence[str]], columns: Sequence[str] = COLUMNS) -> str:
    """Return rows as a Markdown table."""
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _join(names: Sequence[str] | frozenset[str]) -> str:
    return ", ".join(sorted(names))


def _read(path: Path) -> Any:
    from lumen.config import read_config

    return read_config(path, import_roots=[ROOT])


def _decoders(config: Any) -> list[type]:
    return [decoder["type"] for decoder in config.model.get("decoders", ())]


def _metrics(config: Any) -> str:
    chosen = config.get("test_evaluator") or []
    return ", ".join(f"`{metric['type'].__name__}`" for metric in (chosen if isinstance(chosen, list) else [chosen]))


def _data_roots(node: Any) -> Iterator[str]:
    """Yield every ``data_root`` in nested dicts and lists."""
    if isinstance(node, dict):
        if isinstance(node.get("data_root"), str):
            yield f"`{node['data_root']}`"
        node = list(node.values())
    if isinstance(node, list | tuple):
        for child in node:
            yield from _data_roots(child)


def main() -> None:
    """Print the table."""
    args = parse_args()
    for module in args.modules:
        import_module(module)
    columns, rows = {
        "decoders": (COLUMNS, decoder_rows),
        "tasks": (TASK_COLUMNS, task_rows),
        "configs": (CONFIG_COLUMNS, config_rows),
    }[args.table]
    if args.markdown:
        print(markdown(rows(), columns))
        return
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Column, Table

    table = Table(Column(columns[0], overflow="fold"), "what belongs to it", show_lines=True)
    for first, *others in rows():
        pairs = zip(columns[1:], others, strict=True)
        table.add_row(escape(first), escape("\n".join(f"{name}: {value}" for name, value in pairs if value)))
    Console().print(table)


if __name__ == "__main__":
    main()

"""Print what every registered decoder asks for, writes, and is judged by."""

import argparse
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

EXAMPLES = """examples:
  python tools/list_decoders.py
  python tools/list_decoders.py --markdown > decoders.md
  python tools/list_decoders.py --import projects.pointing.pointing
"""
COLUMNS = ("task", "decoder", "targets", "predictions", "headline", "losses", "map queries", "extras")


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--markdown", action="store_true", help="print a Markdown table")
    parser.add_argument("--import", dest="modules", nargs="*", default=[], help="modules of plug-ins to import first")
    return parser.parse_args()


def decoder_rows() -> list[tuple[str, ...]]:
    """Return a row per registered decoder, ordered by task and name."""
    from lumen.registry import DECODERS

    DECODERS.import_from_location()
    rows = []
    for name, decoder in DECODERS.module_dict.items():
        spec = decoder.spec
        losses = ", ".join(f"{loss} / {count}" for loss, count in sorted(spec.losses.items()))
        fields = [", ".join(sorted(names)) for names in (spec.targets, spec.predictions, spec.extras)]
        rows.append((spec.name, name, fields[0], fields[1], spec.headline, losses, str(spec.map_queries), fields[2]))
    return sorted(rows)


def markdown(rows: Sequence[Sequence[str]]) -> str:
    """Return rows as a Markdown table."""
    lines = [COLUMNS, ["---"] * len(COLUMNS), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def main() -> None:
    """Print the table."""
    args = parse_args()
    for module in args.modules:
        import_module(module)
    rows = decoder_rows()
    if args.markdown:
        print(markdown(rows))
        return
    from rich.console import Console
    from rich.table import Column, Table

    table = Table(Column("task", no_wrap=True), Column("decoder", no_wrap=True), "what it declares", show_lines=True)
    for task, decoder, *declared in rows:
        pairs = zip(COLUMNS[2:], declared, strict=True)
        table.add_row(task, decoder, "\n".join(f"{name}: {value}" for name, value in pairs if value))
    Console().print(table)


if __name__ == "__main__":
    main()

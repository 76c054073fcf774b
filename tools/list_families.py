"""List the families of LMMs that can be read, and how. Each is one whose tiny model the tests build."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
sys.path.insert(1, str(ROOT / "tests" / "lmm"))

EXAMPLES = """examples:
  python tools/list_families.py
  python tools/list_families.py --markdown > families.md
"""
COLUMNS = ("model type", "prompts", "input size", "image token", "tower features", "dense_hw")


def parse_options() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--markdown", action="store_true", help="print a Markdown table")
    return parser.parse_args()


def family_rows() -> list[tuple[str, ...]]:
    """Return a row per family, ordered by name: what the config of its tiny model makes of it."""
    from zoo import ZOO, build

    from lumen.lmm.families import FAMILIES
    from lumen.lmm.families.family import patch_stride

    rows = {}
    for name, tiny in ZOO.items():
        config, _ = build(name)
        keys = (f"{config.model_type}/{config.vision_config.model_type}", config.model_type)
        key = next(key for key in keys if key in FAMILIES)
        family, patch = FAMILIES[key], patch_stride(config)
        spec = family.input_spec(config)
        covered, step = spec.multiple // patch, family.vision_stride(config) // patch
        rows[key] = (
            key,
            "packed" if tiny.packs else "one by one",
            "the square of the tower" if spec.fixed_hw else "any multiple of an image token",
            f"{covered} x {covered} patches",
            "one per patch" if step == 1 else f"one per {step} x {step} patches",
            "yes" if family.encode_dense else "no",
        )
    return [rows[key] for key in sorted(rows)]


def markdown(rows: Sequence[Sequence[str]]) -> str:
    """Return rows as a Markdown table."""
    lines = [COLUMNS, ["---"] * len(COLUMNS), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def remarks() -> str:
    """Return how many model types there are, which do not fit and why, and which nobody has added yet."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES as KNOWN

    from lumen.lmm.families import FAMILIES, UNFIT

    read = {kind.partition("/")[0] for kind in FAMILIES} & set(KNOWN)
    rest = [f"`{kind}`" for kind in KNOWN if kind not in read | set(UNFIT)]
    return (
        f"{len(read)} of the {len(KNOWN)} model types of transformers that take an image and a text.\n\n"
        "Of another kind:\n\n"
        + "\n".join(f"- `{kind}`: {reason}" for kind, reason in sorted(UNFIT.items()))
        + f"\n\nNot added yet: {', '.join(rest)}."
    )


def main() -> None:
    """Print the table, and what is not in it."""
    from transformers import logging

    options = parse_options()
    logging.set_verbosity_error()
    rows = family_rows()
    if options.markdown:
        print(markdown(rows))
    else:
        from rich.console import Console
        from rich.table import Table

        table = Table(*COLUMNS)
        for row in rows:
            table.add_row(*row)
        Console().print(table)
    print(f"\n{remarks()}")


if __name__ == "__main__":
    main()

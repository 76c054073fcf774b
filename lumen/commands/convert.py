"""``lumen convert``: corrected annotations become a COCO file."""

from pathlib import Path
from typing import Annotated

import typer

from lumen.errors import DataError

EXAMPLES = (
    "Examples:",
    "lumen convert project-1-at-2026-01-31.json --out data/mine/train.json",
    "lumen convert project-1-at-2026-01-31.json star 'red ring' --out data/mine/train.json --images photos/",
)

Export = Annotated[Path, typer.Argument(help="JSON export of a Label Studio project.", show_default=False)]
Names = Annotated[
    list[str] | None,
    typer.Argument(metavar="NAME...", help="The categories, in this order; by default those that occur, by name."),
]
OutFile = Annotated[Path, typer.Option("--out", "-o", help="The COCO file; it must not exist.", show_default=False)]
Images = Annotated[
    Path | None, typer.Option(help="Folder of the images, for the sizes of those that the export does not tell.")
]


def convert(export: Export, out: OutFile, names: Names = None, images: Images = None) -> None:
    """Turn annotations that were made or corrected in Label Studio into a COCO file, to train on or to check against.

    Rectangles, polygons and brush masks are taken over; a task that nobody annotated is left out.
    """
    import json

    from lumen.data.annotations import parse_json
    from lumen.data.image import read_header
    from lumen.interop.label_studio_export import to_coco
    from lumen.serialization.atomic import write_text

    if out.exists():
        raise DataError(f"{out} exists; name a new file, or move that one away")
    read_size = None if images is None else lambda name: read_header(images / name)[0]
    content, left_out = to_coco(parse_json(export), names or (), read_size=read_size)
    if not content["images"]:
        raise DataError(f"{export} holds no annotation, {sum(left_out.values())} tasks without one")
    out.parent.mkdir(parents=True, exist_ok=True)
    write_text(out, json.dumps(content) + "\n")
    print(f"{len(content['images'])} pictures, {len(content['annotations'])} objects -> {out}")
    for reason, count in sorted(left_out.items()):
        if count:
            print(f"left out: {count} {reason}")

"""Files of an exported model or decoder: written as a whole, checked when read. ``pretrained`` states what they hold.

A folder has ``<kind>.json``, ``<kind>.safetensors`` and ``README.md``; that of a model may have a copy of its base
model in ``base``. Weights are safetensors and the rest is text, so that nothing in it can run.
"""

import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from lumen import __version__
from lumen.errors import CheckpointError, ConfigError, named_faults
from lumen.serialization.atomic import publish_folder, temporary_folder
from lumen.serialization.fingerprint import digest_tensors

FORMAT = 1
MODEL, DECODER = "model", "decoder"
BASE = "base"
COPIED_BASE = f"./{BASE}"
"""What ``model.json`` has in place of a base model's name where the folder holds a copy of it."""
BASE_FILES = ("*.json", "*.safetensors", "*.jinja", "*.txt", "tokenizer.model")
"""What is copied of a base model: no code, and no weights in a format that can hold code."""
_KEYS = {
    MODEL: ("model", "absent", "views", "classes", "description"),
    DECODER: ("decoder", "task", "stage", "fits"),
}


def write_folder(
    folder: Path,
    kind: str,
    content: Mapping[str, Any],
    state: Mapping[str, Tensor],
    *,
    readme: str,
    base: Path | None = None,
) -> Path:
    """Write a folder that appears complete or not at all.

    Args:
        folder: It must not exist, or be empty.
        kind: ``MODEL`` or ``DECODER``.
        content: What its json holds, as plain data.
        state: Its weights.
        readme: Its card.
        base: Folder of a base model of which a copy is written along.

    Raises:
        CheckpointError: The folder is in use or cannot be written.
        ConfigError: ``base`` is not a model in safetensors, or has a link that leads out of it.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise CheckpointError(f"{folder} exists: remove it, or name another folder")
    tensors = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in state.items()}
    content = {"format": FORMAT, "lumen_version": __version__, "digest": digest_tensors(tensors), **content}
    what = named_faults(f"{folder} cannot be written", CheckpointError, remedy="make room, or name another folder")
    with what, temporary_folder(folder) as temporary:
        save_file(tensors, temporary / f"{kind}.safetensors")
        (temporary / f"{kind}.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
        (temporary / "README.md").write_text(readme, encoding="utf-8")
        # safetensors makes files for their owner alone; these are to be shared.
        (temporary / f"{kind}.safetensors").chmod((temporary / "README.md").stat().st_mode)
        if base is not None:
            _copy_base(base, temporary / BASE)
        publish_folder(temporary, folder)
    return folder


def _copy_base(base: Path, target: Path) -> None:
    files = files_of(base, BASE_FILES)
    if not ((base / "config.json") in files and any(file.suffix == ".safetensors" for file in files)):
        raise ConfigError(
            f"the base model {base} cannot be copied: it is not a folder with config.json and *.safetensors; make "
            "such a folder with save_pretrained, or leave the copy out"
        )
    target.mkdir()
    for file in files:
        shutil.copyfile(file, target / file.name)


def files_of(folder: Path, patterns: Iterable[str]) -> list[Path]:
    """Return the files of a folder that is to be copied or published, by pattern and name.

    Raises:
        ConfigError: One is a link that leads out of the folder: a folder that came from elsewhere could name any file
            of this machine. Links of the cache of the hub to its own files are followed.
    """
    files = [file for pattern in patterns for file in sorted(folder.glob(pattern))]
    root = Path(os.path.realpath(folder))
    blobs = root.parents[1] / "blobs" if root.parent.name == "snapshots" else root
    for file in files:
        real = Path(os.path.realpath(file))
        if not (real.is_relative_to(root) or real.parent == blobs):
            raise ConfigError(
                f"{file} is a link to {real}, outside of {folder}: put the file itself there, or remove it"
            )
    return files


def read_folder(folder: Path, kind: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return the content of a folder and its weights, checked against each other.

    Raises:
        CheckpointError: A file is missing, damaged, of another format, or does not belong to the other.
    """
    names = [f"{kind}.json", f"{kind}.safetensors"]
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        raise CheckpointError(f"{folder} holds no {kind}: {missing} are missing; check the path")
    try:
        content = json.loads((folder / names[0]).read_text(encoding="utf-8"))
        state = load_file(folder / names[1])
    except (SafetensorError, OSError, ValueError, RecursionError) as error:
        raise CheckpointError(
            f"{folder} cannot be read ({error}): a file is truncated or damaged; copy it again"
        ) from error
    found = content.get("format") if isinstance(content, dict) else None
    if found != FORMAT:
        raise CheckpointError(f"{folder / names[0]} has format {found}, this version of Lumen reads {FORMAT}")
    expected = {*_KEYS[kind], "digest"}
    if not expected <= content.keys():
        raise CheckpointError(f"{folder / names[0]} lacks {sorted(expected - content.keys())}; copy it again")
    if digest_tensors(state) != content["digest"]:
        raise CheckpointError(f"{folder / names[1]} does not hold the weights that {names[0]} names; copy both again")
    return content, state


def models_named(node: Any, place: str) -> Iterator[tuple[str, str]]:
    """Yield where a config, as json holds it, names a further model, and its name or folder.

    Args:
        node: The config, or a part of one.
        place: Its name, with which the key paths start.
    """
    entries = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for key, value in entries:
        if key != "name_or_path":
            yield from models_named(value, f"{place}.{key}")
        elif value is not None:
            yield f"{place}.{key}", str(value)

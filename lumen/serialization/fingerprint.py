"""What a model or a data set was made from, as text that is stored and compared: digests and settings."""

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lumen.errors import CheckpointError, DataError, LumenError
from lumen.paths import find_path

# Settings that change neither features nor targets: where data lie, how much is computed at once.
_WITHOUT_EFFECT = frozenset(
    {
        "_scope_",
        "attention",
        "cache_mb",
        "data_prefix",
        "data_root",
        "gradient_checkpointing",
        "max_new_tokens",
        "name_tokens",
        "packing",
        "phrase_reconstruction",
        "skip_budget",
    }
)


def describe_settings(node: Any) -> str:
    """Return a config as one line of text, without what has no effect on features or targets.

    Classes and dotted paths become bare names, and an annotation file becomes the digest of its content, so that a
    moved data set stays the same data set.

    Raises:
        DataError: An annotation file is missing.
    """
    if isinstance(node, Mapping):
        root = find_path(node["data_root"]) if node.get("data_root") else ""
        # Sorted, so that the order in which a config names its keys does not matter.
        parts = {key: node[key] for key in sorted(node) if key not in _WITHOUT_EFFECT and key != "type"}
        if isinstance(parts.get("ann_file"), str):
            parts["ann_file"] = digest_file(os.path.join(root, parts["ann_file"]))
        described = {key: describe_settings(value) for key, value in parts.items()}
        # A group of options of which none has an effect counts as absent.
        inner = ", ".join(f"{key}={text}" for key, text in described.items() if text != "()")
        kind = node.get("type", "")
        return f"{kind.rpartition('.')[2] if isinstance(kind, str) else kind.__name__}({inner})"
    if isinstance(node, list | tuple):
        return f"[{', '.join(map(describe_settings, node))}]"
    return node.__name__ if isinstance(node, type) else repr(node)


def digest_file(path: Path | str) -> str:
    """Return the SHA-256 of a file.

    Raises:
        DataError: There is no such file.
    """
    try:
        with Path(path).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}); a cache is compared with its content") from error


def digest_tensors(tensors: Mapping[str, Tensor]) -> str:
    """Return the SHA-256 of named tensors: names, shapes, types and bytes."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        # Name, type and shape are included: equal bytes may stand for different tensors.
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def require_equal(
    recorded: Mapping[str, Any],
    found: Mapping[str, Any],
    complaint: str,
    *,
    remedy: str,
    error: type[LumenError] = CheckpointError,
) -> None:
    """Raise ``error`` unless two descriptions are equal; the message names every key that differs.

    Args:
        recorded: What was stored.
        found: What the running program has.
        complaint: First sentence of the message.
        remedy: Last sentence: what the user can do.
        error: Class of the error.
    """
    # A key that only one side has differs as well.
    different = [key for key in sorted(recorded.keys() | found.keys()) if recorded.get(key) != found.get(key)]
    if different:
        parts = "; ".join(f"{key}: {recorded.get(key)} there, {found.get(key)} here" for key in different)
        raise error(f"{complaint}. {parts}. {remedy}")

"""What a reader is to the fuzzer: how its inputs are made, and how one is read."""

import json
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lumen.errors import DataError
from soaking._mutate import mutated_bytes, mutated_json

Read = Callable[[bytes], Any]
"""Reads one input; raises an error of Lumen where it refuses it."""


@dataclass(frozen=True, slots=True)
class Reader:
    """A reader of files, texts or requests.

    Args:
        name: Its name in results.
        share: How many inputs it gets, as a part of the sum over all readers.
        mutate: Makes an input.
        prepare: Writes what the reader needs beside the input into a folder, and returns what reads an input.
    """

    name: str
    share: int
    mutate: Callable[[random.Random], bytes]
    prepare: Callable[[Path], Read]


def json_reader(name: str, share: int, content: Any, read: Callable[[Path], Any], **beside: Any) -> Reader:
    """Return the reader of a json file; ``beside`` holds further files by name, without ``.json``."""

    def prepare(folder: Path) -> Read:
        for stem, other in beside.items():
            (folder / f"{stem}.json").write_text(json.dumps(other))
        return _through(folder / "input.json", read)

    return Reader(name, share, lambda rng: mutated_json(content, rng), prepare)


def file_reader(
    name: str, share: int, contents: Sequence[bytes], read: Callable[[Path], Any], *, file: str, **beside: Any
) -> Reader:
    """Return the reader of a file of bytes; one of ``contents`` is changed for each input."""

    def prepare(folder: Path) -> Read:
        for stem, other in beside.items():
            (folder / f"{stem}.json").write_text(json.dumps(other))
        return _through(folder / file, read)

    return Reader(name, share, lambda rng: mutated_bytes(rng.choice(contents), rng), prepare)


def text_reader(name: str, share: int, texts: Sequence[str], read: Callable[[str], Any]) -> Reader:
    """Return the reader of texts in memory. Bytes that are not UTF-8 become halves of surrogate pairs."""
    contents = [text.encode() for text in texts]

    def prepare(folder: Path) -> Read:
        return lambda content: read(content.decode("utf-8", "surrogateescape"))

    return Reader(name, share, lambda rng: mutated_bytes(rng.choice(contents), rng), prepare)


def tree_reader(name: str, share: int, content: Any, read: Callable[[Any], Any]) -> Reader:
    """Return the reader of what json holds once it is parsed."""

    def parse(given: bytes) -> Any:
        try:
            tree = json.loads(given)
        except (ValueError, RecursionError) as error:
            raise DataError(f"not json: {error}") from error
        return read(tree)

    return Reader(name, share, lambda rng: mutated_json(content, rng), lambda folder: parse)


def _through(path: Path, read: Callable[[Path], Any]) -> Read:
    def write_and_read(content: bytes) -> Any:
        path.write_bytes(content)
        return read(path)

    return write_and_read

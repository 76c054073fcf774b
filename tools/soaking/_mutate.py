"""Inputs that are nearly right: trees of json with wrong nodes, and bytes with wrong bytes."""

import copy
import json
import random
from typing import Any

NASTY: list[Any] = [
    *(None, True, [], {}, [[]], "", " ", "\ud83d", "a\0b", "../x", "[LOC]", "<image>", "x" * 9000, {"a": {"b": []}}),
    *(0, -1, 1.5, 10**400, -(2**63), float("nan"), float("inf"), 1e308, 3, 2**53, [1, None], "1", "caf\u00e9", [0] * 5),
]
"""Values that a field of a file does not expect."""
WORDS = [
    *(b"\0", b"\xff", b"\xed\xa0\xbd", b"\r\n", b" ", b"{", b"}", b"[", b"]", b'"', b",", b"<", b">", b"(", b")"),
    *(b"-1", b"0", b"1e999", b"NaN", b"99999999999999999999", b"null", b"..", b"/", b"<image>", b"[LOC]", b"&", b"%s"),
    *(b"{{", b"}}", b"{%", b"%}", b"\xe2\x80\xae", b"\xf0\x9f\x90\xb6", b"\xef\xbb\xbf", b"0.5", b"0.999,0.5", b"\\u"),
]
"""Pieces of bytes that mean something to one reader or another."""


def places_of(node: Any, path: tuple = ()) -> list[tuple]:
    """Return the path of each node of a tree."""
    entries = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    return [path, *(place for key, value in entries for place in places_of(value, (*path, key)))]


def mutated_tree(content: Any, rng: random.Random) -> Any:
    """Return a copy in which one or two nodes are replaced, doubled or taken away."""
    tree = {"root": copy.deepcopy(content)}
    for _ in range(rng.choice([1, 1, 2])):
        *path, key = rng.choice(places_of(tree)[1:])
        parent: Any = tree
        for step in path:
            parent = parent[step]
        if rng.random() < 0.7:
            parent[key] = copy.deepcopy(rng.choice(NASTY))
        elif isinstance(parent, list):
            parent.insert(key, copy.deepcopy(parent[key]))
        else:
            del parent[key]
            if "root" not in tree:
                return None
    return tree["root"]


def mutated_json(content: Any, rng: random.Random) -> bytes:
    """Return json: three times in four a wrong tree, else the right tree with wrong bytes."""
    if rng.random() < 0.75:
        return json.dumps(mutated_tree(content, rng)).encode()
    return mutated_bytes(json.dumps(content).encode(), rng)


def mutated_bytes(content: bytes, rng: random.Random) -> bytes:
    """Return a copy with one to four changes: bytes set, put in, taken away, doubled, or the end cut off."""
    result = bytearray(content)
    for _ in range(rng.choice([1, 1, 2, 4])):
        place, length = rng.randrange(len(result) + 1), rng.choice([1, 1, 2, 4, 16])
        kind = rng.randrange(6)
        if kind == 0 and place < len(result):
            result[place] ^= 1 << rng.randrange(8)
        elif kind == 1 and place < len(result):
            result[place] = rng.randrange(256)
        elif kind == 2:
            result[place:place] = rng.choice(WORDS)
        elif kind == 3:
            del result[place : place + length]
        elif kind == 4:
            result[place:place] = result[place : place + length] * rng.choice([1, 2, 8])
        elif rng.random() < 0.3:
            del result[place:]
    return bytes(result)

"""Files, functions and constructors that a reader can take in at once."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FILES = sorted(file for folder in ("lumen", "projects", "tools") for file in (ROOT / folder).rglob("*.py"))
MAX_FILE_LINES = 400
MAX_FUNCTION_LINES = 50
MAX_CONSTRUCTOR_ARGUMENTS = 10


def functions_of(tree, prefix=""):
    """Yield the dotted name and the node of every function."""
    for node in ast.iter_child_nodes(tree):
        is_function = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        if is_function:
            yield prefix + node.name, node
        is_named = is_function or isinstance(node, ast.ClassDef)
        yield from functions_of(node, f"{prefix}{node.name}." if is_named else prefix)


def faults_of(source):
    """Return what is too large in a file; ``self`` is not an argument."""
    num_lines = len(source.splitlines())
    faults = [f"{num_lines} lines"] if num_lines > MAX_FILE_LINES else []
    for name, node in functions_of(ast.parse(source)):
        num_lines = node.end_lineno - node.lineno + 1
        num_arguments = len(node.args.posonlyargs + node.args.args + node.args.kwonlyargs) - 1
        if num_lines > MAX_FUNCTION_LINES:
            faults.append(f"{name} has {num_lines} lines")
        if node.name == "__init__" and num_arguments > MAX_CONSTRUCTOR_ARGUMENTS:
            faults.append(f"{name} takes {num_arguments} arguments")
    return faults


def test_nothing_is_too_large():
    assert [f"{file.relative_to(ROOT)}: {fault}" for file in FILES for fault in faults_of(file.read_text())] == []


@pytest.mark.parametrize(
    ("source", "faults"),
    [
        ("x = 1\n" * 400, []),
        ("x = 1\n" * 401, ["401 lines"]),
        ("def f():\n" + "    x = 1\n" * 49, []),
        ("class A:\n    async def f(self):\n" + "        x = 1\n" * 50, ["A.f has 51 lines"]),
        (
            "if x:\n    def f():\n        def g():\n" + "            x = 1\n" * 50,
            ["f has 52 lines", "f.g has 51 lines"],
        ),
        ("class A:\n    def __init__(self, a, b, c, d, e, f, g, h, i, *, j): ...", []),
        (
            "class A:\n    def __init__(self, a, b, c, d, e, /, f, g, h, i, *, j, k): ...",
            ["A.__init__ takes 11 arguments"],
        ),
    ],
)
def test_what_is_too_large_is_found(source, faults):
    assert faults_of(source) == faults

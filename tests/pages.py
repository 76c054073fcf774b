"""What a page of the documentation shows: its blocks of code, in order, and the commands in them; and the tools."""

import importlib.util
import re
import runpy
import shlex
import sys
from pathlib import Path

from lumen import cli

ROOT = Path(__file__).resolve().parents[1]


def blocks(text):
    """Return the language and the content of each block of code of a page, in order."""
    return re.findall(r"^```(\w*)\n(.*?)^```", text, flags=re.DOTALL | re.MULTILINE)


def written_file(block):
    """Return the path that the first line of a block names as its place, if it does."""
    named = re.match(r"# (\S+\.py)\n", block)
    return named and Path(named[1])


def snippets(text, language):
    return [content for name, content in blocks(text) if name == language]


def snippet(text, heading, language="python"):
    """Return the first block of code in a section of a page."""
    section = text.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    return section.partition(f"```{language}\n")[2].partition("```")[0]


def commands(text):
    """Return the shell commands of a page: lines of its bash blocks, and code within sentences, as lists of words."""
    lines = [line for block in snippets(text, "bash") for line in command_lines(block)]
    inline = re.findall(r"`([^`\n]+)`", re.sub(r"```.*?```", "", text, flags=re.DOTALL))
    return [
        words for words in (shlex.split(line, comments=True) for line in [*lines, *inline] if "python" in line) if words
    ]


def command_lines(block):
    """Return the commands of a bash block, one a line, without comments alone."""
    lines = block.replace("\\\n", " ").splitlines()
    return [line for line in lines if shlex.split(line, comments=True)]


def run(words, monkeypatch):
    """Run ``python tools/x.py ...`` or ``lumen ...`` in this process; return the exit status."""
    if words[0] == "python":
        words = words[1:]
    monkeypatch.setattr(sys, "argv", list(words))
    monkeypatch.setattr(sys, "path", [*sys.path])
    try:
        if words[0] == "lumen":
            cli.main()
        else:
            runpy.run_path(str(ROOT / words[0]), run_name="__main__")
    except SystemExit as stop:
        return stop.code or 0
    return 0


def load_tool(name):
    """Return a file of ``tools/`` as a module, such as ``train`` or ``benchmarks/seeds``."""
    spec = importlib.util.spec_from_file_location(Path(name).name, ROOT / "tools" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module

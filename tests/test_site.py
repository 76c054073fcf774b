"""The documentation as a site: links of pages to files of the repository, and a strict build."""

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def hooks():
    spec = importlib.util.spec_from_file_location("site_pages", ROOT / "docs" / "site_pages.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("source", "link", "rewritten"),
    [
        ("docs/results.md", "[a](tasks.md#wording)", "[a](tasks.md#wording)"),
        ("docs/results.md", "[a](../projects/ullava/README.md#x)", "[a](projects/ullava.md#x)"),
        ("docs/zero_shot.md", "[a](../README.md#your-lmm)", "[a](index.md#your-lmm)"),
        ("README.md", "![a](docs/assets/demo.png)", "![a](assets/demo.png)"),
        ("projects/ullava/README.md", "[a](../../docs/seeing_nano.md)", "[a](../seeing_nano.md)"),
        ("docs/notebooks/own_task.ipynb", "[a](../add_a_task.md)", "[a](../add_a_task.md)"),
        ("docs/results.md", "[a](https://arxiv.org/abs/2403.07304) [b](#here)", None),
        ("docs/results.md", "[a](../tools/gone.py)", None),
        ("docs/results.md", "```\n[a](../README.md)\n```\n", None),
    ],
)
def test_links_lead_to_pages(hooks, source, link, rewritten):
    assert hooks.rewrite_links(link, source, "") == (link if rewritten is None else rewritten)


def test_links_to_other_files_lead_to_the_repository_or_are_words(hooks):
    link = "see [the tool](../tools/train.py)"
    assert hooks.rewrite_links(link, "docs/results.md", "") == "see the tool"
    shown = "see [the tool](https://example.org/lumen/blob/main/tools/train.py)"
    assert hooks.rewrite_links(link, "docs/results.md", "https://example.org/lumen/") == shown


def test_the_navigation_has_every_page(hooks):
    nav = (ROOT / "mkdocs.yml").read_text(encoding="utf-8").partition("\nnav:\n")[2].partition("\n\n")[0]
    files = [*(ROOT / "docs").rglob("*.md"), *(ROOT / "docs").rglob("*.ipynb"), *hooks.readme_files()]
    named = re.findall(r"[\w/]+\.(?:md|ipynb)$", nav, flags=re.MULTILINE)
    assert sorted(named) == sorted(hooks.page_of(path.relative_to(ROOT).as_posix()) for path in files)


def test_the_reference_has_every_part_of_the_package(hooks):
    parts = {path.parent.name for path in (ROOT / "lumen").glob("*/__init__.py")}
    assert set(hooks.TITLES) == parts
    assert "::: lumen.decoders.base\n" in hooks.package_page("decoders", "Decoders")


@pytest.mark.slow
def test_the_site_builds_strictly(tmp_path):
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    pages = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("index.html")}
    assert {"index.html", "projects/ullava/index.html", "notebooks/quick_start/index.html"} <= pages
    reference = (tmp_path / "api" / "inference" / "index.html").read_text(encoding="utf-8")
    assert 'id="lumen.inference.predictor.LumenPredictor.set_image"' in reference

"""What the README shows is what lies in the repository."""

from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", ["example_decoder.py", "example_nano_shapes.py"])
def test_the_plug_in_is_shown_in_full(name):
    assert (ROOT / "projects" / "example_decoder" / name).read_text(encoding="utf-8").strip() in README


def test_files_that_the_readme_names_exist():
    words = {word.strip("`,.;:()") for word in README.split()}
    named = [word for word in words if word.startswith(("tools/", "configs/", "projects/", "docs/", "tests/"))]
    missing = [word for word in named if "*" not in word and not (ROOT / word).exists()]
    assert missing == []

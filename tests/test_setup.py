"""What the set-up promises: pinned versions, no compiler for the demo, a lint of just what git tracks."""

import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
BUILT_FROM_SOURCE = ("onedl-mmcv", "onedl-mmdetection")


def normalised(name):
    return re.sub("[-_.]+", "-", name).lower()


def make(*words, cwd=ROOT):
    return subprocess.run(["make", *words], cwd=cwd, capture_output=True, text=True, timeout=300)


@pytest.mark.parametrize("extra", sorted(PROJECT["optional-dependencies"]))
def test_what_an_extra_pins_is_what_the_constraints_pin(extra):
    constraints = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pinned = {normalised(name): version for name, _, version in (line.partition("==") for line in constraints)}
    for requirement in PROJECT["optional-dependencies"][extra]:
        name, _, version = requirement.partition("==")
        assert pinned[normalised(name.partition("[")[0])] == version


def test_the_demo_installs_wheels_only_and_neither_mmcv_nor_mmdet(tmp_path):
    steps = make("--dry-run", "demo", f"VENV={tmp_path}", "PYTHON=python3").stdout
    installs = [line for line in steps.splitlines() if "pip install" in line]
    assert installs and all("--only-binary :all:" in line for line in installs)
    extras = set(re.search(r"\.\[(.*?)\]", steps)[1].split(","))
    assert extras == {"train"}
    needed = [*PROJECT["dependencies"], *PROJECT["optional-dependencies"]["train"]]
    assert not any(requirement.startswith(BUILT_FROM_SOURCE) for requirement in needed)


def test_a_python_that_does_not_fit_is_named(tmp_path):
    done = make(f"{tmp_path}/.ready-demo", f"VENV={tmp_path}", "PYTHON=no-such-python")
    assert done.returncode != 0
    assert "Python 3.11, 3.12 or 3.13" in done.stdout and "no-such-python" in done.stdout


@pytest.fixture
def checkout(tmp_path):
    """Return a folder with the files that make reads."""
    for name in ("Makefile", ".gitignore", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, tmp_path)
    return tmp_path


def test_lint_reads_what_git_tracks_and_nothing_else(checkout):
    for name in ("kept.py", "build/tracked_though_ignored.py", "not_tracked.py"):
        (checkout / name).parent.mkdir(exist_ok=True)
        (checkout / name).touch()
    for words in (["init", "-q"], ["add", "--force", "kept.py", "build"]):
        subprocess.run(["git", *words], cwd=checkout, check=True)
    steps = make("--dry-run", "lint", "PYTHON=python3", cwd=checkout).stdout
    checked = [line.split(maxsplit=2)[2] for line in steps.splitlines() if "/ruff check" in line]
    assert checked == ["build/tracked_though_ignored.py kept.py"]


def test_lint_without_git_fails(checkout):
    done = make("--dry-run", "lint", "PYTHON=python3", cwd=checkout)
    assert done.returncode != 0
    assert "lint checks the files that git tracks" in done.stderr


def test_the_wheel_holds_every_file_that_is_no_code():
    patterns = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"][
        "package-data"
    ]
    held = {file for pattern in patterns["lumen"] for file in (ROOT / "lumen").glob(pattern)}
    listed = subprocess.run(["git", "ls-files", "lumen"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    others = {ROOT / name for name in listed.splitlines() if not name.endswith(".py")}
    assert others and others <= held

"""Where packages with real weights lie."""

import importlib.util
from pathlib import Path

import pytest

INSTALL = "make real"


def package_folder(name):
    """Return the folder of a package, without importing it; skip where it is absent."""
    found = importlib.util.find_spec(name)
    if found is None or not found.submodule_search_locations:
        pytest.skip(f"the package {name} is absent: {INSTALL}")
    return Path(found.submodule_search_locations[0])

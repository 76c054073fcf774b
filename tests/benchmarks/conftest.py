import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

FOLDER = Path(__file__).resolve().parents[2] / "tools" / "benchmarks"


@pytest.fixture
def load_benchmark(monkeypatch) -> Callable[[str], ModuleType]:
    monkeypatch.syspath_prepend(str(FOLDER))
    # The scripts put the checkout on the path themselves; that must not outlive the test.
    monkeypatch.setattr(sys, "path", list(sys.path))
    return importlib.import_module

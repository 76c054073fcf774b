import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture
def run_tool():
    """Return a function that runs a file of ``tools/`` as a user does."""
    tools = Path(__file__).resolve().parents[2] / "tools"

    def run(name, *arguments, cwd):
        command = [sys.executable, tools / name, *map(str, arguments)]
        return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=300)

    return run

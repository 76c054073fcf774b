import subprocess
import sys
from pathlib import Path

import pytest
from mmengine.logging import MessageHub, MMLogger

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(autouse=True)
def _close_loggers():
    """Close the log files of the runners that a test has built; open ones are warnings, which are errors."""
    yield
    for logger in MMLogger._instance_dict.values():
        for handler in list(logger.handlers):
            handler.close()
    MMLogger._instance_dict.clear()
    MessageHub._instance_dict.clear()


@pytest.fixture
def run_tool():
    """Return a function that runs a file of ``tools/`` as a user does."""
    tools = Path(__file__).resolve().parents[2] / "tools"

    def run(name, *arguments, cwd):
        command = [sys.executable, tools / name, *map(str, arguments)]
        return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=300)

    return run

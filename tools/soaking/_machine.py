"""What a figure was measured with."""

import os
import platform
from functools import cache

from experiments.calls import commit


@cache
def provenance() -> dict[str, str]:
    """Return commit and machine."""
    system = f"Linux {platform.release()}, Python {platform.python_version()}"
    return {"commit": commit(), "machine": f"{platform.machine()}, {os.cpu_count()} cores, {system}"}

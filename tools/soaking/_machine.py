"""What a figure was measured with."""

import os
import platform
from functools import cache

from experiments.calls import commit


@cache
def provenance() -> dict[str, str]:
    """Return commit and machine."""
    release = platform.release().partition("-")[0]  # the rest names a build
    system = f"{platform.system()} {release}, Python {platform.python_version()}"
    return {"commit": commit(), "machine": f"{platform.machine()}, {os.cpu_count()} cores, {system}"}

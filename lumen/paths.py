"""Where relative paths lead: the current folder, the folder named by ``LUMEN_DATA``, or the checkout's root."""

import os
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parent.parent


def find_path(path: str | Path) -> str:
    """Return the first place that holds ``path``, so that tools run from any folder.

    Tried in turn: the path itself, below ``$LUMEN_DATA``, below the checkout that this package lies in. A path that
    exists nowhere is returned unchanged: it may be a model id, and whoever opens it says what is missing.
    """
    roots = [Path(), CHECKOUT]
    if os.environ.get("LUMEN_DATA"):
        roots.insert(1, Path(os.environ["LUMEN_DATA"]))
    for root in roots:
        if (root / path).exists():
            return str(root / path)
    return str(path)

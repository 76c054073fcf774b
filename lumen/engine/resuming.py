"""Whether a run can continue from a checkpoint, and with which random numbers."""

import difflib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mmengine.dist import get_rank, get_world_size

from lumen.errors import CheckpointError


def require_resumable(checkpoint: dict[str, Any], filename: str | Path, *, seed: int) -> None:
    """Check that a checkpoint holds a run, not weights alone, and one with this seed.

    Raises:
        CheckpointError: It does not.
    """
    lacking = {"optimizer", "rng", "hooks"} - checkpoint.keys()
    if lacking:
        raise CheckpointError(f"{filename} lacks {sorted(lacking)}: it holds weights only; use load_from")
    meta = checkpoint["meta"]
    # The order of the data and its augmentation follow the seed: another one would be another run.
    if meta["seed"] != seed:
        raise CheckpointError(
            f"{filename} was trained with seed {meta['seed']}, this run has {seed}; pass --seed {meta['seed']}"
        )
    if type(meta["iter"]) is not int or meta["iter"] < 0:
        raise CheckpointError(f"{filename} is damaged: its iteration is {meta['iter']!r}")


def rng_of_rank(states: list[dict[str, Any]] | dict[str, Any], warn: Callable[[str], None]) -> dict[str, Any] | None:
    """Return the generators of this rank; None, so that it draws afresh, where the run had fewer ranks."""
    states = [states] if isinstance(states, dict) else states  # older checkpoints hold those of rank 0 alone
    if len(states) != get_world_size():
        warn(
            f"the checkpoint was written by {len(states)} ranks, this run has {get_world_size()}: it does not continue "
            "with the same bits"
        )
    return states[get_rank()] if get_rank() < len(states) else None


def warn_about_config(recorded: str, present: str, warn: Callable[[str], None]) -> None:
    """Tell how the stored config differs. It is compared as text: executing it would run code of unknown origin."""
    pair = recorded.splitlines(), present.splitlines()
    changes = list(difflib.unified_diff(*pair, "checkpoint", "now", lineterm="", n=0))
    if changes:
        warn("the config differs from the checkpoint's:\n" + "\n".join(changes))

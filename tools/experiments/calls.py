"""Training and evaluation by tools/train.py and tools/test.py, each in a process of its own, and what a run was."""

import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from lumen.errors import ConfigError
from lumen.paths import find_path
from lumen.serialization.fingerprint import digest_file

ROOT = Path(__file__).resolve().parents[2]
_LAST_LINES = 15
_WEIGHTS = "model.safetensors"


def call(
    tool: str,
    config: Path,
    *words: object,
    work: Path,
    seed: int,
    changes: Mapping[str, object],
    options: Sequence[str],
) -> None:
    """Run tools/train.py or tools/test.py; what it prints goes into ``output.log`` of its work folder.

    Exits with its code where it fails, after its last lines.

    Args:
        tool: Name of the tool's file.
        config: The config.
        words: Further words of the command.
        work: Its work folder.
        seed: Seed of the run.
        changes: Settings to change, by key path.
        options: Further changes, as ``--cfg-options`` takes them.
    """
    overrides = [*(f"{key}={value}" for key, value in changes.items()), *options]
    command = [ROOT / "tools" / tool, config, *words, "--work-dir", work, "--seed", seed]
    command += ["--cfg-options", *overrides] if overrides else []
    work.mkdir(parents=True, exist_ok=True)
    log = work / "output.log"
    with log.open("a", encoding="utf-8") as file:
        done = subprocess.run([sys.executable, *map(str, command)], stdout=file, stderr=subprocess.STDOUT, check=False)
    if done.returncode:
        say("\n".join([*log.read_text(encoding="utf-8").splitlines()[-_LAST_LINES:], f"{tool} failed, see {log}"]))
        sys.exit(done.returncode)


def find_start(base: Path, hint: str) -> Path:
    """Return the folder of the model that runs start from; looked for in the current folder, then in the checkout.

    Raises:
        ConfigError: There is no model at ``base``; ``hint`` says how one is made.
    """
    found = Path(find_path(base))
    if not (found / _WEIGHTS).is_file():
        raise ConfigError(f"{base} holds no model: {hint}, or name it with --base")
    return found.resolve()


def digest_of_start(base: Path) -> str:
    """Return a short digest of the weights in a folder."""
    return digest_file(base / _WEIGHTS)[:8]


def cost_of(checkpoint: Mapping[str, Any]) -> dict[str, float]:
    """Return what a training cost: ``steps``, ``clock_used`` (CPU seconds / 2) and trained ``parameters``."""
    meta = checkpoint["meta"]
    return {
        "steps": meta["iter"],
        "clock_used": meta["cpu_seconds"]["train"] / 2,
        "parameters": trained_parameters(checkpoint),
    }


def trained_parameters(checkpoint: Mapping[str, Any]) -> int:
    """Return how many numbers were trained: the optimizer keeps something of the size of each parameter."""
    kept = checkpoint["optimizer"]["state"].values()
    return sum(max(value.numel() for value in of_one.values() if isinstance(value, Tensor)) for of_one in kept)


def commit() -> str:
    """Return the commit of the checkout, marked where files were changed since."""
    command = ["git", "-C", str(ROOT), "describe", "--always", "--dirty", "--exclude", "*"]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def say(text: str) -> None:
    """Print progress at once."""
    print(text, flush=True)

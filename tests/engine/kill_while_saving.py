"""Kill a training run inside its saves, many times, and check that it always resumes: ``python x.py FOLDER KILLS``."""

import os
import random
import signal
import sys
import time
import warnings
from pathlib import Path
from types import SimpleNamespace

sys.path[:0] = [str(Path(__file__).resolve().parents[2]), str(Path(__file__).resolve().parent)]
warnings.simplefilter("ignore")

import torch  # noqa: E402
from toy import make_runner  # noqa: E402

from lumen.engine.hooks import SafeCheckpointHook  # noqa: E402
from lumen.serialization import atomic, checkpoint  # noqa: E402

MAX_ITERS = 30
PAUSE = 0.004


def slow_down_saves() -> None:
    """Write half a file, wait, write the rest, and wait before each of the steps that follow."""
    save, replace, fsync = torch.save, os.replace, os.fsync

    def slow_save(value, file):
        start = file.tell()
        save(value, file)
        file.flush()
        size = file.tell() - start
        file.seek(start)
        content = Path(file.name).read_bytes()
        file.truncate(start)
        file.write(content[: size // 2])
        file.flush()
        time.sleep(PAUSE)
        file.write(content[size // 2 :])

    def slow(function):
        def wrapped(*arguments):
            time.sleep(PAUSE)
            return function(*arguments)

        return wrapped

    checkpoint.torch = type("SlowTorch", (), {"save": staticmethod(slow_save), "load": staticmethod(torch.load)})
    # All of `os`, with two of its functions slower; the module itself stays as it is.
    slowed = {"replace": slow(replace), "fsync": slow(fsync)}
    atomic.os = SimpleNamespace(**{**vars(os), **slowed})


def train(folder: Path) -> None:
    """Train to the end, from where the last run stopped."""
    hooks = {"checkpoint": {"type": SafeCheckpointHook, "interval": 1, "max_keep": 1}, "logger": None}
    make_runner(folder, max_iters=MAX_ITERS, resume=True, default_hooks=hooks, log_level="ERROR").train()


def start(folder: Path) -> int:
    """Train in a forked process with slow saves."""
    child = os.fork()
    if child == 0:
        slow_down_saves()
        train(folder)
        os._exit(0)
    return child


def wait_for_a_save(folder: Path, child: int) -> bool:
    """Wait until a save of a file has begun; False when the run has ended before."""
    while not list(folder.glob(f"{atomic.TEMPORARY}iter_*")):
        if os.waitpid(child, os.WNOHANG) != (0, 0):
            return False
        time.sleep(0.0005)
    return True


def main(folder: Path, num_kills: int) -> None:
    """Kill, check, go on; then compare with a run that was never killed."""
    rng = random.Random(0)
    kills = inside = 0
    (folder / "killed").mkdir()
    while kills < num_kills:
        child = start(folder / "killed")
        while (checkpoint.find_checkpoint(folder / "killed") is None) and not os.waitpid(child, os.WNOHANG)[0]:
            time.sleep(0.002)
        if not wait_for_a_save(folder / "killed", child):
            break
        time.sleep(rng.uniform(0.0, 6 * PAUSE))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        kills += 1
        inside += bool(list((folder / "killed").glob(f"{atomic.TEMPORARY}*")))
        checkpoint.load_checkpoint(checkpoint.find_checkpoint(folder / "killed"))
    train(folder / "killed")
    train(folder / "whole")
    states = [checkpoint.load_checkpoint(folder / name / f"iter_{MAX_ITERS}.pth") for name in ("killed", "whole")]
    first, second = (state["state_dict"] for state in states)
    if not all(torch.equal(first[name], second[name]) for name in first):
        raise SystemExit("the killed run ended with other weights")
    print(f"{kills} kills inside a save, {inside} of them left a temporary file behind")


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))

"""Kill ``lumen label`` again and again with SIGKILL, and check that no picture is lost or labelled twice."""

import argparse
import os
import random
import signal
import sys
import tempfile
import time
import traceback
from pathlib import Path
from types import SimpleNamespace

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from lumen.inference.labelling.job import part_path, read_job  # noqa: E402
from lumen.inference.labelling.merge import SUMMARY, merge_parts  # noqa: E402
from lumen.inference.labelling.run import Effort  # noqa: E402
from lumen.inference.labelling.start import label_source  # noqa: E402
from lumen.inference.predictor import LumenPredictor  # noqa: E402
from lumen.inference.reports import Request  # noqa: E402
from lumen.serialization.atomic import TEMPORARY  # noqa: E402

FORMATS = ("coco", "yolo")
EXAMPLES = """examples:
  python tools/benchmarks/label_kills.py exported/ photos/ --kills 200
  python tools/benchmarks/label_kills.py exported/ photos/ --phrases star ring --kills 20 --seed 1
"""


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path, help="folder that tools/export.py wrote")
    parser.add_argument("source", type=Path, help="pictures; a few dozen are enough")
    parser.add_argument("--phrases", nargs="+", default=["star", "red ring"], help="what to label (default: two)")
    parser.add_argument("--kills", type=int, default=200, help="how often (default: 200)")
    parser.add_argument("--seed", type=int, default=0, help="of the moments (default: 0)")
    return parser.parse_args()


def label(predictor: LumenPredictor, source: Path, phrases: list[str], folder: Path) -> None:
    """Label a source from where it was ended, and write the files."""
    request = Request(tuple(phrases), "detection", 0.0)
    opened = SimpleNamespace(open=lambda: predictor)  # a model that needs no loading
    options = {"part_size": 4, "effort": Effort(batch_size=2, workers=2)}
    label_source((source, None), request, opened, folder, formats=FORMATS, **options)
    merge_parts(folder, FORMATS)


def files_of(folder: Path) -> dict[str, bytes]:
    """Return the content of the files of a job, without locks and what a killed process left."""
    files = (path for path in folder.rglob("*") if path.is_file() and not path.name.startswith("."))
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def run_and_kill(args: argparse.Namespace, predictor: LumenPredictor, folder: Path, seconds: float) -> bool:
    """Label in a process of its own, kill it after some seconds, and return whether it was killed.

    The process is forked, so that the moments fall into its work and not into the loading of the model.

    Raises:
        RuntimeError: It failed by itself.
    """
    child = os.fork()
    if child == 0:
        code = 1
        try:
            label(predictor, args.source, args.phrases, folder)
            code = 0
        finally:  # the child must not go on as the parent
            if code:
                traceback.print_exc()
            os._exit(code)
    time.sleep(seconds)
    os.kill(child, signal.SIGKILL)
    status = os.waitpid(child, 0)[1]
    if os.WIFEXITED(status) and os.WEXITSTATUS(status):
        raise RuntimeError(f"the process ended by itself with code {os.WEXITSTATUS(status)}")
    return os.WIFSIGNALED(status)


def check_parts(folder: Path, expected: dict[str, bytes]) -> int:
    """Return how many parts there are; each must be whole, whenever the process was killed."""
    parts = {name: content for name, content in files_of(folder).items() if name.startswith("parts/")}
    broken = [name for name, content in parts.items() if content != expected[name]]
    if broken:
        raise RuntimeError(f"parts differ from those of a job that was not killed: {broken}")
    if (folder / SUMMARY).exists() and len(parts) < read_job(folder).num_parts:
        raise RuntimeError("the summary is there before all parts are")
    return len(parts)


def main() -> None:
    """Kill at random moments until there were enough kills; each job that is finished is compared as a whole."""
    args = parse_args()
    moments = random.Random(args.seed)
    predictor = LumenPredictor.from_pretrained(args.model, device="cpu")
    with tempfile.TemporaryDirectory() as place:
        whole = Path(place) / "whole"
        label(predictor, args.source, args.phrases, whole)
        start = time.perf_counter()
        label(predictor, args.source, args.phrases, Path(place) / "again")
        seconds, expected = time.perf_counter() - start, files_of(whole)
        num_parts = sum(part_path(whole, number).exists() for number in range(read_job(whole).num_parts))
        kills, jobs, between, leftovers = 0, 0, set(), 0
        while kills < args.kills:
            folder = Path(place) / f"job-{jobs}"
            while kills < args.kills and run_and_kill(args, predictor, folder, moments.uniform(0, seconds / 2)):
                kills += 1
                between.add(check_parts(folder, expected))
                leftovers += any(folder.rglob(f"{TEMPORARY}*"))
            label(predictor, args.source, args.phrases, folder)
            if files_of(folder) != expected:
                raise RuntimeError(f"a job that was killed {kills} times differs from one that was not")
            jobs += 1
    print(
        f"{kills} kills, {jobs} jobs, each equal to one that was not killed; killed with {sorted(between)} of "
        f"{num_parts} parts done, {leftovers} times while a file was being written"
    )


if __name__ == "__main__":
    main()

"""Reliability: what kills, wrong files, hostile files, threads and full disks do to Lumen, with counts.

Results are lines of OUT/results.jsonl; what is in there is not done again. docs/reliability.md
says what each part does. The exit code is 1 where a part finds a fault.
"""

import argparse
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from experiments.results import Results

os.environ |= {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}  # processes are forked, which threads do not survive
ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
sys.path.insert(0, str(ROOT / "tools"))

EXAMPLES = """examples:
  python tools/soak.py kill --kills 1000
  python tools/soak.py fuzz --count 1000000
  python tools/soak.py fuzz --count 10000 --reader COCO LVIS --seed 1
  python tools/soak.py hostile
  python tools/soak.py threads --answers 10000 --threads 8
  python tools/soak.py disk
  python tools/soak.py table --write docs/reliability.md
"""


def parse_options() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parts = parser.add_subparsers(dest="part", required=True)
    kill = parts.add_parser("kill", help="trainings that are killed and resumed")
    kill.add_argument("--kills", type=int, default=100, help="kills in the results, at least [%(default)s]")
    fuzz = parts.add_parser("fuzz", help="mutated inputs for all readers")
    fuzz.add_argument("--count", type=int, default=100_000, help="inputs in all [%(default)s]")
    fuzz.add_argument("--round", type=int, default=20_000, help="inputs of a round over all readers [%(default)s]")
    fuzz.add_argument("--reader", nargs="+", default=[], help="readers whose name starts so [all]")
    hostile = parts.add_parser("hostile", help="files made to run code, fill the memory or never end")
    hostile.add_argument("--file", nargs="+", default=[], help="files whose name starts so [all]")
    threads = parts.add_parser("threads", help="answers of one predictor under several threads")
    threads.add_argument("--answers", type=int, default=10_000, help="answers in all [%(default)s]")
    threads.add_argument("--threads", type=int, default=8, help="threads [%(default)s]")
    disk = parts.add_parser("disk", help="full disks and read-only folders")
    disk.add_argument("--writer", nargs="+", default=[], help="writers whose name starts so [all]")
    table = parts.add_parser("table", help="print the tables; nothing is run")
    table.add_argument("--write", type=Path, metavar="FILE", help="put them between the marks of this Markdown file")
    for part in (kill, fuzz, threads):
        part.add_argument("--seed", type=int, default=0, help="of moments, mutations and questions [%(default)s]")
    for part in (kill, fuzz, hostile, threads, disk, table):
        part.add_argument(
            "--out", type=Path, default=Path("work_dirs/soak"), help="folder of the results [%(default)s]"
        )
        part.add_argument("--debug", action="store_true", help="show the full traceback of an error")
    return parser.parse_args()


def main(options: argparse.Namespace) -> None:
    """Do what is asked for."""
    from experiments.results import Results
    from soaking._tables import all_tables, count_faults

    results = Results(options.out / "results.jsonl")
    if options.part == "table":
        from experiments.tables import write_between_marks

        text = all_tables(results)
        print(text)
        if options.write is not None:
            write_between_marks(options.write, text)
        return
    num_rows = len(results.rows)
    run_part(options, results)
    if count_faults(results.rows[num_rows:]):
        sys.exit(1)


def run_part(options: argparse.Namespace, results: "Results") -> None:
    """Run one part."""
    import torch

    torch.set_num_threads(1)
    if options.part == "kill":
        from soaking._kill import soak_kills

        soak_kills(results, kills=options.kills, seed=options.seed)
    elif options.part == "fuzz":
        from soaking._fuzz import fuzz
        from soaking._readers import all_readers

        readers = chosen(all_readers(), options.reader)
        fuzz(results, readers, count=options.count, round_size=options.round, seed=options.seed)
    elif options.part == "hostile":
        from soaking._hostile import soak_hostile
        from soaking._hostile_files import all_files

        soak_hostile(results, chosen(all_files(), options.file))
    elif options.part == "threads":
        from soaking._threads import soak_threads

        soak_threads(results, answers=options.answers, threads=options.threads, seed=options.seed)
    else:
        from soaking._disk import soak_disk
        from soaking._writers import all_writers

        soak_disk(results, chosen(all_writers(), options.writer))


def chosen(parts: list, starts: list[str]) -> list:
    """Return the parts whose name starts with one of the words; all where there are none.

    Raises:
        ConfigError: There is no such part.
    """
    from lumen.errors import ConfigError

    found = [part for part in parts if part.name.startswith(tuple(starts) or "")]
    if not found:
        raise ConfigError(f"nothing starts with {starts}; there are {[part.name for part in parts]}")
    return found


if __name__ == "__main__":
    from lumen.engine.tool import run_tool

    run_tool(main, parse_options())

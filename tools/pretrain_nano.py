"""Pretrain the seeing nano: tower, connector, LLM, all together. Continues where it was interrupted.

Each stage is a config of configs/nano, run by tools/train.py in a folder of its own; a stage that is done is left out.
The result is the folder OUT/model, which name_or_path takes.
"""

import argparse
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

STAGES = ("tower", "connector", "llm", "joint")

EXAMPLES = """examples:
  python tools/pretrain_nano.py
  python tools/pretrain_nano.py --max-iters 2 --out /tmp/trial
  python tools/pretrain_nano.py --seed 1 --out work_dirs/nano_seed1
"""


def parse_options() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("work_dirs/nano"), help="folder of the stages [%(default)s]")
    parser.add_argument("--seed", type=int, default=0, help="seed of weights and runs [%(default)s]")
    parser.add_argument("--max-iters", type=int, help="iterations of each stage, for a trial [those of its config]")
    parser.add_argument("--debug", action="store_true", help="show the full traceback of an error")
    return parser.parse_args()


def main(options: argparse.Namespace) -> None:
    """Run the stages that are not done, then write the model."""
    from lumen.lmm.nano.export import export_nano
    from lumen.serialization.atomic import publish_folder, temporary_folder
    from lumen.serialization.checkpoint import load_checkpoint

    base = options.out.resolve() / "blank"
    if not base.exists():
        call("make_nano.py", "--out", base, "--llm-layers", "4", "--tied", "--seeing", "--seed", options.seed)
    last = None
    for stage in STAGES:
        last = run_stage(stage, options, base, last)
    checkpoint = load_checkpoint(last)
    out = options.out.resolve() / "model"
    with temporary_folder(out) as folder:
        export_nano(base, checkpoint["state_dict"], folder, dialect="corner_words")
        publish_folder(folder, out, replace=True)
    print(f"wrote {options.out / 'model'}")


def run_stage(stage: str, options: argparse.Namespace, base: Path, last: Path | None) -> Path:
    """Train one stage unless it is done, and return its last checkpoint."""
    from lumen.engine.check_config import load_config

    config = ROOT / "configs" / "nano" / f"{stage}_nano_shapes.py"
    folder = options.out.resolve() / stage
    length = options.max_iters or load_config(config, tool_root=ROOT)["train_cfg"]["max_iters"]
    done = folder / f"iter_{length}.pth"
    if done.is_file():
        print(f"{stage}: done, {done}")
        return done
    start = [] if last is None else [f"load_from={last}"]
    overrides = [f"model.lmm.name_or_path={base}", f"train_cfg.max_iters={length}", *start]
    call("train.py", config, "--work-dir", folder, "--seed", options.seed, "--resume", "--cfg-options", *overrides)
    return done


def call(tool: str, *arguments: object) -> None:
    """Run another tool; exit with its code where it fails."""
    done = subprocess.run([sys.executable, ROOT / "tools" / tool, *map(str, arguments)], check=False)
    if done.returncode:
        sys.exit(done.returncode)


if __name__ == "__main__":
    from lumen.engine.tool import run_tool

    run_tool(main, parse_options())

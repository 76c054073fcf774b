"""What a model forgets when it learns new names: AP of the old names, and answers in words, before and after.

The packaged nano learns to box some names of shapes, with its LMM frozen. From there it learns the other names, shown
alone, in three ways: ``frozen``, nothing in the LMM learns; ``lora``, low-rank adapters beside its LLM; ``whole``, its
tower and its LLM. Each time all names are asked on the val split, and its questions are answered in words.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean

from mmengine.logging import MMLogger

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from _timing import print_table

from lumen.engine.check_config import load_config
from lumen.engine.hooks.cpu_clock import process_tree_seconds
from lumen.engine.runner import LumenRunner
from lumen.serialization.atomic import write_text
from lumen.tuning.base import Base
from lumen.tuning.recipe import TUNES, tune_lines

ROOT = Path(__file__).resolve().parents[2]
OLD = ("circle", "square", "triangle", "star", "cross")
NEW = ("ring", "heart", "arrow")
QUESTIONS = "vqa/accuracy"
BASE = Base("nano", is_nano=True)
EXAMPLES = """examples:
  OMP_NUM_THREADS=1 python tools/benchmarks/forgetting.py --out forgetting.json
  OMP_NUM_THREADS=1 python tools/benchmarks/forgetting.py --old-steps 1000 --new-steps 500 --tunes frozen lora
"""
CONFIG = '''"""{tune} on {names}."""

from mmengine.config import read_base

from lumen.data.text import AskQuestions, QuestionsDataset
from lumen.decoders.text import VqaDecoder
from lumen.metrics.text import VqaMetric

with read_base():
    from lumen.recipes.detection import *
    from lumen.recipes.packaged_nano import *

_lmm["generation"] = dict(max_new_tokens=8)
model["lmm"], model["aligner"], model["input_hw"] = _lmm, _aligner, (160, 160)
model["decoders"].append(dict(type=VqaDecoder))
{tuning}
_files = dict(data_root={data!r}, skip_budget=0.01)
_train.update(_files, ann_file="annotations/instances_train.json", data_prefix=dict(img="train"), classes={names!r})
_val.update(_files, ann_file="annotations/instances_val.json", data_prefix=dict(img="val"))
train_dataloader.update(batch_size=16, num_workers=0, persistent_workers=False)
val_dataloader.update(num_workers=0)
_texts = dict(
    type=QuestionsDataset,
    data_root={data!r},
    ann_file="annotations/questions_val.json",
    data_prefix=dict(img="val"),
    test_mode=True,
    pipeline=[_load, _val_resize, dict(type=AskQuestions, shuffle=False), _pack],
)
test_dataloader = {{key: val_dataloader[key] for key in ("num_workers", "collate_fn", "sampler")}}
test_dataloader.update(batch_size=16, dataset=_texts)
test_evaluator = dict(type=VqaMetric)
test_cfg = dict(dtype="bfloat16")
train_cfg = dict(max_iters={steps})
load_from = {load_from!r}
'''


def main() -> None:
    """Train on the old names, then on the new ones in each way; print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", default="data/shapes", help="folder of shapes (default: %(default)s)")
    parser.add_argument("--old-steps", type=int, default=200, help="steps on the old names (default: %(default)s)")
    parser.add_argument("--new-steps", type=int, default=120, help="steps on the new names (default: %(default)s)")
    parser.add_argument("--tunes", nargs="+", choices=TUNES, default=TUNES, help="ways to go on (default: all)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="JSON file for the figures")
    arguments = parser.parse_args()
    MMLogger.get_instance("mmengine", log_level="WARNING")
    figures = {}
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        options = {"data": arguments.data, "seed": arguments.seed}
        figures["before"] = run(place / "old", "frozen", OLD, arguments.old_steps, None, **options)
        checkpoint = str(place / "old" / f"iter_{arguments.old_steps}.pth")
        # LoRA renames the layers that it stands beside; their weights are those of the packaged nano.
        start = {"checkpoint": checkpoint, "fresh": ["*.lora_*", "*.base_layer.*"]}
        for tune in arguments.tunes:
            figures[tune] = run(place / tune, tune, NEW, arguments.new_steps, start, **options)
    names = list(next(iter(figures.values())))
    print_table(["", *names], [[way, *(f"{found[name]:.3f}" for name in names)] for way, found in figures.items()])
    if arguments.out is not None:
        write_text(arguments.out, json.dumps(figures, indent=2) + "\n")


def run(
    folder: Path, tune: str, names: Sequence[str], steps: int, load_from: dict | None, *, data: str, seed: int
) -> dict[str, float]:
    """Train one stage and return its figures."""
    tuning = "\n".join(tune_lines(BASE, tune))
    text = CONFIG.format(tune=tune, names=list(names), tuning=tuning, data=data, steps=steps, load_from=load_from)
    write_text(folder / "config.py", text)
    config = load_config(folder / "config.py", tool_root=ROOT)
    config.work_dir, config.experiment_name, config.log_level = str(folder), folder.name, "WARNING"
    config.randomness = {"seed": seed}
    runner = LumenRunner.from_cfg(config)
    start = process_tree_seconds()
    runner.train()
    seconds = process_tree_seconds() - start
    found = json.loads((folder / "protocol_val.json").read_text(encoding="utf-8"))["figures"]
    answers = runner.test()
    figures = {
        "AP old names": mean_ap(found, OLD),
        "AP new names": mean_ap(found, NEW),
        "questions": answers[QUESTIONS],
        "CPU s": seconds,
    }
    print(f"{tune}, {len(names)} names, {steps} steps: {figures}", flush=True)
    return figures


def mean_ap(figures: dict[str, float], names: Sequence[str]) -> float:
    """Return the mean AP of some classes, of those that the images show."""
    found = [figures[f"coco/bbox_AP_{name}"] for name in names]
    return fmean(value for value in found if value >= 0)


if __name__ == "__main__":
    main()

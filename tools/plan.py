"""Estimate what a training run will cost before anything is downloaded: parameters, tokens, FLOPs, memory, hours."""

import argparse
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from lumen.engine.tool import run_tool  # noqa: E402

EXAMPLES = """examples:
  python tools/plan.py configs/detection/detection_nano_shapes.py --tflops 0.1 --mfu 0.5
  python tools/plan.py configs/lumen_paper/alignment_llava7b_paper_50k.py --gpu a100 --gpus 8
  python tools/plan.py configs/lumen_paper/alignment_llava7b_paper_50k.py --model-config ~/models/llava --gpu h100

Nothing is fetched: the LMM's sizes come from --model-config, from a local folder of its name, or, for a few models,
from a table of known ones. Hours count arithmetic only, at the share --mfu of what the accelerator can do.
"""


def parse_options() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("config", type=Path, help="pure-Python config")
    parser.add_argument("--model-config", type=Path, metavar="PATH", help="folder or config.json of the LMM")
    parser.add_argument("--gpu", default="a100", help="a100, a6000, h100, h200, l40s or rtx4090 [a100]")
    parser.add_argument("--tflops", type=float, help="dense bfloat16 TFLOP/s of another accelerator")
    parser.add_argument("--mfu", type=float, default=0.35, help="share of it that a run reaches [0.35]")
    parser.add_argument("--gpus", type=int, default=1, help="processes, each with the batch of the config [1]")
    parser.add_argument("--prompts", type=int, default=80, help="prompts where a pipeline asks for all [80]")
    parser.add_argument("--text-tokens", type=int, default=300, help="tokens of a question with its answer [300]")
    parser.add_argument("--plugin-dir", type=Path, help="folder that imports of the config start from")
    parser.add_argument("--debug", action="store_true", help="show the full traceback of an error")
    return parser.parse_args()


def main(options: argparse.Namespace) -> None:
    """Plan and print."""
    from lumen.config import read_config
    from lumen.engine.cost import GPUS, format_plan, make_plan
    from lumen.errors import ConfigError

    if options.gpu not in GPUS and options.tflops is None:
        raise ConfigError(f"no figures for {options.gpu!r}; known are {sorted(GPUS)}, or give --tflops")
    tflops, gpu_gb = (options.tflops, None) if options.tflops else GPUS[options.gpu]
    config = read_config(options.config, import_roots=[ROOT, *filter(None, [options.plugin_dir])])
    plan = make_plan(
        config,
        model_config=options.model_config,
        num_gpus=options.gpus,
        all_prompts=options.prompts,
        text_tokens=options.text_tokens,
    )
    print(format_plan(plan, tflops=tflops, mfu=options.mfu, num_gpus=options.gpus, gpu_gb=gpu_gb))


if __name__ == "__main__":
    run_tool(main, parse_options())

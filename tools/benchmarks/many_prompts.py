"""Thousands of names on one image: are they answered as in smaller calls, and in how much memory?

One model with random weights answers P prompts at once and in calls of 500; scores, boxes and heatmaps of the same
prompts must agree. Peak memory is that of the process above what it held before the call (on a GPU: of its allocator).
What must grow with P is printed beside it: the heatmaps.
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from _llava import LlavaSizes, hide_progress_bars, make_llava
from _timing import print_table, relative_difference

from lumen.aligners.dense import DenseAligner
from lumen.decoders.detection import DetectionDecoder
from lumen.lmm.adapter import HFAdapter
from lumen.lmm.nano.model import make_nano
from lumen.model import Lumen
from lumen.structures import FeatureWidths, PerceptionSample, Prompt, SharedRepresentation

TOLERANCE = 1e-5
CALL = 500
LLAVA = LlavaSizes(layers=4, width=256, mlp_width=512, vision_layers=2, vision_width=128, image_side=336)
EXAMPLES = """examples:
  OMP_NUM_THREADS=1 python tools/benchmarks/many_prompts.py                        1203 and 10000 prompts, two models
  OMP_NUM_THREADS=1 python tools/benchmarks/many_prompts.py --models nano --prompts 1203 --max-megabytes 600
  python tools/benchmarks/many_prompts.py --device cuda
"""


def main() -> None:
    """Ask every number of prompts of every model, print a table, stop at a difference or above the bound."""
    arguments = parse_arguments()
    torch.set_num_threads(1)
    hide_progress_bars()
    rows, failures = [], []
    with tempfile.TemporaryDirectory() as folder:
        for name in arguments.models:
            path = make_nano(f"{folder}/nano") if name == "nano" else make_llava(f"{folder}/llava", LLAVA)
            model = build_model(str(path)).to(arguments.device)
            ask(model, 8)  # allocates what is allocated once
            for count in arguments.prompts:
                row, faults = measure(model, count, arguments.max_megabytes)
                rows.append([name, *row])
                failures += [f"{name}, {count} prompts: {failure}" for failure in faults]
    print_table(["model", "prompts", "s", "peak MB", "heatmaps MB", "difference"], rows)
    if failures:
        raise SystemExit("\n".join(failures))


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", nargs="+", choices=("nano", "llava"), default=["nano", "llava"])
    parser.add_argument("--prompts", type=int, nargs="+", default=[1203, 10000], help="default: 1203 10000")
    parser.add_argument(
        "--max-megabytes", type=float, default=1500.0, help="bound beside 3 x heatmaps (default: %(default)s)"
    )
    parser.add_argument("--device", default="cpu", help="default: %(default)s")
    return parser.parse_args()


def build_model(path: str) -> Lumen:
    """Return a model with random weights and the detection decoder."""
    torch.manual_seed(0)
    adapter = HFAdapter(path)
    aligner = DenseAligner(
        widths=FeatureWidths.of(adapter),
        channels=64,
        fine_levels=len(adapter.lateral_channels),
        mlp_channels=128,
    )
    return Lumen(adapter, aligner, [DetectionDecoder(64, limits={"min_score": 0.02, "num_peaks": 10})]).eval()


@torch.inference_mode()
def ask(model: Lumen, count: int, first: int = 0) -> SharedRepresentation:
    """Ask ``count`` names about one image, from number ``first`` on, and look for boxes; return what was shared."""
    side = model.lmm.input_spec.fixed_hw or (160, 160)
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (1, 3, *side), generator=generator, dtype=torch.uint8)
    prompts = [Prompt(f"thing {number}") for number in range(first, first + count)]
    encoded = model.lmm.encode_images(images.to(model.lmm.base_model.device))
    shared = model.align(model.lmm.ask(encoded, [prompts], predicting=True))
    sample = make_sample(tuple(prompts))
    model.decoders["detection"].predict(shared, [sample])
    return shared


def measure(model: Lumen, count: int, bound: float) -> tuple[list[str], list[str]]:
    """Return one row of the table, and what failed."""
    device = model.lmm.base_model.device
    before = reset_peak(device)
    start = time.process_time()
    whole = ask(model, count)
    seconds, peak = time.process_time() - start, (read_peak(device) - before) / 2**20
    worst = 0.0
    for first in range(0, min(count, 3 * CALL), CALL):
        part = ask(model, min(CALL, count - first), first)
        for both in zip(answers(whole, slice(first, first + CALL)), answers(part, slice(None)), strict=True):
            worst = max(worst, relative_difference(*both))
    heat = whole.heat_logits.numel() * 4 / 2**20
    failures = [] if worst <= TOLERANCE else [f"differs from smaller calls by {worst:.1e}"]
    if peak > bound + 3 * heat:
        failures.append(f"took {peak:.0f} MB, the bound is {bound + 3 * heat:.0f} MB")
    return [f"{count}", f"{seconds:.1f}", f"{peak:.0f}", f"{heat:.0f}", f"{worst:.0e}"], failures


def answers(shared: SharedRepresentation, pairs: slice) -> tuple[torch.Tensor, ...]:
    """Return what decoders read of some pairs; presence as a probability, since its logits may all be near 0."""
    return shared.heat_logits[pairs], shared.presence_logits[pairs].sigmoid(), shared.query[pairs]


def make_sample(prompts: tuple[Prompt, ...]) -> PerceptionSample:
    """Return a sample that asks these prompts."""
    sample = PerceptionSample()
    sample.set_field(prompts, "prompts", field_type="metainfo")
    return sample


def reset_peak(device: torch.device) -> int:
    """Start watching the peak of memory; return the bytes that are held now."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return torch.cuda.memory_allocated(device)
    Path("/proc/self/clear_refs").write_text("5")
    return _status("VmRSS")


def read_peak(device: torch.device) -> int:
    """Return the most bytes held since ``reset_peak``."""
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else _status("VmHWM")


def _status(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:"))


if __name__ == "__main__":
    main()

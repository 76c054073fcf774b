"""What a training step of a decoder costs: from cached features, against through the frozen LMM.

Both ways take the same batch through the frozen aligner, the decoder's loss, its gradients and one step of AdamW;
reading the cache from its files is part of the cached way. Losses and gradients of both must be equal. Random weights,
float32, one thread, least process CPU time, taken in turns.
"""

import argparse
import copy
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from _llava import LlavaSizes, hide_progress_bars, make_llava
from _timing import print_table, relative_difference, time_in_turns
from mmengine.structures import InstanceData

from lumen.aligners.dense import DenseAligner
from lumen.decoders.detection import DetectionDecoder
from lumen.engine.caching import CacheOptions, encode, tensors_of
from lumen.engine.hooks import eval_frozen_modules, freeze_parameters
from lumen.lmm.adapter import HFAdapter
from lumen.lmm.cached import CachedAdapter
from lumen.lmm.nano.model import make_nano
from lumen.lmm.nano.tokenizer import WORDS
from lumen.model import Lumen
from lumen.ops.geometry import InputTransform
from lumen.serialization.feature_cache import CacheWriter, FeatureCache
from lumen.structures import FeatureWidths, PerceptionSample, Prompt

TOLERANCE = 1e-5
BAR = 20.0
LLM = {"layers": 12, "width": 768, "mlp_width": 2048, "image_side": 336}
# name: (how the LMM is made, options of its adapter, side of images, images in a batch, options of the aligner)
CASES = {
    "LLM 12 x 768, CLIP-L/14 at 336": (
        lambda folder: make_llava(folder, LlavaSizes(**LLM, vision_layers=24, vision_width=1024)), {}, 336, 1, {}
    ),
    "LLM 12 x 768, tower 12 x 384 at 336": (
        lambda folder: make_llava(folder, LlavaSizes(**LLM, vision_layers=12, vision_width=384)), {}, 336, 1, {}
    ),
    "nano at 160": (
        make_nano,
        {"base": {"attention": "eager"}, "readout": {"add_phrase_state": True, "phrase_reconstruction": True}},
        160,
        8,
        {"channels": 96, "num_heads": 4, "mlp_channels": 256, "fine_levels": 1, "heat": {"target": "ttfnet"}},
    ),
}  # fmt: skip
EXAMPLES = """examples:
  OMP_NUM_THREADS=1 python tools/benchmarks/cached_step.py               2 minutes of CPU time
  OMP_NUM_THREADS=1 python tools/benchmarks/cached_step.py --case nano --rounds 10
"""


def main() -> None:
    """Measure each case, print one table, stop at a difference or below the bar."""
    arguments = parse_arguments()
    torch.set_num_threads(1)
    hide_progress_bars()
    chosen = {name: case for name, case in CASES.items() if arguments.case in name}
    rows, failures = [], []
    for name, case in chosen.items():
        with tempfile.TemporaryDirectory() as folder:
            row, failed = measure(name, *case, folder=Path(folder), arguments=arguments)
        rows.append(row)
        failures += failed
    print(f"a decoder's training step, {arguments.prompts} prompts per image")
    print_table(["", "images", "frozen LMM, CPU s", "cached, CPU s", "ratio", "difference", "MB per image"], rows)
    if failures:
        raise SystemExit("\n".join(failures))


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--case", default="", help="part of the names of the cases to measure (default: all)")
    parser.add_argument("--prompts", type=int, default=8, help="prompts per image (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="turns of each way (default: %(default)s)")
    return parser.parse_args()


def measure(
    name: str,
    make: Callable[[Path], Path],
    options: dict,
    side: int,
    num_images: int,
    sizes: dict,
    *,
    folder: Path,
    arguments: argparse.Namespace,
) -> tuple[list[str], list[str]]:
    """Return the row of a case, and what failed."""
    torch.manual_seed(0)
    adapter = HFAdapter(str(make(folder / "lmm")), **options).eval()
    batch = [make_item(side, arguments.prompts, number) for number in range(num_images)]
    write(adapter, batch, folder / "cache")
    cache = FeatureCache(folder / "cache")
    aligner = DenseAligner(widths=FeatureWidths.of(adapter), **sizes)
    decoder = DetectionDecoder(aligner.channels)
    frozen = Step(Lumen(adapter, aligner, [decoder]), ["lmm.*", "aligner.*"])
    cached = Step(Lumen(CachedAdapter(folder / "cache"), aligner, [copy.deepcopy(decoder)]), ["aligner.*"])
    ways = {
        "frozen": lambda: frozen([one["inputs"] for one in batch], [one["data_samples"] for one in batch]),
        "cached": lambda: cached(*zip(*(cache.read(index) for index in range(num_images)), strict=True)),
    }
    pairs = zip(ways["cached"](), ways["frozen"](), strict=True)  # the first step of both, from the same weights
    difference = max(relative_difference(found, expected) for found, expected in pairs)
    seconds = time_in_turns(ways, {"frozen": arguments.rounds, "cached": 3 * arguments.rounds})
    ratio = seconds["frozen"] / seconds["cached"]
    size = sum(path.stat().st_size for path in (folder / "cache").glob("shard*")) / num_images / 10**6
    row = [name, str(num_images), *(f"{seconds[way]:.3f}" for way in ways), f"{ratio:.1f}", f"{difference:.0e}"]
    failures = [] if difference <= TOLERANCE else [f"{name}: losses or gradients differ by {difference:.1e}"]
    if ratio < BAR and name != "nano at 160":
        failures.append(f"{name}: the ratio is {ratio:.1f}, the bar is {BAR:g}")
    return [*row, f"{size:.2f}"], failures


class Step:
    """A training step of what is not frozen; called, it returns the decoder's loss and gradients."""

    def __init__(self, model: Lumen, patterns: Sequence[str]) -> None:
        self.model = model
        freeze_parameters(model, patterns)
        self.trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self.optimizer = torch.optim.AdamW(self.trained, lr=1e-3)

    def __call__(self, inputs: Sequence, samples: Sequence[PerceptionSample]) -> list[Tensor]:
        """Take the step."""
        eval_frozen_modules(self.model.train())
        losses = self.model(list(inputs), list(samples), mode="loss")
        total = sum(loss for name, loss in losses.items() if loss.requires_grad)
        self.optimizer.zero_grad()
        total.backward()
        gradients = [p.grad.clone() for p in self.trained if p.numel()]
        self.optimizer.step()
        return [*(losses[name].detach() for name in sorted(losses) if not name.startswith("lmm/")), *gradients]


def make_item(side: int, num_prompts: int, seed: int) -> dict:
    """Return a packed sample: noise, with one object for every second prompt."""
    generator = torch.Generator().manual_seed(seed)
    boxes = torch.rand(num_prompts // 2, 4, generator=generator) * side / 2
    boxes[:, 2:] += boxes[:, :2] + 8
    index = torch.arange(num_prompts // 2) * 2
    sample = PerceptionSample(
        gt_instances=InstanceData(bboxes=boxes.clamp(max=side), labels=index, prompt_index=index.clone()),
        ignored_instances=InstanceData(bboxes=boxes[:0], labels=index[:0], prompt_index=index[:0]),
    )
    prompts = tuple(Prompt(word, label=label) for label, word in enumerate(WORDS[:num_prompts]))
    frame = InputTransform.stretch((side, side), (side, side))
    sample.set_metainfo({"prompts": prompts, "frame": frame, "img_shape": (side, side)})
    return {
        "inputs": torch.randint(0, 256, (3, side, side), dtype=torch.uint8, generator=generator),
        "data_samples": sample,
    }


def write(adapter: nn.Module, batch: Sequence[dict], folder: Path) -> None:
    """Write a cache of one batch."""
    with CacheWriter(folder, images_per_shard=len(batch)) as writer:
        features, samples = encode(adapter, batch, range(len(batch)), CacheOptions())
        for image, sample in enumerate(samples):
            writer.add(tensors_of(features, image, torch.float32), sample)
        writer.finish(
            weights={},
            data={},
            model=adapter.describe(),
            describe=adapter.describe(),
            absent=[],
            metainfo={},
            stride=features.stride,
            dim=adapter.dim,
            vision_dim=adapter.vision_dim,
            lateral_channels=list(adapter.lateral_channels),
        )


if __name__ == "__main__":
    main()

"""How many images a second give boxes for N names each: vision, LLM, aligner, decoder, boxes in original pixels.

A LLaVA with random weights, the paper's aligner and the detection decoder; names are packed. The bound is the
arithmetic of tower and LLM at the rate of a large matrix product of the same precision. Process CPU time of one thread,
or wall time on a GPU.
"""

import argparse
import sys
import tempfile
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from _arithmetic import llm_flops, product_rate, seconds_of
from _llava import LlavaSizes, hide_progress_bars, make_llava
from _timing import print_table

from lumen.aligners.dense import DenseAligner
from lumen.decoders.detection import DetectionDecoder
from lumen.lmm.adapter import HFAdapter
from lumen.model import Lumen
from lumen.ops.geometry import InputTransform
from lumen.structures import FeatureWidths, PerceptionSample, Prompt

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
SIDE = 336
EXAMPLES = """examples:
  OMP_NUM_THREADS=1 python tools/benchmarks/detection_rate.py                     a small LLM on a CPU
  python tools/benchmarks/detection_rate.py --device cuda --dtype bfloat16 --layers 32 --width 4096 --mlp 11008 \\
      --vision-layers 24 --vision-width 1024 --batch 8                            the sizes of LLaVA-1.5-7B
"""


def main() -> None:
    """Time a batch and print its rate."""
    arguments = parse_arguments()
    torch.set_num_threads(1)
    hide_progress_bars()
    device, dtype = torch.device(arguments.device), DTYPES[arguments.dtype]
    sizes = LlavaSizes(
        arguments.layers, arguments.width, arguments.mlp, arguments.vision_layers, arguments.vision_width, SIDE
    )
    with tempfile.TemporaryDirectory() as folder:
        model = build_model(str(make_llava(folder, sizes)), arguments.dtype).to(device)
    images = torch.randint(0, 256, (arguments.batch, 3, SIDE, SIDE), dtype=torch.uint8, device=device)

    @torch.inference_mode()
    def detect() -> None:
        model(images, make_samples(arguments.batch, arguments.names), mode="predict")

    detect()
    model.lmm.usage.clear()
    seconds = seconds_of({"detect": detect}, arguments.rounds, device)["detect"]
    flops = arguments.batch * image_flops(model.lmm, arguments.names)
    rate = product_rate(device, dtype)
    print(
        f"LLM {sizes.layers} x {sizes.width}, {arguments.names} names an image, {device}, {arguments.dtype};", end=" "
    )
    print(f"a large product runs at {rate / 1e12:.3f} TFLOP/s")
    row = [f"{arguments.batch}", f"{arguments.batch / seconds:.3f}", f"{flops / seconds / 1e12:.3f}"]
    print_table(["batch", "images/s", "TFLOP/s", "of bound"], [[*row, f"{flops / seconds / rate:.0%}"]])


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--names", type=int, default=80, help="names asked on each image (default: %(default)s)")
    parser.add_argument("--batch", type=int, default=1, help="images in a call (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="turns (default: %(default)s)")
    parser.add_argument("--device", default="cpu", help="default: %(default)s")
    parser.add_argument("--dtype", choices=sorted(DTYPES), default="float32", help="of the LMM (default: %(default)s)")
    parser.add_argument("--layers", type=int, default=4, help="of the LLM (default: %(default)s)")
    parser.add_argument("--width", type=int, default=256, help="of the LLM (default: %(default)s)")
    parser.add_argument("--mlp", type=int, default=512, help="of the LLM (default: %(default)s)")
    parser.add_argument("--vision-layers", type=int, default=2, help="default: %(default)s")
    parser.add_argument("--vision-width", type=int, default=128, help="default: %(default)s")
    return parser.parse_args()


def build_model(path: str, dtype: str) -> Lumen:
    """Return a model with random weights, an aligner of the paper's size and the detection decoder."""
    torch.manual_seed(0)
    adapter = HFAdapter(path, base={"dtype": dtype})
    aligner = DenseAligner(widths=FeatureWidths.of(adapter), channels=256)
    return Lumen(adapter, aligner, [DetectionDecoder(256)]).eval()


def make_samples(batch: int, names: int) -> list[PerceptionSample]:
    """Return samples that ask these many names each."""
    samples = []
    for number in range(batch):
        sample = PerceptionSample()
        frame = InputTransform.stretch((SIDE, SIDE), (SIDE, SIDE))
        prompts = tuple(Prompt(f"thing {label}", label=label) for label in range(names))
        for key, value in {"prompts": prompts, "frame": frame, "img_id": number}.items():
            sample.set_field(value, key, field_type="metainfo")
        samples.append(sample)
    return samples


def image_flops(adapter: HFAdapter, names: int) -> int:
    """Return the operations of tower and LLM for one image, with its prefix read once; without aligner and decoder."""
    vision = adapter.config.vision_config
    patches, width = (SIDE // vision.patch_size) ** 2 + 1, vision.hidden_size
    tower = vision.num_hidden_layers * (24 * patches * width**2 + 4 * patches**2 * width)
    start = len(adapter.prefix((SIDE, SIDE)))
    sizes = [len(adapter.encoder.suffix(f"thing {label}", "detection").ids) for label in range(names)]
    seen = start * (start + 1) // 2 + sum(size * start + size * (size + 1) // 2 for size in sizes)
    return tower + llm_flops(adapter.config.text_config, start + sum(sizes), seen)


if __name__ == "__main__":
    main()

"""What a training step costs: packed against one prompt at a time, and Lumen's whole step against the bare LMM's.

First, K prompts on one image, forwards and backwards, losses and gradients compared: ``packed``; ``separate rows``, one
LLM row per prompt behind vision that ran once; ``one by one``, a whole pass per prompt, as the paper does it. Then
whole steps with AdamW and a frozen tower on the same tokens: ``bare`` is transformers' own fine-tuning step on one
sequence of prefix and suffixes with its plain causal mask; ``lumen`` adds block attention, aligner, decoder and all
losses. Random weights; least process CPU time of one thread, taken in turns, or wall time on a GPU. The lower
bound is the arithmetic of tower and LLM at the rate of a large matrix product.
"""

import argparse
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from _arithmetic import llm_flops, product_rate, seconds_of
from _llava import LlavaSizes, hide_progress_bars, make_llava
from _timing import print_table, relative_difference
from packing_equality import OneByOne, add_up, compare_gradients, make_batch, split
from prompt_cost import make_prompts

from lumen.aligners.dense import DenseAligner
from lumen.decoders.detection import DetectionDecoder
from lumen.lmm.adapter import HFAdapter
from lumen.model import Lumen
from lumen.structures import FeatureWidths

SIZES = LlavaSizes(layers=12, width=768, mlp_width=2048, vision_layers=12, vision_width=384, image_side=336)
LOSS_TOLERANCE, GRADIENT_TOLERANCE = 1e-5, 1e-3
SMALL_GRADIENT = 1e-3
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
PACKED_BAR, STEP_BAR = 4.5, 1.15
EXAMPLES = """examples:
  OMP_NUM_THREADS=1 python tools/benchmarks/training_step.py                    4 minutes of CPU time
  OMP_NUM_THREADS=1 python tools/benchmarks/training_step.py --rounds 2 --skip packing
  python tools/benchmarks/training_step.py --skip packing --device cuda --dtype bfloat16 --lora 64 \
      --layers 32 --width 4096 --mlp 11008                                      LoRA at the LLM sizes of LLaVA-1.5-7B
"""


def main() -> None:
    """Measure both, print tables, stop beyond a bar or at a difference."""
    arguments = parse_arguments()
    torch.set_num_threads(1)
    hide_progress_bars()
    device = torch.device(arguments.device)
    sizes = LlavaSizes(arguments.layers, arguments.width, arguments.mlp, SIZES.vision_layers, SIZES.vision_width, 336)
    with tempfile.TemporaryDirectory() as folder:
        model = build_model(str(make_llava(folder, sizes)), dtype=arguments.dtype, rank=arguments.lora).to(device)
    texts = [prompt.text for prompt in make_prompts(model.lmm, arguments.prompts, arguments.suffix)]
    images, samples = make_batch(model.lmm.input_spec.fixed_hw, [texts])
    batch = images.to(device), [sample.to(device) for sample in samples]
    rate = product_rate(device, DTYPES[arguments.dtype])
    print(
        f"LLM {sizes.layers} x {sizes.width}, {arguments.prompts} prompts of {arguments.suffix} tokens, {device};",
        end=" ",
    )
    print(f"a large product runs at {rate / 1e12:.3f} TFLOP/s")
    failures = []
    if "packing" not in arguments.skip:
        failures += measure_packing(model, *batch, arguments.rounds)
    if "step" not in arguments.skip:
        failures += measure_step(model, *batch, arguments.rounds, rate)
    if failures:
        raise SystemExit("\n".join(failures))


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--prompts", type=int, default=8, help="prompts on the image (default: %(default)s)")
    parser.add_argument("--suffix", type=int, default=12, help="tokens per prompt (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="turns of the quick ways (default: %(default)s)")
    parser.add_argument("--skip", choices=("packing", "step"), nargs="+", default=[], help="leave a part out")
    parser.add_argument("--device", default="cpu", help="default: %(default)s")
    parser.add_argument("--layers", type=int, default=SIZES.layers, help="of the LLM (default: %(default)s)")
    parser.add_argument("--width", type=int, default=SIZES.width, help="of the LLM (default: %(default)s)")
    parser.add_argument("--mlp", type=int, default=SIZES.mlp_width, help="of the LLM (default: %(default)s)")
    parser.add_argument("--dtype", choices=sorted(DTYPES), default="float32", help="of the LMM (default: %(default)s)")
    parser.add_argument("--lora", type=int, default=0, help="rank; 0 trains the LLM itself (default: %(default)s)")
    return parser.parse_args()


def build_model(path: str, *, dtype: str = "float32", rank: int = 0) -> Lumen:
    """Return a model with random weights, an aligner of the paper's size and the detection decoder."""
    torch.manual_seed(0)
    lora = {"lora": {"r": rank, "alpha": 2 * rank}, "new_tokens": "learn"} if rank else {}
    adapter = HFAdapter(path, base={"dtype": dtype, **lora}, readout={"phrase_reconstruction": True})
    aligner = DenseAligner(widths=FeatureWidths.of(adapter), channels=256)
    model = Lumen(adapter, aligner, [DetectionDecoder(256)]).train()
    adapter.base_model.model.vision_tower.requires_grad_(False)
    return model


def measure_packing(model: Lumen, images: Tensor, samples: list, rounds: int) -> list[str]:
    """Compare and time forwards and backwards; return what failed."""
    counts = model.count(samples)
    found = {}

    def packed() -> None:
        found["packed"] = add_up(model, model.lmm, [(images, samples)], counts)

    def rows() -> None:
        packing = model.lmm.packing
        model.lmm.packing = replace(packing, mode="separate")
        found["separate rows"] = add_up(model, model.lmm, [(images, samples)], counts)
        model.lmm.packing = packing

    def one_by_one() -> None:
        singles = [(image, [sample]) for image, sample in split(images, samples)]
        found["one by one"] = add_up(model, OneByOne(model.lmm), singles, counts)

    ways = {"packed": packed, "separate rows": rows, "one by one": one_by_one}
    seconds = seconds_of(ways, {"packed": rounds, "separate rows": 1, "one by one": 1}, images.device)
    losses, gradients = found["one by one"]
    table, failures = [], []
    for name, (found_losses, found_gradients) in found.items():
        loss = max(relative_difference(found_losses[key], losses[key]) for key in losses)
        gradient = max(compare_gradients(found_gradients, gradients, smallest=SMALL_GRADIENT).values())
        table.append(
            [name, f"{seconds[name]:.2f}", f"{seconds[name] / seconds['packed']:.2f}", f"{loss:.0e}", f"{gradient:.0e}"]
        )
        if not (loss <= LOSS_TOLERANCE and gradient <= GRADIENT_TOLERANCE):
            failures.append(f"{name}: losses differ by {loss:.1e}, gradients by {gradient:.1e}")
    print_table(["", "s", "to packed", "losses", "gradients"], table)
    ratio = seconds["one by one"] / seconds["packed"]
    return failures + (
        [f"{ratio:.2f} times less than one by one, the bar is {PACKED_BAR}"] if ratio < PACKED_BAR else []
    )


def measure_step(model: Lumen, images: Tensor, samples: list, rounds: int, rate: float) -> list[str]:
    """Time whole steps, Lumen's against the bare LMM's; return what failed."""
    adapter, device = model.lmm, images.device
    lmm = adapter.base_model
    suffixes = [adapter.encoder.suffix(prompt.text, prompt.task) for prompt in samples[0].prompts]
    prefix = adapter.prefix(images.shape[-2:])
    ids = torch.tensor([[*prefix, *(token for suffix in suffixes for token in suffix.ids)]], device=device)
    labels = ids.clone()
    labels[:, : len(prefix)] = -100
    labels[labels >= len(lmm.get_output_embeddings().weight)] = -100  # learned tokens, which are never generated
    pixels = adapter.statistics.normalise(images)
    bare_optimizer = torch.optim.AdamW([one for one in lmm.parameters() if one.requires_grad], lr=1e-6)
    optimizer = torch.optim.AdamW([one for one in model.parameters() if one.requires_grad], lr=1e-6)
    adapter.usage.clear()

    def bare() -> None:
        lmm(input_ids=ids, attention_mask=torch.ones_like(ids), pixel_values=pixels, labels=labels).loss.backward()
        bare_optimizer.step()
        bare_optimizer.zero_grad()

    def lumen() -> None:
        losses = model(images, samples, mode="loss")
        sum(losses.values()).backward()
        optimizer.step()
        optimizer.zero_grad()

    lumen()
    if adapter.usage.tokens != ids.numel():
        raise ValueError(f"both steps must see the same tokens, got {adapter.usage.tokens} and {ids.numel()}")
    seconds = seconds_of({"bare": bare, "lumen": lumen}, rounds, device)
    floor = step_flops(adapter, len(prefix), [len(one.ids) for one in suffixes], images.shape[-1])
    rows = [
        [
            name,
            f"{value:.2f}",
            f"{value / seconds['bare']:.3f}",
            f"{floor / value / 1e12:.3f}",
            f"{floor / value / rate:.0%}",
        ]
        for name, value in seconds.items()
    ]
    print(f"\nsteps over {ids.numel()} tokens")
    print_table(["", "s", "to bare", "TFLOP/s", "of bound (MFU)"], rows)
    ratio = seconds["lumen"] / seconds["bare"]
    return [f"Lumen's step takes {ratio:.3f} of the bare one, the bar is {STEP_BAR}"] if ratio > STEP_BAR else []


def step_flops(adapter: HFAdapter, start: int, sizes: list[int], side: int) -> int:
    """Return the operations of a step: the tower forwards, the LLM forwards and backwards, nothing behind it.

    With LoRA, the gradients of frozen weights are left out, and the small products of LoRA itself too.
    """
    vision = adapter.config.vision_config
    patches, width = (side // vision.patch_size) ** 2 + 1, vision.hidden_size
    tower = vision.num_hidden_layers * (24 * patches * width**2 + 4 * patches**2 * width)
    seen = start * (start + 1) // 2 + sum(size * start + size * (size + 1) // 2 for size in sizes)
    passes = 2 if adapter.lora else 3  # frozen weights need no gradient
    return tower + passes * llm_flops(adapter.config.text_config, start + sum(sizes), seen)


if __name__ == "__main__":
    main()

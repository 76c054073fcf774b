"""What packed prompts cost when their prefix is attended to without a mask, and when its keys and values are kept.

``split`` is the adapter's own way, ``masked`` one masked square over prefix and suffixes, ``kept`` a further question
about an image whose prefix has run; ``expanded`` goes behind copies of the cache, as models do that cannot pack;
``separate`` is one LLM pass per prompt, timed for a few prompts and scaled. Vision and connector ran before. Random
weights; on a CPU least process CPU time of one thread, on a GPU least wall time; taken in turns. The share of the token
ratio is what packing saves over what it could save by tokens alone.
"""

import argparse
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from _arithmetic import llm_flops, product_rate, seconds_of
from _llava import LlavaSizes, hide_progress_bars, make_llava
from _timing import print_table, relative_difference
from prompt_cost import make_prompts

from lumen.lmm.adapter import HFAdapter
from lumen.lmm.encoded import EncodedImages
from lumen.structures import Prompt

SIZES = LlavaSizes(layers=12, width=768, mlp_width=2048, vision_layers=12, vision_width=384, image_side=336)
BAR = 0.70
TOLERANCES = {torch.float32: 1e-5, torch.bfloat16: 5e-2}
EXAMPLES = """examples:
  OMP_NUM_THREADS=1 python tools/benchmarks/prefix_split.py                    3 minutes of CPU time
  OMP_NUM_THREADS=1 python tools/benchmarks/prefix_split.py --suffix 8 --rounds 2 --separate 2
  python tools/benchmarks/prefix_split.py --device cuda --dtype bfloat16 --layers 32 --width 4096 --mlp 11008
"""


def main() -> None:
    """Measure each length of suffix, print one table each, stop below the bar or at a difference."""
    arguments = parse_arguments()
    torch.set_num_threads(1)
    hide_progress_bars()
    device, dtype = torch.device(arguments.device), getattr(torch, arguments.dtype)
    sizes = LlavaSizes(arguments.layers, arguments.width, arguments.mlp, 12, 384, 336)
    with tempfile.TemporaryDirectory() as folder:
        adapter = HFAdapter(str(make_llava(folder, sizes))).eval().to(device, dtype)
    rate = product_rate(device, dtype)
    print(f"LLM {sizes.layers} x {sizes.width}, {sizes.num_image_tokens} image tokens, {arguments.prompts} prompts")
    print(f"{device}, {dtype}; a large product runs at {rate / 1e12:.3f} TFLOP/s")
    failures = []
    for suffix in arguments.suffix:
        failures += measure(adapter, suffix, arguments, rate)
    if failures:
        raise SystemExit("\n".join(failures))


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--prompts", type=int, default=80, help="number of prompts (default: %(default)s)")
    parser.add_argument("--suffix", type=int, nargs="+", default=[12, 8], help="tokens per prompt (default: 12 8)")
    parser.add_argument("--rounds", type=int, default=3, help="turns of the packed ways (default: %(default)s)")
    parser.add_argument("--separate", type=int, default=4, help="prompts asked separately (default: %(default)s)")
    parser.add_argument("--device", default="cpu", help="default: %(default)s")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32", help="default: %(default)s")
    parser.add_argument("--layers", type=int, default=SIZES.layers, help="of the LLM (default: %(default)s)")
    parser.add_argument("--width", type=int, default=SIZES.width, help="of the LLM (default: %(default)s)")
    parser.add_argument("--mlp", type=int, default=SIZES.mlp_width, help="of the LLM (default: %(default)s)")
    parser.add_argument("--peak-tflops", type=float, help="of the device, for MFU (default: that of a large product)")
    return parser.parse_args()


@torch.no_grad()
def measure(adapter: HFAdapter, suffix: int, arguments: argparse.Namespace, rate: float) -> list[str]:
    """Check that all ways agree, time them, print a table; return what failed."""
    device, count = adapter.base_model.device, arguments.prompts
    few, states = min(arguments.separate, count), {}
    ways = make_ways(adapter, make_prompts(adapter, count, suffix), few, states)
    ways["kept"]()  # the prefix is kept from now on
    seconds = seconds_of(ways, {**dict.fromkeys(ways, arguments.rounds), "separate": 1}, device)
    seconds["separate"] *= count / few
    start = len(adapter.prefix(adapter.input_spec.fixed_hw))
    ratio = count * (start + suffix) / (start + count * suffix)
    differences = {name: relative_difference(states[name][:few].float(), states["separate"].float()) for name in ways}
    share = {name: seconds["separate"] / seconds[name] / ratio for name in ways}
    flops = count_flops(adapter, start, suffix, count)
    peak = (arguments.peak_tflops or rate / 1e12) * 1e12
    rows = [
        [
            name,
            f"{seconds[name]:.3f}",
            f"{seconds['separate'] / seconds[name]:.1f}",
            f"{share[name]:.0%}" if name in ("masked", "split", "expanded") else "",
            f"{flops[name] / seconds[name] / 1e12:.3f}",
            f"{flops[name] / seconds[name] / peak:.0%}",
            f"{flops[name] / seconds[name] / rate:.0%}",
            f"{differences[name]:.0e}",
        ]
        for name in ways
    ]
    print(f"\nsuffixes of {suffix} tokens behind {start}: {ratio:.1f} times fewer tokens packed")
    print_table(["", "s", "x separate", "of token ratio", "TFLOP/s", "MFU", "of bound", "difference"], rows)
    tolerance = TOLERANCES[adapter.base_model.dtype]
    wrong = {name: value for name, value in differences.items() if not value <= tolerance}
    failures = [f"{suffix} tokens: {name} differs by {value:.1e}" for name, value in wrong.items()]
    if share["split"] < BAR:
        failures.append(f"{suffix} tokens: {share['split']:.2f} of the token ratio, the bar is {BAR:g}")
    return failures


def make_ways(
    adapter: HFAdapter, prompts: list[Prompt], few: int, states: dict[str, Tensor]
) -> dict[str, Callable[[], None]]:
    """Return the ways to ask the prompts about one image, by name; a call writes the states that it reads.

    Args:
        adapter: The LMM.
        prompts: All prompts.
        few: Number of prompts that are asked separately.
        states: Gets the states of each way that was called.
    """
    input_hw = adapter.input_spec.fixed_hw
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (1, 3, *input_hw), generator=generator, dtype=torch.uint8)
    images = images.to(adapter.base_model.device)
    encoded, cached = adapter.encode_images(images), adapter.encode_images(images, cache_prefix=True)

    def ask(name: str, images: EncodedImages = encoded, *, splits: bool = True, mode: str = "packed") -> None:
        adapter.splits, packing = splits, adapter.packing
        adapter.packing = replace(packing, mode=mode, max_pass_tokens=1 if mode == "separate" else 65536)
        asked = prompts[:few] if mode == "separate" else prompts
        states[name] = adapter.ask(images, [asked]).query
        adapter.splits, adapter.packing = True, packing

    return {
        "separate": lambda: ask("separate", mode="separate"),
        "masked": lambda: ask("masked", splits=False),
        "split": lambda: ask("split"),
        "kept": lambda: ask("kept", cached),
        "expanded": lambda: ask("expanded", mode="expanded"),
    }


def count_flops(adapter: HFAdapter, start: int, suffix: int, count: int) -> dict[str, int]:
    """Return the operations of the LLM in each way, for ``count`` suffixes behind a prefix of ``start`` tokens."""
    text, alone = adapter.config.text_config, start + suffix
    square = start * (start + 1) // 2
    behind = count * (start * suffix + suffix * (suffix + 1) // 2)
    packed = llm_flops(text, start + count * suffix, square + behind)
    return {
        "separate": count * llm_flops(text, alone, alone * (alone + 1) // 2),
        "masked": packed,
        "split": packed,
        "kept": llm_flops(text, count * suffix, behind),
        "expanded": llm_flops(text, start + count * suffix, square + behind),
    }


if __name__ == "__main__":
    main()

"""Attention of a small LLM on a CPU, forward and backward: ``plain`` beside transformers' ``eager`` and ``sdpa``.

Rows, heads and widths are those of nano in training. Random values in bfloat16; one thread,
least process CPU time, taken in turns.
"""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.models.llama.modeling_llama import eager_attention_forward

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from _timing import print_table, relative_difference, time_in_turns

from lumen.lmm.packing.plain_attention import plain_attention

EXAMPLES = """examples:
  python tools/benchmarks/attention.py
  python tools/benchmarks/attention.py --length 260 --rows 32
"""
HEADS, WIDTH = 4, 32


def main() -> None:
    """Time the three and print each beside ``eager``."""
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=16, help="rows of tokens [%(default)s]")
    parser.add_argument("--length", type=int, default=330, help="tokens of a row [%(default)s]")
    parser.add_argument("--rounds", type=int, default=7, help="turns of each way [%(default)s]")
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    parts = [torch.randn(options.rows, HEADS, options.length, WIDTH).bfloat16().requires_grad_() for _ in range(3)]
    allowed = torch.ones(options.length, options.length, dtype=torch.bool).tril().expand(options.rows, 1, -1, -1)
    added = torch.zeros(allowed.shape).masked_fill(~allowed, torch.finfo(torch.float32).min)
    module = nn.Identity()
    module.num_key_value_groups, module.is_causal = 1, False
    attend = {
        "eager": lambda: eager_attention_forward(module, *parts, added.bfloat16(), scaling=WIDTH**-0.5)[0],
        "sdpa": lambda: sdpa_attention_forward(module, *parts, allowed, scaling=WIDTH**-0.5)[0],
        "plain": lambda: plain_attention(module, *parts, added, scaling=WIDTH**-0.5)[0],
    }
    seconds = time_in_turns({name: _both_ways(one, parts) for name, one in attend.items()}, options.rounds)
    wide = [part.detach().float() for part in parts]
    wanted = eager_attention_forward(module, *wide, added, scaling=WIDTH**-0.5)[0]
    rows = [
        [
            name,
            f"{1000 * seconds[name]:.1f}",
            f"{seconds['eager'] / seconds[name]:.2f}",
            f"{relative_difference(attend[name]().float(), wanted):.1e}",
        ]
        for name in attend
    ]
    print_table(["forward and backward", "ms", "times as fast as eager", "difference from float32"], rows)


def _both_ways(attend: Callable[[], Tensor], parts: list[Tensor]) -> Callable[[], object]:
    return lambda: torch.autograd.grad(attend().float().sum(), parts)


if __name__ == "__main__":
    main()

"""What N prompts on one image cost: packed in one pass, against three other ways that give the same [LOC] states.

``separate`` is one full pass per prompt, vision included, as the paper does it; ``cached vision`` encodes the image
once; ``expanded cache`` runs the prefix once and copies its key-value cache N times: the strongest way that
transformers offers. ``packed`` is the adapter's own path. Where vision is encoded once, the figures are those of the
connector and the LLM, without the tower; next to ``separate``, the tower's time is added to ``packed``. Random
weights, float32, one thread, least process CPU time, taken in turns. The bars are ratios, and hold only if the states
are equal.
"""

import argparse
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor
from transformers import DynamicCache
from transformers.modeling_outputs import BaseModelOutputWithPooling

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from _llava import LlavaSizes, hide_progress_bars, make_llava
from _timing import print_table, relative_difference, time_in_turns

from lumen.lmm.adapter import HFAdapter
from lumen.lmm.nano.tokenizer import WORDS
from lumen.structures import Prompt

TOLERANCE = 1e-5
SIZES = LlavaSizes(layers=12, width=768, mlp_width=2048, vision_layers=12, vision_width=384, image_side=336)
SLOW, QUICK = ("separate", "cached vision"), ("packed", "expanded cache")
EXAMPLES = """examples:
  OMP_NUM_THREADS=1 python tools/benchmarks/prompt_cost.py                   5 minutes of CPU time
  OMP_NUM_THREADS=1 python tools/benchmarks/prompt_cost.py --prompts 8 --rounds 5 --slow-rounds 3
"""


@dataclass(frozen=True, slots=True)
class Bars:
    """Least ratios of CPU time that pass, for one number of prompts; 0 asks for nothing.

    Args:
        cached_vision: Of ``cached vision`` to ``packed``.
        token_share: The same ratio, over the ratio of the numbers of tokens.
        expanded_cache: Of ``expanded cache`` to ``packed``.
    """

    cached_vision: float = 0.0
    token_share: float = 0.0
    expanded_cache: float = 0.0


BARS = {8: Bars(cached_vision=5.0), 80: Bars(token_share=0.65, expanded_cache=2.2)}


def main() -> None:
    """Measure each number of prompts, print one table each, stop below a bar or at a difference."""
    arguments = parse_arguments()
    torch.set_num_threads(1)
    hide_progress_bars()
    with tempfile.TemporaryDirectory() as folder:
        adapter = HFAdapter(str(make_llava(folder, SIZES))).eval()
    print(f"LLM {SIZES.layers} x {SIZES.width}, MLP {SIZES.mlp_width}; tower {SIZES.vision_layers} x", end=" ")
    print(f"{SIZES.vision_width}; {SIZES.num_image_tokens} image tokens; suffixes of {arguments.suffix} tokens")
    failures = []
    for count in arguments.prompts:
        turns = dict.fromkeys(SLOW, arguments.slow_rounds) | dict.fromkeys(QUICK, arguments.rounds)
        failures += measure(adapter, count, arguments.suffix, turns, BARS.get(count, Bars()))
    if failures:
        raise SystemExit("\n".join(failures))


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--prompts", type=int, nargs="+", default=[8, 80], help="numbers of prompts (default: 8 80)")
    parser.add_argument("--suffix", type=int, default=12, help="tokens per prompt (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=5, help="turns of the quick ways (default: %(default)s)")
    parser.add_argument("--slow-rounds", type=int, default=1, help="turns of the separate ways (default: %(default)s)")
    return parser.parse_args()


@torch.no_grad()
def measure(adapter: HFAdapter, count: int, suffix_tokens: int, turns: dict[str, int], bars: Bars) -> list[str]:
    """Check that all ways agree, time them, print a table; return what failed."""
    ways = Ways(adapter, count, suffix_tokens)
    seconds = time_in_turns({"vision": ways.vision, **ways.all}, {"vision": max(turns.values()), **turns})
    expected = ways.states["separate"]
    differences = {name: relative_difference(states, expected) for name, states in ways.states.items()}
    packed, vision = seconds["packed"], seconds.pop("vision")
    ratios = {name: value / packed for name, value in seconds.items()}
    ratios["separate"] = seconds["separate"] / (packed + vision)
    shares = {name: f"{ratios[name] / ways.token_ratio:.0%}" if name in SLOW else "" for name in seconds}
    rows = [
        [name, f"{value:.3f}", f"{ratios[name]:.2f}", shares[name], f"{differences[name]:.0e}"]
        for name, value in seconds.items()
    ]
    print(f"\n{count} prompts: {ways.token_ratio:.1f} times fewer tokens packed; vision tower {vision:.3f} s")
    print_table(["", "CPU s", "to packed", "of token ratio", "difference"], rows)
    share = ratios["cached vision"] / ways.token_ratio
    checks = [
        ("cached vision to packed", ratios["cached vision"], bars.cached_vision),
        ("share of the token ratio", share, bars.token_share),
        ("expanded cache to packed", ratios["expanded cache"], bars.expanded_cache),
    ]
    failures = [
        f"{count} prompts, {name}: {value:.2f}, the bar is {bar:g}" for name, value, bar in checks if value < bar
    ]
    return failures + [
        f"{count} prompts: the states of {name} differ by {value:.1e}, expected at most {TOLERANCE:g}"
        for name, value in differences.items()
        if not value <= TOLERANCE
    ]


class Ways:
    """The ways to ask ``count`` prompts about one image; each leaves its [LOC] states in ``states``."""

    def __init__(self, adapter: HFAdapter, count: int, suffix_tokens: int) -> None:
        self.lmm, self.adapter = adapter.base_model, adapter
        side = adapter.input_spec.fixed_hw[0]
        generator = torch.Generator().manual_seed(0)
        images = torch.randint(0, 256, (1, 3, side, side), generator=generator, dtype=torch.uint8)
        self.prompts = make_prompts(adapter, count, suffix_tokens)
        self.suffixes = [list(adapter.encoder.suffix(prompt.text, prompt.task).ids) for prompt in self.prompts]
        self.prefix = adapter.prefix((side, side))
        self.pixels = adapter.statistics.normalise(images)
        self.encoded = adapter.encode_images(images)
        self.tower = self.lmm.model.vision_tower(self.pixels, output_hidden_states=True)
        self.states: dict[str, Tensor] = {}
        functions: dict[str, Callable[[], Tensor]] = {
            "separate": self.separate,
            "cached vision": self.cached_vision,
            "expanded cache": self.expanded_cache,
            "packed": self.packed,
        }
        self.all = {name: self._keep(name, function) for name, function in functions.items()}

    @property
    def token_ratio(self) -> float:
        """Tokens of all separate passes over the tokens of the packed one."""
        length, count = len(self.prefix), len(self.suffixes)
        suffix = len(self.suffixes[0])
        return count * (length + suffix) / (length + count * suffix)

    def vision(self) -> None:
        """Run the vision tower."""
        self.lmm.model.vision_tower(self.pixels, output_hidden_states=True)

    def packed(self) -> Tensor:
        """Ask all prompts at once, by the adapter."""
        return self.adapter.ask(replace(self.encoded, states=self._connect()), [self.prompts]).query

    def separate(self) -> Tensor:
        """Run everything once per prompt."""
        return torch.cat([self._pass(suffix, pixel_values=self.pixels) for suffix in self.suffixes])

    def cached_vision(self) -> Tensor:
        """Run the LLM once per prompt on features of the image that are computed once."""
        encoded = self._connect()
        return torch.cat([self._pass(suffix, mm_encoder_outputs={"image": encoded}) for suffix in self.suffixes])

    def expanded_cache(self) -> Tensor:
        """Run the prefix once, copy its cache for every prompt, run all suffixes as one batch."""
        cache = DynamicCache(config=self.lmm.config.text_config)
        encoded = {"image": self._connect()}
        prefix = torch.tensor([self.prefix])
        self.lmm.model(input_ids=prefix, mm_encoder_outputs=encoded, past_key_values=cache, use_cache=True)
        cache.batch_repeat_interleave(len(self.suffixes))
        suffixes = torch.tensor(self.suffixes)
        return self.lmm.model(input_ids=suffixes, past_key_values=cache, use_cache=True).last_hidden_state[:, -1]

    def _connect(self) -> BaseModelOutputWithPooling:
        """Run the connector on the states of the tower."""
        projected = self.lmm.model.multi_modal_projector(self.tower.hidden_states[-2][:, 1:])
        return BaseModelOutputWithPooling(pooler_output=list(projected), hidden_states=self.tower.hidden_states)

    def _pass(self, suffix: list[int], **image: object) -> Tensor:
        ids = torch.tensor([[*self.prefix, *suffix]])
        return self.lmm.model(input_ids=ids, use_cache=False, **image).last_hidden_state[:, -1]

    def _keep(self, name: str, function: Callable[[], Tensor]) -> Callable[[], None]:
        def run() -> None:
            self.states[name] = function()

        return run


def make_prompts(adapter: HFAdapter, count: int, suffix_tokens: int) -> list[Prompt]:
    """Return different prompts whose suffix has so many tokens; the last one is [LOC]."""
    encode = adapter.encoder.tokenizer
    words = [
        word for word in dict.fromkeys(WORDS) if len(encode(f" {word}", add_special_tokens=False)["input_ids"]) == 1
    ]
    generator = torch.Generator().manual_seed(0)
    picks = torch.randint(len(words), (count, suffix_tokens - 1), generator=generator).tolist()
    prompts = [Prompt(" ".join(words[pick] for pick in row)) for row in picks]
    suffixes = [adapter.encoder.suffix(prompt.text, prompt.task) for prompt in prompts]
    if any(len(suffix.ids) != suffix_tokens or suffix.slots[0] != suffix_tokens - 1 for suffix in suffixes):
        raise ValueError(f"the template must give suffixes of {suffix_tokens} tokens that end in [LOC]")
    return prompts


if __name__ == "__main__":
    main()

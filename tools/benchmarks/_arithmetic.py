"""How much arithmetic a pass of an LLM takes, and how fast a device does it in plain matrix products."""

import time

import torch
from _timing import time_in_turns
from transformers import PretrainedConfig


def llm_flops(text: PretrainedConfig, tokens: int, seen: int) -> int:
    """Return the floating-point operations of one pass forwards; backwards takes twice as many again.

    Args:
        text: Config of an LLM with gated MLPs.
        tokens: Tokens that go through it.
        seen: Keys that the queries of one head see, over all queries.
    """
    width = text.num_attention_heads * (text.hidden_size // text.num_attention_heads)
    key_width = width // text.num_attention_heads * text.num_key_value_heads
    products = text.hidden_size * (2 * width + 2 * key_width + 3 * text.intermediate_size)
    return text.num_hidden_layers * (2 * tokens * products + 4 * seen * width)


def product_rate(device: torch.device, dtype: torch.dtype) -> float:
    """Return operations per second of a large matrix product, to which percentages refer."""
    side = 8192 if device.type == "cuda" else 1024
    matrix = torch.randn(side, side, device=device, dtype=dtype)

    def multiply() -> None:
        matrix @ matrix

    multiply()
    return 2 * side**3 / seconds_of({"product": multiply}, 5, device)["product"]


def seconds_of(ways: dict, rounds: int | dict, device: torch.device) -> dict[str, float]:
    """Run ways in turns; least process CPU seconds of each, or least wall seconds on a GPU, its queue drained."""
    if device.type != "cuda":
        return time_in_turns(ways, rounds)
    seconds = dict.fromkeys(ways, float("inf"))
    turns = {name: rounds if isinstance(rounds, int) else rounds[name] for name in ways}
    for turn in range(max(turns.values()) + 1):  # the first turn warms up
        for name, way in ways.items():
            if turn > turns[name]:
                continue
            torch.cuda.synchronize(device)
            start = time.perf_counter()
            way()
            torch.cuda.synchronize(device)
            seconds[name] = min(seconds[name], time.perf_counter() - start) if turn else seconds[name]
    return seconds

"""Compare packed prompts with separate ones, with the real weights."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from jaxtyping import UInt8
from torch import Tensor

from lumen.lmm.adapter import HFAdapter
from lumen.structures import Prompt

TOLERANCE = 1e-5


def check_packing(
    adapter: HFAdapter, images: UInt8[Tensor, "images 3 height width"], prompts: Sequence[Sequence[Prompt]]
) -> float:
    """Return the largest difference of ``LocFeatures.query`` between packed and separate prompts.

    Relative to the largest absolute value. In float32 rounding explains ``TOLERANCE``; in bfloat16 about 1e-2.

    Args:
        adapter: A loaded adapter; its packing is left as it was.
        images: RGB at input size.
        prompts: Prompts of each image, at least one in all.

    Raises:
        ValueError: There is no prompt.
    """
    if not any(prompts):
        raise ValueError("packing is compared on prompts, got none")
    packing = adapter.packing
    queries = {}
    with torch.no_grad():
        encoded = adapter.encode_images(images)
        together = "expanded" if packing.mode == "expanded" else "packed"
        for mode in (together, "separate"):
            adapter.packing = replace(packing, mode=mode)
            queries[mode] = adapter.ask(encoded, prompts).query.double()
    adapter.packing = packing
    difference = (queries[together] - queries["separate"]).abs().max() / queries["separate"].abs().max()
    return float(difference)

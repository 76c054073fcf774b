"""Attention by plain products in few passes over memory, for small LLMs on a CPU.

At small sizes the products of attention are cheap, and what counts is how often the square of scores is read and
written. ``eager`` of transformers scales it, adds the mask, widens it to float32 and narrows it again, one by one. Here
scale and mask belong to the product, and the softmax stays in the type of the values; it sums in float32 inside.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import repeat_kv
from transformers.masking_utils import AttentionMaskInterface, eager_mask

from lumen.errors import ConfigError

PLAIN = "plain"
"""Name of this attention, for ``BaseOptions.attention``."""

ADDS_MASK = ("eager", PLAIN)
"""Attention implementations that add their mask to the scores; others take one of truth values."""


def plain_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    scaling: float | None = None,
    dropout: float = 0.0,
    **options: object,
) -> tuple[Tensor, Tensor]:
    """Return what transformers' attention functions return: (rows, length, heads, width), and the weights.

    Raises:
        ConfigError: The LLM's attention has more to it, such as sinks.
    """
    further = sorted(name for name in ("s_aux", "softcap", "position_bias") if options.get(name) is not None)
    if further:
        raise ConfigError(f"attention={PLAIN!r} does not know {further}, which this LLM has: use 'eager'")
    groups, scale = query.shape[1] // key.shape[1], query.shape[-1] ** -0.5 if scaling is None else scaling
    # Under autocast positions leave queries and keys in float32.
    size, query, key = query.shape[:2], query.to(value.dtype).flatten(0, 1), key.to(value.dtype)
    key, value = (repeat_kv(each, groups).flatten(0, 1) for each in (key, value))
    if attention_mask is None:
        scores = (query * scale) @ key.transpose(1, 2)
    else:
        # The least number of a wider type would be minus infinity, and a row of those has no softmax. Autocast narrows
        # what the product is given, whatever its type; the meta device, where costs are counted, has no autocast.
        device = value.device.type
        is_narrowed = torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)
        product = torch.get_autocast_dtype(device) if is_narrowed else value.dtype
        least = max(torch.finfo(dtype).min for dtype in (product, value.dtype))
        mask = attention_mask.clamp(min=least).to(value.dtype)
        mask = mask.expand(*size, *mask.shape[2:]).flatten(0, 1)
        scores = torch.baddbmm(mask, query, key.transpose(1, 2), alpha=scale)
    weights = functional.dropout(scores.softmax(-1).to(value.dtype), p=dropout, training=module.training)
    mixed = (weights @ value).unflatten(0, size)
    return mixed.transpose(1, 2).contiguous(), weights.unflatten(0, size)


AttentionInterface.register(PLAIN, plain_attention)
AttentionMaskInterface.register(PLAIN, eager_mask)

import pytest
import torch
from torch import nn
from transformers.models.llama.modeling_llama import eager_attention_forward

from lumen.errors import ConfigError
from lumen.lmm.packing.plain_attention import plain_attention

MODULE = nn.Identity().eval()
MODULE.num_key_value_groups = 2


def inputs(dtype):
    torch.manual_seed(0)
    query = torch.randn(2, 4, 5, 8, dtype=dtype)
    key, value = torch.randn(2, 2, 2, 5, 8, dtype=dtype)
    allowed = torch.ones(5, 5, dtype=torch.bool).tril()[None, None]
    mask = torch.zeros(2, 1, 5, 5).masked_fill(~allowed, torch.finfo(torch.float32).min)
    return [each.requires_grad_() for each in (query, key, value)], mask


@pytest.mark.parametrize("with_mask", [True, False])
@pytest.mark.parametrize(("dtype", "most"), [(torch.float32, 1e-6), (torch.bfloat16, 2e-2)])
def test_it_is_eager_attention(dtype, most, with_mask):
    parts, mask = inputs(dtype)
    mask = mask if with_mask else None
    found = plain_attention(MODULE, *parts, mask, scaling=0.3)
    wanted = eager_attention_forward(MODULE, *(part.float() for part in parts), mask, scaling=0.3)
    assert found[0].shape == (2, 5, 4, 8) and found[1].shape == (2, 4, 5, 5)
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one.float(), other, rtol=0, atol=most)
    for one, other in zip(*(torch.autograd.grad(each[0].float().square().sum(), parts) for each in (found, wanted)),
                          strict=True):  # fmt: skip
        torch.testing.assert_close(one.float(), other.float(), rtol=0.05, atol=20 * most)


@pytest.mark.parametrize("is_narrowed", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_row_that_sees_nothing_stays_finite(dtype, is_narrowed):
    parts, mask = inputs(dtype)
    with torch.autocast("cpu", torch.bfloat16, enabled=is_narrowed):
        mixed, weights = plain_attention(MODULE, *parts, torch.full_like(mask, torch.finfo(torch.float32).min))
    assert mixed.isfinite().all() and torch.allclose(weights.float(), torch.tensor(0.2), atol=1e-3)


def test_costs_are_counted_on_the_meta_device():
    parts, mask = inputs(torch.bfloat16)
    mixed, _ = plain_attention(MODULE, *(part.to("meta") for part in parts), mask.to("meta"))
    assert mixed.is_meta and mixed.shape == (2, 5, 4, 8)


def test_attention_with_sinks_is_refused():
    parts, mask = inputs(torch.float32)
    with pytest.raises(ConfigError, match=r"does not know \['s_aux'\]"):
        plain_attention(MODULE, *parts, mask, s_aux=torch.zeros(4))

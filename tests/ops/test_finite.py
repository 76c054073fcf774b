import torch

from lumen.ops.finite import is_finite, names_not_finite


def test_what_is_finite():
    whole = {"empty": torch.zeros(0), "numbers": torch.tensor([1]), "narrow": torch.ones(2, dtype=torch.bfloat16)}
    # The norm of large values overflows, the values are finite.
    whole["large"] = torch.full((4,), 3e38)
    assert is_finite(whole.values()) and is_finite([])
    assert names_not_finite(whole | {"a": torch.tensor(torch.nan), "b": torch.tensor([0.0, -torch.inf])}) == ["a", "b"]


def test_quantized_weights_and_those_without_memory_are_not_looked_at():
    assert is_finite([torch.zeros(2).to(torch.float8_e4m3fn), torch.zeros(2, device="meta")])

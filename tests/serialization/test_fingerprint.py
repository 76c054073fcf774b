import pytest
import torch

from lumen.errors import CheckpointError, DataError
from lumen.serialization.fingerprint import describe_settings, digest_tensors, require_equal


def test_settings_without_effect_are_left_out():
    one = {"type": "a.b.Kind", "size": (1, 2), "cache_mb": 3, "data_root": "x"}
    other = {"type": "Kind", "cache_mb": 4, "size": [1, 2], "data_root": "y"}
    assert describe_settings(one) == describe_settings(other) == "Kind(size=[1, 2])"
    grouped = {"type": dict, "base": {"attention": "sdpa"}, "readout": {"name_tokens": 3, "position": "loc"}}
    assert describe_settings(grouped) == "dict(readout=(position='loc'))"
    assert describe_settings({"type": dict, "steps": [one, None]}) == "dict(steps=[Kind(size=[1, 2]), None])"
    with pytest.raises(DataError, match=r"gone\.json cannot be read"):
        describe_settings({"ann_file": "gone.json"})


def test_a_digest_knows_names_types_and_bits():
    one = {"a": torch.ones(2), "b": torch.zeros(3, dtype=torch.bfloat16)}
    assert digest_tensors(one) == digest_tensors(dict(reversed(one.items())))
    for other in (
        one | {"a": torch.tensor([1.0, 1.0 + 1e-6])},
        one | {"a": torch.ones(2, dtype=torch.int32)},
        {"c": one["a"], "b": one["b"]},
    ):
        assert digest_tensors(other) != digest_tensors(one)
    assert digest_tensors({"scalar": torch.tensor(1.0)}) != digest_tensors({})


def test_every_difference_is_named_with_both_values():
    require_equal({"a": 1}, {"a": 1}, "other model", remedy="Do it again")
    message = r"^other model\. a: 1 there, 2 here; b: None there, 3 here\. Do it again$"
    with pytest.raises(CheckpointError, match=message):
        require_equal({"a": 1, "c": 0}, {"a": 2, "b": 3, "c": 0}, "other model", remedy="Do it again")
    with pytest.raises(DataError, match="a: 1 there, None here"):
        require_equal({"a": 1}, {}, "other data", remedy="Write it again", error=DataError)

import pytest
import torch
from transformers import AttentionInterface, CLIPVisionConfig, LlamaConfig, LlavaConfig

from lumen.lmm.packing import selfcheck
from lumen.lmm.packing.prefix_attention import SPLIT


def grouped_config(heads=9, key_heads=3, head_dim=64):
    """A LLaVA whose LLM has the heads of SmolLM2."""
    text = LlamaConfig(
        hidden_size=heads * head_dim,
        num_attention_heads=heads,
        num_key_value_heads=key_heads,
        head_dim=head_dim,
        num_hidden_layers=30,
        intermediate_size=1536,
        vocab_size=512,
    )
    tower = CLIPVisionConfig(hidden_size=32, num_attention_heads=2, intermediate_size=32, num_hidden_layers=1)
    return LlavaConfig(vision_config=tower, text_config=text, image_token_id=500)


@pytest.mark.parametrize(
    ("heads", "key_heads", "small"), [(9, 3, (6, 2)), (4, 4, (2, 2)), (32, 1, (32, 1)), (40, None, (2, 2))]
)
def test_the_small_copy_keeps_query_heads_per_key_head(heads, key_heads, small):
    fields = {"num_attention_heads": heads, "num_key_value_heads": key_heads, "hidden_size": 64 * heads}
    found = selfcheck._small_heads(fields)
    assert (found["num_attention_heads"], found["num_key_value_heads"]) == small
    assert found["hidden_size"] == small[0] * found["head_dim"] == small[0] * 64


def test_grouped_queries_pack_and_split():
    config = grouped_config()
    config._attn_implementation = "sdpa"
    assert selfcheck.packing_works(config)
    assert selfcheck.split_works(config)


def test_keys_dealt_to_the_wrong_queries_are_found_out(monkeypatch):
    config, right = grouped_config(), AttentionInterface()[SPLIT]

    def dealt_in_turn(module, query, key, value, mask, *, split=None, **options):
        """Give query head h the keys of head h % key heads, which is right where there are no groups."""
        key_heads, heads = key.shape[1], query.shape[1]
        order = torch.arange(heads).view(-1, key_heads).T.flatten()
        if split is None:
            return right(module, query, key, value, mask, **options)
        mixed, weights = right(module, query[:, order], key, value, mask, split=split, **options)
        return mixed[:, :, order.argsort()], weights

    monkeypatch.setattr(selfcheck, "_check", selfcheck._check.__wrapped__)
    monkeypatch.setitem(AttentionInterface._global_mapping, SPLIT, dealt_in_turn)
    assert not selfcheck.split_works(config)
    assert selfcheck.split_works(grouped_config(heads=9, key_heads=9))

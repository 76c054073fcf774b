import pytest
import torch
from torch.nn import functional

from lumen.ops.attention import Attention, TwoWayLayer, attend, mlp


def test_attention_equals_the_fused_kernel():
    torch.manual_seed(0)
    query, key, value = torch.randn(2, 3, 5, 8), torch.randn(2, 3, 7, 8), torch.randn(2, 3, 7, 8)
    torch.testing.assert_close(attend(query, key, value), functional.scaled_dot_product_attention(query, key, value))


def test_attention_of_one_key_gives_its_value():
    value = torch.randn(1, 1, 1, 4)
    assert torch.equal(attend(torch.randn(1, 1, 3, 4), torch.randn(1, 1, 1, 4), value), value.expand(1, 1, 3, 4))


def test_channels_that_heads_cannot_share_are_refused():
    with pytest.raises(ValueError, match="16 inner channels cannot be split into 3 heads"):
        Attention(32, 3, downsample=2)


def test_shared_keys_equal_keys_that_were_copied():
    torch.manual_seed(0)
    attention = Attention(32, 4, downsample=2)
    query, key = torch.randn(3, 2, 32), torch.randn(2, 6, 32)
    owner = torch.tensor([1, 0, 1])
    torch.testing.assert_close(attention(query, key, key, owner), attention(query, key[owner], key[owner]))


def two_way(num_queries, is_first):
    torch.manual_seed(0)
    layer = TwoWayLayer(32, 4, 64, is_first=is_first)
    tokens, image, position = torch.randn(3, 2, 32), torch.randn(2, 6, 32), torch.randn(6, 32)
    owner = torch.tensor([0, 1, 1])
    queries = torch.randn(num_queries, 32).expand(3, -1, -1)
    second = layer.second_stream(queries, queries, tokens, tokens, image, position, owner)
    return layer, (tokens, tokens, image, position, owner), queries, second


@pytest.mark.parametrize("is_first", [True, False])
def test_a_map_query_reads_neither_other_queries_nor_their_number(is_first):
    *_, alone = two_way(1, is_first)
    *_, among = two_way(4, is_first)
    torch.testing.assert_close(among[:, :1], alone, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("is_first", [True, False])
def test_a_map_query_sees_what_a_third_token_would_see(is_first):
    layer, inputs, queries, second = two_way(1, is_first)
    tokens, _, image, position, owner = inputs
    joint = torch.cat([tokens, queries], 1)
    updated, _ = layer(joint, joint, image, position, owner)
    torch.testing.assert_close(second, updated[:, 2:], rtol=1e-5, atol=1e-5)


def test_the_image_is_split_by_pairs_only_after_the_first_layer():
    layer, inputs, _, _ = two_way(1, True)
    tokens, image = layer(*inputs)
    assert tokens.shape == (3, 2, 32)
    assert image.shape == (3, 6, 32)


def test_no_pairs_pass_through_a_layer():
    layer, (_, _, image, position, _), _, _ = two_way(1, True)
    none = torch.zeros(0, 2, 32)
    tokens, image = layer(none, none, image, position, torch.zeros(0, dtype=torch.long))
    assert (tokens.shape, image.shape) == ((0, 2, 32), (0, 6, 32))


def test_an_mlp_has_as_many_layers_as_asked():
    layers = [module for module in mlp(8, 3, depth=4) if isinstance(module, torch.nn.Linear)]
    assert [layer.out_features for layer in layers] == [8, 8, 8, 3]

import pytest
import torch
from adapter_cases import PHRASES
from helpers import make_images, relative_difference
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from lumen.lmm.packing import chunked_attention as chunked
from lumen.lmm.packing import passes, prefix_attention, selfcheck
from lumen.lmm.packing.chunked_attention import chunked_attention, find_suffixes
from lumen.lmm.packing.prefix_attention import find_blocks, split_attention, split_of
from lumen.lmm.packing.rows import block_mask
from lumen.structures import Prompt

PREFIX, SCALE = 5, 0.3
CPU = torch.device("cpu")


def segments_of(sizes):
    """Return the segments behind the prefix of rows whose suffixes have these sizes."""
    length = max(map(sum, sizes))
    rows = [[at + 1 for at, size in enumerate(row) for _ in range(size)] for row in sizes]
    return torch.tensor([row + [-1] * (length - len(row)) for row in rows])


def draw(sizes, heads=4, key_heads=4, dtype=torch.float64):
    segments = segments_of(sizes)
    rows, length = segments.shape
    generator = torch.Generator().manual_seed(0)
    shapes = [(rows, heads, length, 8)] + [(rows, key_heads, PREFIX + length, 8)] * 2
    tensors = [torch.randn(shape, generator=generator, dtype=dtype).requires_grad_() for shape in shapes]
    return segments, tensors


def in_pieces(segments, query, key, value):
    prefix, own = ([part[:, :, at] for part in (key, value)] for at in (slice(PREFIX), slice(PREFIX, None)))
    return split_attention(query, tuple(prefix), tuple(own), find_blocks(segments), SCALE)


def in_chunks(segments, query, key, value):
    prefix, own = ([part[:, :, at] for part in (key, value)] for at in (slice(PREFIX), slice(PREFIX, None)))
    return chunked_attention(query, tuple(prefix), tuple(own), find_suffixes(segments, CPU), SCALE)


def in_one_square(segments, query, key, value):
    rows = len(segments)
    mask = block_mask(torch.cat([torch.zeros(rows, PREFIX, dtype=torch.long), segments], 1))[:, :, PREFIX:]
    key, value = (part.repeat_interleave(query.shape[1] // key.shape[1], 1) for part in (key, value))
    return functional.scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=SCALE)


def compare(sizes, *, key_heads=4, dtype=torch.float64, way=in_pieces):
    """Return the largest differences of the result and of its gradients, where rows are not padding."""
    segments, tensors = draw(sizes, key_heads=key_heads, dtype=dtype)
    asked = (segments > 0)[:, None, :, None]
    found = []
    for each in (way, in_one_square):
        mixed = each(segments, *tensors) * asked
        weight = torch.sin(torch.arange(mixed.numel(), dtype=dtype)).view_as(mixed)
        found.append([mixed, *torch.autograd.grad((mixed * weight).sum(), tensors)])
    return [(one - other).abs().max().item() for one, other in zip(*found, strict=True)]


@pytest.fixture
def small_chunks(monkeypatch):
    """Make chunks of two columns and of one row."""
    monkeypatch.setattr(chunked, "CHUNK", 2)
    monkeypatch.setattr(chunked, "MAX_BYTES", 1)


@pytest.mark.parametrize("way", [in_pieces, in_chunks])
@pytest.mark.parametrize("key_heads", [4, 2, 1])
@pytest.mark.parametrize("sizes", [[[2, 2], [2, 2]], [[3, 1, 2], [1, 4, 1, 1]], [[1]], [[7], [1, 1, 1]]])
def test_prefix_and_suffixes_equal_one_masked_square_with_its_gradients(sizes, key_heads, way, small_chunks):
    assert max(compare(sizes, key_heads=key_heads, way=way)) <= 1e-12
    assert max(compare(sizes, key_heads=key_heads, way=way, dtype=torch.float32)) <= 1e-5


@pytest.mark.parametrize("way", [in_pieces, in_chunks])
@settings(max_examples=20, deadline=None)
@given(sizes=st.lists(st.lists(st.integers(1, 5), min_size=1, max_size=4), min_size=1, max_size=3))
def test_any_sizes_of_suffixes_give_equal_results(sizes, way):
    assert max(compare(sizes, way=way)) <= 1e-12


def test_chunks_in_bfloat16_are_as_exact_as_sdpa():
    """Errors against float64, of the result and of its gradients: at most twice those of the masked square."""
    segments, exact = draw([[5] * 12, [30, 1, 20]], heads=4, key_heads=2)
    exact = [tensor.detach().bfloat16().double().requires_grad_() for tensor in exact]
    narrow = [tensor.detach().bfloat16().requires_grad_() for tensor in exact]
    asked = (segments > 0)[:, None, :, None]
    found = []
    for way, tensors in ((in_one_square, exact), (in_one_square, narrow), (in_chunks, narrow)):
        mixed = way(segments, *tensors) * asked
        found.append([mixed, *torch.autograd.grad(mixed.square().sum(), tensors)])
    for right, usual, ours in zip(*found, strict=True):
        error, bound = ((one.double() - right).square().mean().sqrt() for one in (ours, usual))
        assert error <= 2 * bound
        assert (ours.double() - right).abs().max() <= 2 * (usual.double() - right).abs().max()


class Largest(TorchDispatchMode):
    """Note the bytes of the largest tensor that any operation gives."""

    num_bytes = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        given = function(*args, **(kwargs or {}))
        for tensor in tree_leaves(given):
            if isinstance(tensor, torch.Tensor):
                self.num_bytes = max(self.num_bytes, tensor.numel() * tensor.element_size())
        return given


@pytest.mark.parametrize("sizes", [[[600], [2] * 300], [[3] * 200] * 6])
def test_chunks_take_the_memory_that_the_formula_gives(sizes, monkeypatch):
    monkeypatch.setattr(chunked, "MAX_BYTES", 2**20)
    segments, tensors = draw(sizes, dtype=torch.float32)
    suffixes = find_suffixes(segments, CPU)
    bound = chunked.logit_bytes(len(sizes), 4, PREFIX, suffixes)
    assert bound <= max(2**20, 4 * 4 * 128 * (PREFIX + 128 + max(map(max, sizes))))
    square = 4 * len(sizes) * 4 * 600 * (PREFIX + 600)
    with Largest() as largest:
        mixed = in_chunks(segments, *tensors)
        mixed.sum().backward()
    assert largest.num_bytes <= max(bound, max(tensor.numel() * 4 for tensor in tensors)) < square / 3


def test_suffix_blocks_are_laid_out_only_where_they_are_tiny():
    small, large = segments_of([[3, 1, 2]]), segments_of([[600], [2] * 300])
    assert split_of(PREFIX, small, CPU).blocks is not None
    assert split_of(PREFIX, large, CPU).blocks is None
    assert split_of(PREFIX, small, torch.device("meta")).blocks is None


@pytest.mark.parametrize("way", [in_pieces, in_chunks])
def test_large_products_stay_finite_beside_empty_places(way):
    segments, (query, key, value) = draw([[1, 5], [6]], dtype=torch.float32)
    mixed = way(segments, query * 100, key * 100, value)
    gradients = torch.autograd.grad(mixed.sum(), (query, key, value))
    assert all(one.isfinite().all() for one in (mixed, *gradients))


def test_blocks_without_gaps_need_no_columns():
    assert find_blocks(torch.tensor([[1, 1, 2, 2]])) == prefix_attention.Blocks(2, 2, None)


def test_blocks_name_the_column_of_each_token():
    blocks = find_blocks(torch.tensor([[1, 2, 2, -1], [1, 1, 1, 2]]))
    assert (blocks.num_suffixes, blocks.longest) == (2, 3)
    # column 4, behind the last one, stands for an empty place
    assert blocks.columns.tolist() == [[0, 4, 4, 1, 2, 4], [0, 1, 2, 3, 4, 4]]


def test_a_prefix_alone_has_no_blocks():
    split = split_of(PREFIX, torch.zeros(2, 0, dtype=torch.long), CPU)
    assert (split.suffixes, split.blocks) == (None, None)


def test_a_chunk_sees_from_the_first_column_of_its_suffixes_on():
    suffixes = find_suffixes(torch.tensor([[1, 2, 2, -1], [1, 1, 1, 2]]), CPU)
    assert (suffixes.most, suffixes.first) == (2, (0, 0, 0, 3))


def one_block(start, behind, device, **options):
    """Let each suffix see those before it."""
    return split_of(start, (behind > 0).long(), device, **options)


def prompts_of(*counts):
    return [[Prompt(PHRASES[at % 4] + " one" * (at // 4)) for at in range(count)] for count in counts]


@pytest.mark.parametrize(
    ("template", "laid_out", "counts"),
    [
        ("compact", True, (5, 0, 2)),
        ("paper", True, (5, 0, 2)),
        ("paper", False, (5, 0, 2)),
        ("paper", False, (1, 1, 1)),
    ],
)
def test_split_rows_equal_masked_ones_in_states_losses_and_gradients(
    make_adapter, template, laid_out, counts, monkeypatch
):
    if not laid_out:  # as on a GPU
        monkeypatch.setattr(prefix_attention, "find_blocks", lambda behind: None)
    options = {"template": template, "phrase_reconstruction": True, "add_phrase_state": True}
    images, prompts = make_images(3), prompts_of(*counts)
    found = []
    for attention in ("sdpa", "eager"):
        adapter = make_adapter(attention=attention, **options)
        assert adapter.splits == (attention == "sdpa")
        features = adapter(images, prompts)
        total = features.query.square().sum() + sum(features.text_losses.values())
        gradients = torch.autograd.grad(total, list(adapter.parameters()), allow_unused=True)
        values = [features.query, *features.text_losses.values(), *(one for one in gradients if one is not None)]
        found.append([value.detach() for value in values])
    assert len(found[0]) == len(found[1])
    assert max(relative_difference(one, other) for one, other in zip(*found, strict=True)) <= 1e-4
    assert relative_difference(found[0][0], found[1][0]) <= 1e-5


def test_blocks_that_see_each_other_are_found_out(make_adapter, monkeypatch):
    adapter = make_adapter(attention="sdpa")
    with torch.no_grad():
        right = adapter(make_images(1), prompts_of(4)).query
        monkeypatch.setattr(passes, "split_of", one_block)
        assert relative_difference(adapter(make_images(1), prompts_of(4)).query, right) > 1e-2


def test_the_self_check_finds_leaking_blocks(make_adapter, monkeypatch):
    config = make_adapter().config
    assert selfcheck.split_works(config)
    selfcheck._check.cache_clear()
    monkeypatch.setattr(selfcheck, "split_of", one_block)
    assert not selfcheck.split_works(config)
    selfcheck._check.cache_clear()


@pytest.mark.parametrize("features", ["vision", "both"])
@torch.no_grad()
def test_a_kept_prefix_changes_no_answer(make_adapter, features):
    adapter = make_adapter(attention="sdpa", features=features, max_suffix_tokens=9, max_pass_tokens=60)
    images, prompts = make_images(2), prompts_of(7, 3)
    encoded = adapter.encode_images(images, cache_prefix=True)
    eager = make_adapter(features=features)
    wanted = eager.ask(eager.encode_images(images), prompts)
    for _ in range(2):
        found = adapter.ask(encoded, prompts)
        assert relative_difference(found.query, wanted.query) <= 1e-5
        assert relative_difference(found.grid, wanted.grid) <= 1e-5
        assert [images for _, images in encoded.prefix_cache.kept] == [(0, 1)]


@torch.no_grad()
def test_a_later_question_reads_its_own_tokens_only(make_adapter):
    adapter = make_adapter(attention="sdpa")
    encoded = adapter.encode_images(make_images(1), cache_prefix=True)
    adapter.ask(encoded, prompts_of(2))
    size = encoded.prefix_cache.num_bytes
    adapter.usage.clear()
    adapter.ask(encoded, prompts_of(4))
    suffixes = [adapter.encoder.suffix(prompt.text, prompt.task) for prompt in prompts_of(4)[0]]
    assert (adapter.usage.passes, adapter.usage.tokens) == (1, sum(len(suffix.ids) for suffix in suffixes))
    assert encoded.prefix_cache.num_bytes == size


@torch.no_grad()
def test_a_prefix_cache_is_left_alone_where_nothing_splits(make_adapter):
    adapter = make_adapter()
    encoded = adapter.encode_images(make_images(1), cache_prefix=True)
    adapter.ask(encoded, prompts_of(2))
    assert encoded.prefix_cache.kept == {}

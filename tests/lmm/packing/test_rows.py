import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lumen.errors import PromptError
from lumen.lmm.packing.rows import IGNORE, Suffix, additive_mask, block_mask, pack_rows, prefix_row


def suffix(*ids, answer=None):
    return Suffix(ids, (0, 1), (len(ids) - 1,), len(ids) if answer is None else answer)


def pack(suffixes, prefix=(7, 8, 9), max_suffix_tokens=100, context=50):
    return pack_rows(prefix, suffixes, max_suffix_tokens=max_suffix_tokens, context=context, pad_id=0)


def test_two_suffixes_of_one_image_share_a_row():
    rows = pack([[suffix(11, 12), suffix(21, 22, 23)]])
    assert rows.input_ids.tolist() == [[7, 8, 9, 11, 12, 21, 22, 23]]
    assert rows.position_ids.tolist() == [[0, 1, 2, 3, 4, 3, 4, 5]]
    assert rows.segments.tolist() == [[0, 0, 0, 1, 1, 2, 2, 2]]
    assert rows.row_image.tolist() == [0]
    assert rows.pair_row.tolist() == [0, 0]
    assert rows.pair_start.tolist() == [3, 5]


def test_a_suffix_sees_the_prefix_and_its_own_past():
    seen = block_mask(pack([[suffix(11, 12), suffix(21, 22)]], prefix=(7, 8)).segments)[0, 0].int().tolist()
    assert seen == [
        [1, 0, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0],
        [1, 1, 1, 0, 0, 0],
        [1, 1, 1, 1, 0, 0],
        [1, 1, 0, 0, 1, 0],
        [1, 1, 0, 0, 1, 1],
    ]


def test_padding_sees_itself_and_nobody_sees_padding():
    rows = pack([[suffix(11)], [suffix(21, 22, 23)]], prefix=(7,))
    assert rows.input_ids.tolist() == [[7, 11, 0, 0], [7, 21, 22, 23]]
    assert rows.segments.tolist() == [[0, 1, -1, -1], [0, 1, 1, 1]]
    mask = block_mask(rows.segments)[0, 0]
    assert mask.any(1).all()
    assert not mask[:2, 2:].any()


def test_a_row_mixes_prompts_of_one_image_only():
    rows = pack([[suffix(11)], [], [suffix(31), suffix(32)]])
    assert rows.row_image.tolist() == [0, 2]
    assert rows.pair_row.tolist() == [0, 1, 1]


def test_answers_shift_within_their_suffix():
    rows = pack([[suffix(11, 12, 13, answer=1), suffix(21, 22, answer=1), suffix(31, 32)]], prefix=(7, 8))
    # column 1 ends the prefix and column 4 the first suffix: neither predicts the suffix that follows
    assert rows.answer_targets.tolist() == [[IGNORE, IGNORE, 12, 13, IGNORE, 22, IGNORE, IGNORE, IGNORE]]


def test_the_first_token_of_a_suffix_is_never_a_target():
    assert pack([[suffix(11, 12, answer=0)]], prefix=(7,)).answer_targets.tolist() == [[IGNORE, 12, IGNORE]]


def test_a_row_is_full_at_the_bound_and_not_before():
    two = [[suffix(11, 12), suffix(21, 22)]]
    assert pack(two, max_suffix_tokens=4).pair_row.tolist() == [0, 0]
    assert pack(two, max_suffix_tokens=3).pair_row.tolist() == [0, 1]


def test_a_suffix_longer_than_the_bound_gets_a_row_of_its_own():
    rows = pack([[suffix(11), suffix(21, 22, 23), suffix(31)]], max_suffix_tokens=2)
    assert rows.pair_row.tolist() == [0, 1, 0]
    assert rows.pair_start.tolist() == [3, 3, 4]


def test_suffixes_fill_the_gaps_that_longer_ones_leave():
    sizes = (2, 3, 1, 2)
    rows = pack([[suffix(*range(10, 10 + size)) for size in sizes]], max_suffix_tokens=4)
    assert rows.input_ids.shape == (2, 3 + 4)
    assert rows.pair_row.tolist() == [0, 1, 1, 0]
    assert (rows.segments >= 0).all()


def test_an_image_with_many_prompts_is_split_where_that_costs_less_than_the_padding():
    one, many = [suffix(11, 12)], [suffix(11, 12)] * 8
    split = pack([one] * 7 + [many], prefix=(7,))
    # 8 rows of 17 tokens would cost 136; 7 + 4 of 5 tokens cost 55; 7 + 8 of 3 tokens cost 45 and waste none
    assert split.input_ids.shape == (15, 3)
    assert (split.segments >= 0).all()
    together = pack([one] * 7 + [many], prefix=tuple(range(100)), context=200)
    # behind a prefix of 100 tokens, 8 rows of 116 tokens cost 928, and 9 rows of 108 already 972
    assert together.input_ids.shape == (8, 116)


def test_the_context_counts_the_prefix_and_one_suffix():
    many = [[suffix(*range(10, 14)) for _ in range(9)]]
    assert pack(many, context=7).input_ids.shape == (1, 3 + 36)
    with pytest.raises(PromptError, match="4 tokens behind a prefix of 3 does not fit the context of 6"):
        pack(many, context=6)


def test_no_prompts_give_no_rows():
    for suffixes in ([], [[], []]):
        rows = pack(suffixes)
        assert rows.input_ids.shape == (0, 3)
        assert len(rows.row_image) == len(rows.pair_row) == len(rows.pair_start) == 0
        assert block_mask(rows.segments).shape == (0, 1, 3, 3)


def test_a_prefix_row_holds_no_pair():
    row = prefix_row([7, 8])
    assert row.input_ids.tolist() == [[7, 8]]
    assert row.position_ids.tolist() == [[0, 1]]
    assert len(row.pair_row) == 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_additive_mask_adds_nothing_where_a_key_is_seen(dtype):
    mask = additive_mask(torch.tensor([[[[True, False], [True, True]]]]), dtype)
    assert mask.dtype == dtype
    assert mask.tolist() == [[[[0.0, torch.finfo(dtype).min], [0.0, 0.0]]]]


@settings(max_examples=60, deadline=None)
@given(
    lengths=st.lists(st.lists(st.integers(1, 9), max_size=6), max_size=4),
    prefix_length=st.integers(1, 5),
    bound=st.integers(0, 20),
)
def test_every_suffix_stands_where_its_pair_says(lengths, prefix_length, bound):
    token = iter(range(100, 10_000))
    suffixes = [[suffix(*(next(token) for _ in range(size)), answer=size // 2) for size in own] for own in lengths]
    prefix = list(range(1, prefix_length + 1))
    rows = pack(suffixes, prefix=prefix, max_suffix_tokens=bound)
    flat = [(image, one) for image, own in enumerate(suffixes) for one in own]
    assert len(rows.pair_row) == len(flat)
    mask = block_mask(rows.segments)[:, 0]
    for (image, one), row, start in zip(flat, rows.pair_row.tolist(), rows.pair_start.tolist(), strict=True):
        own = slice(start, start + len(one.ids))
        assert rows.row_image[row] == image
        assert rows.input_ids[row, :prefix_length].tolist() == prefix
        assert tuple(rows.input_ids[row, own].tolist()) == one.ids
        assert rows.position_ids[row, own].tolist() == list(range(prefix_length, prefix_length + len(one.ids)))
        last = mask[row, own][-1].nonzero()[:, 0].tolist()
        assert last == [*range(prefix_length), *range(start, start + len(one.ids))]
        shifted = [*one.ids[1:], IGNORE]
        wanted = [ids if at + 1 >= max(one.answer, 1) else IGNORE for at, ids in enumerate(shifted)]
        assert rows.answer_targets[row, own].tolist() == wanted
    in_row = (rows.segments > 0).sum(1)
    alone = torch.bincount(rows.pair_row, minlength=len(in_row)) == 1
    assert bool(((in_row <= bound) | alone).all())

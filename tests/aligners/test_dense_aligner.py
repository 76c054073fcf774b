import dataclasses
import math

import pytest
import torch
from helpers import make_sample

from lumen.aligners.convolutions import ConvolutionMixing
from lumen.aligners.dense import DenseAligner
from lumen.decoders.boxes import BoxHead
from lumen.errors import ConfigError
from lumen.structures import FeatureWidths, LocFeatures

SIZES = {"widths": FeatureWidths(24, 20, (6, 8)), "channels": 32, "num_heads": 4, "mlp_channels": 48}
IMAGE_INDEX, PROMPT_INDEX = (0, 0, 1, 1, 1), (0, 1, 0, 1, 2)


def make_aligner(**changes):
    torch.manual_seed(0)
    return DenseAligner(**(SIZES | changes)).eval()


def make_features(image_index=IMAGE_INDEX, prompt_index=PROMPT_INDEX, num_images=2):
    generator = torch.Generator().manual_seed(1)

    def normal(*shape):
        return torch.randn(*shape, generator=generator)

    return LocFeatures(
        query=normal(len(image_index), 24),
        grid=normal(num_images, 20, 4, 6),
        laterals=(normal(num_images, 6, 16, 24), normal(num_images, 8, 8, 12)),
        stride=16,
        image_index=torch.as_tensor(image_index, dtype=torch.long).reshape(-1),
        prompt_index=torch.as_tensor(prompt_index, dtype=torch.long).reshape(-1),
    )


def make_queries(num_queries):
    return torch.randn(num_queries, 32, generator=torch.Generator().manual_seed(2))


def some(features, index):
    """Return the features of some pairs; images stay."""
    index = torch.tensor(index, dtype=torch.long)
    return dataclasses.replace(
        features,
        query=features.query[index],
        image_index=features.image_index[index],
        prompt_index=features.prompt_index[index],
    )


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("grad", [True, False])
@pytest.mark.parametrize("channels", [32, 256])
@pytest.mark.parametrize("fine_levels", [0, 1, 2])
def test_plugging_is_neutral(training, grad, channels, fine_levels):
    aligner = make_aligner(channels=channels, fine_levels=fine_levels).train(training)
    features = make_features()
    queries = torch.randn(4, channels)
    with torch.set_grad_enabled(grad):
        alone = aligner(features, queries[:0])
        for plugged_queries in (queries[:1], queries[:2], queries, queries.flip(0)):
            plugged = aligner(features, plugged_queries)
            assert torch.equal(plugged.heat_logits, alone.heat_logits)
            assert torch.equal(plugged.presence_logits, alone.presence_logits)
            assert torch.equal(plugged.query, alone.query)
            assert torch.equal(plugged.dense, alone.dense)


def test_maps_follow_the_order_of_their_queries():
    aligner, features, queries = make_aligner(fine_levels=1), make_features(), make_queries(3)
    maps = aligner(features, queries).maps
    torch.testing.assert_close(aligner(features, queries.flip(0)).maps, maps.flip(1), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(aligner(features, queries[1:2]).maps, maps[:, 1:2], rtol=1e-5, atol=1e-5)


def test_leaking_map_queries_change_the_heatmap():
    aligner, features = make_aligner(leak_map_queries=True), make_features()
    alone, plugged = (aligner(features, make_queries(number)) for number in (0, 2))
    assert not torch.allclose(alone.heat_logits, plugged.heat_logits, atol=1e-3)
    assert plugged.maps.shape == (5, 2, 4, 6)


@pytest.mark.parametrize("fine_levels", [0, 1])
def test_convolutions_in_place_of_attention_keep_the_contract(fine_levels):
    aligner, features, queries = make_aligner(mixing="convolutions", fine_levels=fine_levels), make_features(), 2
    whole, alone = aligner(features, make_queries(queries)), aligner(features, make_queries(0))
    assert torch.equal(whole.heat_logits, alone.heat_logits) and whole.maps.shape[:2] == (5, queries)
    # The first image by itself, its pairs the other way round; another phrase has another heatmap.
    pairs = some(features, [1, 0])
    first = dataclasses.replace(
        pairs, grid=features.grid[:1], laterals=tuple(lateral[:1] for lateral in features.laterals)
    )
    heat = aligner(first, make_queries(0)).heat_logits
    torch.testing.assert_close(heat, whole.heat_logits[[1, 0]], rtol=1e-5, atol=1e-5)
    assert not torch.allclose(heat[0], heat[1], atol=1e-3)


def test_convolutions_join_query_and_cell_as_one_over_both_would():
    torch.manual_seed(0)
    mixing, image, query = ConvolutionMixing(4), torch.randn(2, 4, 3, 5), torch.randn(3, 4)
    owner = torch.tensor([0, 1, 1])
    # One convolution over image and query side by side; the query's weights lie in the middle of the kernel.
    both = torch.cat([image[owner], query[:, :, None, None].expand(-1, -1, 3, 5)], 1)
    of_query = torch.nn.functional.pad(mixing.of_query.weight[:, :, None, None], (1, 1, 1, 1))
    kernel = torch.cat([mixing.of_image.weight, of_query], 1)
    state = torch.nn.functional.conv2d(both, kernel, mixing.of_query.bias, padding=1)
    expected = image[owner] + mixing.second(torch.nn.functional.silu(mixing.norm(state)))
    torch.testing.assert_close(mixing(query, image, owner), expected.flatten(2).transpose(1, 2))


@pytest.mark.parametrize(("fine_levels", "size_hw", "stride"), [(0, (4, 6), 16), (1, (8, 12), 8), (2, (16, 24), 4)])
def test_levels_decide_the_stride(fine_levels, size_hw, stride):
    shared = make_aligner(fine_levels=fine_levels)(make_features(), make_queries(3))
    assert shared.heat_logits.shape == (5, 1, *size_hw)
    assert shared.maps.shape == (5, 3, *size_hw)
    assert shared.dense.shape == (2, 32, *size_hw)
    assert shared.presence_logits.shape == (5,)
    assert shared.query.shape == (5, 32)
    assert shared.stride == stride


@pytest.mark.parametrize("fine_levels", [0, 2])
@pytest.mark.parametrize("leak", [True, False])
def test_chunks_equal_the_whole(fine_levels, leak):
    features, queries = make_features(), make_queries(2)
    with torch.no_grad():
        whole = make_aligner(fine_levels=fine_levels, leak_map_queries=leak)(features, queries)
        pieces = make_aligner(fine_levels=fine_levels, leak_map_queries=leak, max_chunk_bytes=1)(features, queries)
    for name in ("heat_logits", "presence_logits", "query", "maps"):
        torch.testing.assert_close(getattr(pieces, name), getattr(whole, name), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("fine_levels", [0, 2])
def test_a_batch_equals_its_images_alone(fine_levels):
    aligner, features, queries = make_aligner(fine_levels=fine_levels), make_features(), make_queries(2)
    whole = aligner(features, queries)
    for image, pairs in enumerate([[0, 1], [2, 3, 4]]):
        alone = dataclasses.replace(
            some(features, pairs),
            grid=features.grid[image : image + 1],
            laterals=tuple(lateral[image : image + 1] for lateral in features.laterals),
            image_index=torch.zeros(len(pairs), dtype=torch.long),
        )
        shared = aligner(alone, queries)
        for name in ("heat_logits", "presence_logits", "query", "maps"):
            torch.testing.assert_close(getattr(shared, name), getattr(whole, name)[pairs], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("fine_levels", [0, 2])
def test_the_order_of_pairs_is_only_an_order(fine_levels):
    aligner, features, queries = make_aligner(fine_levels=fine_levels), make_features(), make_queries(1)
    order = [3, 0, 4, 1, 2]
    shuffled, whole = aligner(some(features, order), queries), aligner(features, queries)
    torch.testing.assert_close(shuffled.heat_logits, whole.heat_logits[order], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(shuffled.maps, whole.maps[order], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("fine_levels", [0, 1, 2])
@pytest.mark.parametrize(("num_queries", "mixing"), [(0, "attention"), (2, "attention"), (2, "convolutions")])
def test_no_pairs_give_empty_maps_and_connected_losses(fine_levels, num_queries, mixing):
    aligner = make_aligner(fine_levels=fine_levels, mixing=mixing)
    queries = make_queries(num_queries).requires_grad_()
    shared = aligner(make_features((), ()), queries)
    assert shared.heat_logits.shape[:2] == (0, 1)
    assert shared.maps.shape[:2] == (0, num_queries)
    losses = aligner.loss(shared, [make_sample(), make_sample()])
    assert [loss.item() for loss in losses.values()] == [0, 0]
    (sum(losses.values()) + shared.dense.sum()).backward()
    assert [name for name, parameter in aligner.named_parameters() if parameter.grad is None] == []
    assert queries.grad is not None


@pytest.mark.parametrize("mixing", ["attention", "convolutions"])
def test_every_parameter_has_a_gradient_without_map_queries(mixing):
    aligner = make_aligner(fine_levels=1, mixing=mixing)
    shared = aligner(make_features(), make_queries(0))
    samples = [make_sample(["a", "b"], [[0, 0, 32, 32]], [0]), make_sample(["a", "b", "c"])]
    sum(aligner.loss(shared, samples).values()).backward()
    assert [name for name, parameter in aligner.named_parameters() if parameter.grad is None] == []


def test_gradients_reach_the_map_queries_and_the_features():
    aligner, queries = make_aligner(fine_levels=1), make_queries(2).requires_grad_()
    features = make_features()
    for tensor in (features.query, features.grid, *features.laterals):
        tensor.requires_grad_()
    aligner(features, queries).maps.square().sum().backward()
    for tensor in (queries, features.query, features.grid, features.laterals[1]):
        assert float(tensor.grad.abs().sum()) > 0
    assert features.laterals[0].grad is None


def test_features_in_bf16_are_accepted():
    features = make_features()
    half = dataclasses.replace(
        features,
        query=features.query.bfloat16(),
        grid=features.grid.bfloat16(),
        laterals=tuple(lateral.bfloat16() for lateral in features.laterals),
    )
    aligner = make_aligner(fine_levels=2)
    shared = aligner(half, make_queries(1))
    torch.testing.assert_close(shared.heat_logits, aligner(features, make_queries(1)).heat_logits, rtol=0, atol=0.1)


@pytest.mark.parametrize("fine_levels", [0, 2])
def test_autocast_runs_and_keeps_logits_in_float32(fine_levels):
    aligner = make_aligner(fine_levels=fine_levels).train()
    with torch.autocast("cpu", torch.bfloat16):
        shared = aligner(make_features(), make_queries(2))
        losses = aligner.loss(shared, [make_sample(["a", "b"], [[0, 0, 9, 9]], [0]), make_sample(["a", "b", "c"])])
    assert shared.heat_logits.dtype == shared.presence_logits.dtype == shared.maps.dtype == torch.float32
    assert all(loss.dtype == torch.float32 and bool(loss.isfinite()) for loss in losses.values())


@pytest.mark.parametrize("fine_levels", [0, 2])
def test_autocast_leaves_as_many_different_logits_as_float32(fine_levels):
    generator = torch.Generator().manual_seed(0)
    shapes = [(2, 20, 16, 16), (2, 6, 64, 64), (2, 8, 32, 32)]
    grid, *laterals = (torch.randn(shape, generator=generator) for shape in shapes)
    features = dataclasses.replace(make_features(), grid=grid, laterals=tuple(laterals))
    aligner, head = make_aligner(fine_levels=fine_levels).eval(), BoxHead(32).eval()
    counts = []
    for is_narrow in (False, True):
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=is_narrow):
            shared = aligner(features, make_queries(2))
            read = (shared.heat_logits, shared.presence_logits, shared.maps, head(shared))
        counts.append([tensor.unique().numel() for tensor in read])
    assert all(narrow > 0.9 * wide for wide, narrow in zip(*counts, strict=True)), counts


def test_too_many_levels_are_refused():
    with pytest.raises(ConfigError, match="fine_levels=3, but the LMM has 2 finer maps"):
        make_aligner(fine_levels=3)


def test_mixings_that_are_not_there_are_refused():
    with pytest.raises(ConfigError, match=r"mixing must be one of \('attention', 'convolutions'\)"):
        make_aligner(mixing="mlp")
    with pytest.raises(ConfigError, match="mixing='attention' alone"):
        make_aligner(mixing="convolutions", leak_map_queries=True)


def test_an_unknown_target_is_refused():
    with pytest.raises(ConfigError, match=r"heat\.target must be one of \('centernet', 'ttfnet'\)"):
        make_aligner(heat={"target": "circle"})


# --- losses -----------------------------------------------------------------------------------------------------------


def flat(num_pairs=2, logit=0.0):
    """Return a representation of one image whose logits are all equal, on 4 x 6 cells of 16 pixels."""
    features = make_features((0,) * num_pairs, tuple(range(num_pairs)), num_images=1)
    shared = make_aligner()(features, make_queries(0))
    return dataclasses.replace(
        shared,
        heat_logits=torch.full_like(shared.heat_logits, logit).requires_grad_(),
        presence_logits=torch.full_like(shared.presence_logits, logit).requires_grad_(),
    )


def test_losses_of_a_flat_map_are_those_worked_out_by_hand():
    # at logit 0 every probability is 1/2: a cell without object costs 1/4 log 2, and so does one that holds a centre
    losses = make_aligner().loss(flat(1), [make_sample(["cat"])])
    assert losses["loss_heat"].item() == pytest.approx(24 * 0.25 * math.log(2), rel=1e-5)
    assert losses["loss_presence"].item() == pytest.approx(math.log(2), rel=1e-5)


def test_cells_in_crowd_regions_leave_the_negative_term():
    sample = make_sample(["cat"], ignored=[[16, 16, 48, 32]], ignored_index=[0])
    losses = make_aligner().loss(flat(1), [sample])
    assert losses["loss_heat"].item() == pytest.approx((24 - 2) * 0.25 * math.log(2), rel=1e-5)


def test_a_pair_with_nothing_but_crowd_leaves_presence():
    only_crowd = make_sample(["cat", "dog"], ignored=[[16, 16, 48, 32]], ignored_index=[0])
    assert make_aligner().loss(flat(), [only_crowd])["loss_presence"].item() == pytest.approx(math.log(2), rel=1e-5)


def test_a_pair_with_an_object_and_a_crowd_is_present():
    both = make_sample(["cat", "dog"], [[0, 0, 9, 9]], [0], ignored=[[16, 16, 48, 32]], ignored_index=[0])
    losses = make_aligner().loss(flat(logit=20.0), [both])
    # cat is present and right, dog absent and wrong by 20
    assert losses["loss_presence"].item() == pytest.approx(20, rel=1e-4)


@pytest.mark.parametrize("target", ["centernet", "ttfnet"])
def test_packed_losses_are_the_sum_of_separate_ones(target):
    aligner = make_aligner(heat={"target": target})
    features = make_features()
    samples = [
        make_sample(["a", "b"], [[0, 0, 40, 30], [50, 30, 90, 60]], [0, 1]),
        make_sample(["a", "b", "c"], [[10, 10, 20, 20]], [2], ignored=[[0, 0, 30, 30]], ignored_index=[0]),
    ]
    whole = aligner.loss(aligner(features, make_queries(0)), samples)
    for name in ("loss_heat", "loss_presence"):
        alone = sum(aligner.loss(aligner(some(features, [p]), make_queries(0)), samples)[name] for p in range(5))
        torch.testing.assert_close(whole[name], alone, rtol=1e-5, atol=1e-5)


def test_the_heat_loss_pulls_the_centre_up_and_the_rest_down():
    shared = flat(1)
    make_aligner().loss(shared, [make_sample(["cat"], [[16, 16, 32, 32]], [0])])["loss_heat"].backward()
    slope = shared.heat_logits.grad[0, 0]
    assert slope[1, 1] < 0
    slope[1, 1] = 1
    assert bool((slope > 0).all())


def test_a_seeded_aligner_learns_where_its_object_is():
    torch.manual_seed(0)
    aligner, features = make_aligner(), some(make_features(), [0])
    samples = [make_sample(["cat"], [[64, 16, 80, 32]], [0]), make_sample()]
    optimizer = torch.optim.Adam(aligner.parameters(), lr=1e-3)
    for _ in range(40):
        optimizer.zero_grad()
        aligner.loss(aligner(features, make_queries(0)), samples)["loss_heat"].backward()
        optimizer.step()
    assert divmod(int(aligner(features, make_queries(0)).heat_logits[0, 0].argmax()), 6) == (1, 4)

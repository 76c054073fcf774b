"""Connectors: their image tokens worked out by hand, and in place of an LMM's own."""

import pytest
import torch
from helpers import make_images, make_sample, relative_difference
from torch import nn
from torch.nn import functional
from zoo import WIDTH

from lumen.aligners.dense import DenseAligner
from lumen.data.keypoint_transforms import AskKeypoints, CropInstance
from lumen.data.transforms import ResizeToInput
from lumen.data.views import Views
from lumen.decoders.detection import DetectionDecoder
from lumen.engine.hooks.freeze import freeze_parameters
from lumen.errors import CheckpointError, ConfigError
from lumen.inference.pretrained import from_pretrained, save_pretrained
from lumen.lmm.adapter import HFAdapter
from lumen.lmm.connectors import (
    Connector,
    LinearConnector,
    MlpConnector,
    ObjectConnector,
    PoolConnector,
    QueryConnector,
)
from lumen.lmm.connectors.replace import build_connector
from lumen.lmm.families import family_of
from lumen.lmm.meta import outline, outline_config
from lumen.lmm.untrained import pretrained_names
from lumen.model import Lumen
from lumen.serialization.checkpoint import absent_names, describe, load_trained_state, trained_state
from lumen.structures import Prompt

SMALL_QUERIES = {"num_queries": 5, "width": 16, "num_layers": 3, "num_heads": 2}
POOL = {"type": PoolConnector, "out_hw": (2, 3)}
QUERY = {"type": QueryConnector, **SMALL_QUERIES}
OBJECTS = {"type": ObjectConnector, "inner": {"type": LinearConnector}, "num_objects": 4}
ALL = {
    "linear": {"type": LinearConnector},
    "mlp": {"type": MlpConnector},
    "pool": POOL,
    "query": QUERY,
    "objects": OBJECTS,
}
PLACE = "base_model.model.multi_modal_projector."
PHRASES = [Prompt("red circle"), Prompt("cat"), Prompt("a large striped star left of the blue cross")]


def count(module):
    return sum(parameter.numel() for parameter in module.parameters())


def states_of(grid_hw, dim=3, levels=1, images=2):
    torch.manual_seed(0)
    return [torch.randn(images, grid_hw[0] * grid_hw[1], dim) for _ in range(levels)]


def test_the_mean_of_each_block_row_by_row():
    connector = PoolConnector(1, 1, out_hw=(2, 3))
    connector.mlp = nn.Identity()
    cells = torch.arange(24.0).view(1, 24, 1)  # 4 x 6, blocks of 2 x 2
    blocks = [[0, 1, 6, 7], [2, 3, 8, 9], [4, 5, 10, 11], [12, 13, 18, 19], [14, 15, 20, 21], [16, 17, 22, 23]]
    wanted = [sum(block) / 4 for block in blocks]
    assert connector([cells], (4, 6)).flatten().tolist() == wanted


@pytest.mark.parametrize("mode", ["exact", "adaptive"])
@pytest.mark.parametrize("side", [16, 32])
def test_a_pool_of_16_takes_224_and_448_pixels_of_a_patch_of_14(side, mode):
    connector, states = PoolConnector(3, 4, out_hw=(16, 16), mode=mode), states_of((side, side))
    grid = states[0].transpose(1, 2).unflatten(2, (side, side))
    pooled = functional.avg_pool2d(grid, side // 16).flatten(2).transpose(1, 2)
    assert connector.token_hw((side, side)) == (16, 16) and connector.num_tokens((side, side)) == 256
    torch.testing.assert_close(connector(states, (side, side)), connector.mlp(pooled))


def test_a_grid_without_equal_blocks_is_refused_unless_adaptive():
    with pytest.raises(ConfigError, match=r"multiples of it, got \(24, 24\).*adaptive"):
        PoolConnector(3, 4, out_hw=(16, 16)).token_hw((24, 24))
    with pytest.raises(ConfigError, match=r"got \(24, 24\)"):
        PoolConnector(3, 4, out_hw=(16, 16))(states_of((24, 24)), (24, 24))
    connector = PoolConnector(3, 4, out_hw=(16, 16), mode="adaptive")
    assert connector(states_of((24, 24)), (24, 24)).shape == (2, 256, 4)
    with pytest.raises(ConfigError, match="mode must be one of"):
        PoolConnector(3, 4, out_hw=(16, 16), mode="max")


def test_parameters_at_the_sizes_of_the_paper():
    with torch.device("meta"):
        assert count(PoolConnector(1408, 4096, out_hw=(16, 16))) == 22_552_576
        assert count(LinearConnector(1024, 4096)) == 1024 * 4096 + 4096


@pytest.mark.parametrize(("kind", "options"), [(LinearConnector, {}), (MlpConnector, {}), (PoolConnector, POOL)])
def test_levels_are_concatenated(kind, options):
    options = {name: value for name, value in options.items() if name != "type"}
    connector, states = kind(3, 4, levels=(-1, -2), **options), states_of((4, 6), levels=2)
    joint = kind(6, 4, **options)
    joint.load_state_dict(connector.state_dict())
    assert torch.equal(connector(states, (4, 6)), joint([torch.cat(states, -1)], (4, 6)))


@pytest.mark.parametrize("grid_hw", [(1, 1), (3, 2), (4, 6)])
def test_queries_read_any_grid_and_differ(grid_hw):
    torch.manual_seed(0)
    connector = QueryConnector(3, 8, levels=(-1, -3), **SMALL_QUERIES).eval()
    tokens = connector(states_of(grid_hw, levels=2), grid_hw)
    assert tokens.shape == (2, 5, 8)
    assert connector.token_hw(grid_hw) is None and connector.num_tokens(grid_hw) == 5
    distances = torch.pdist(tokens[0].detach())
    assert float(distances.min()) > 1e-3


def test_queries_know_levels_and_places():
    torch.manual_seed(0)
    connector = QueryConnector(3, 8, levels=(-1, -2), **SMALL_QUERIES)
    for parameter in connector.parameters():  # larger than at the start, so that attention is not flat
        if parameter.ndim > 1:
            nn.init.normal_(parameter, std=0.5)
    first, second = states_of((2, 2), levels=2)
    tokens = connector([first, second], (2, 2))
    assert relative_difference(connector([second, first], (2, 2)), tokens) > 1e-2
    assert relative_difference(connector([first.flip(1), second.flip(1)], (2, 2)), tokens) > 1e-2
    connector.train()  # there is no dropout
    assert torch.equal(connector([first, second], (2, 2)), tokens)
    tokens.sum().backward()
    assert [name for name, value in connector.named_parameters() if value.grad is None] == []


def test_a_width_that_heads_do_not_divide_is_refused():
    with pytest.raises(ConfigError, match="multiple of 4 and of num_heads=3"):
        QueryConnector(3, 8, width=16, num_heads=3)


@pytest.mark.parametrize("name", ALL)
def test_packed_prompts_equal_separate_ones(make_adapter, name):
    images, queries = make_images(2), []
    for mode in ("packed", "expanded", "separate"):
        adapter = make_adapter(connector=ALL[name], mode=mode)
        assert adapter.packing.mode == mode
        with torch.no_grad():
            queries.append(adapter(images, [PHRASES, PHRASES[:1]]).query)
    assert relative_difference(queries[1], queries[0]) <= 1e-5
    assert relative_difference(queries[2], queries[0]) <= 1e-5


@pytest.mark.parametrize(("name", "num_tokens"), [("linear", 24), ("mlp", 24), ("pool", 6), ("query", 5)])
def test_an_image_takes_as_many_tokens_as_its_connector_gives(make_adapter, name, num_tokens):
    adapter = make_adapter(connector=ALL[name])
    assert adapter.prefix((64, 96)).count(adapter.config.image_token_id) == num_tokens
    features = adapter(make_images(1), [PHRASES])
    assert features.grid.shape == (1, 32, 4, 6)  # the tower's grid is what it was
    assert features.laterals[0].shape[2:] == (16, 24)


def test_an_mlp_with_the_weights_of_llavas_own_gives_its_queries(make_adapter):
    plain, other = make_adapter(), make_adapter(connector={"type": MlpConnector})
    former, mlp = plain.base_model.model.multi_modal_projector, other.base_model.model.multi_modal_projector.mlp
    mlp[0].load_state_dict(former.linear_1.state_dict())
    mlp[2].load_state_dict(former.linear_2.state_dict())
    with torch.no_grad():
        queries = [adapter(make_images(2), [PHRASES, PHRASES]).query for adapter in (plain, other)]
    assert relative_difference(queries[1], queries[0]) <= 1e-6


@pytest.mark.parametrize("features", ["llm", "both"])
def test_the_llms_states_lie_on_the_grid_of_a_pool(make_adapter, features):
    adapter = make_adapter(connector=POOL, features=features, name_tokens=2)
    features = adapter(make_images(1), [PHRASES])
    assert features.names.phrases.shape == (3, 2, 3)
    assert features.grid.shape[2:] == ((2, 3) if adapter.readout.features == "llm" else (4, 6))
    assert features.stride == (32 if adapter.readout.features == "llm" else 16)


@pytest.mark.parametrize("options", [{"features": "llm"}, {"features": "both"}, {"name_tokens": 2}])
def test_queries_have_no_places_for_features_or_names(make_adapter, options):
    with pytest.raises(ConfigError, match="stand for the whole image"):
        make_adapter(connector=QUERY, **options)


def test_texts_are_written_behind_a_new_connector(make_adapter):
    adapter = make_adapter(connector=QUERY, max_new_tokens=3)
    question = [[Prompt("is it red?", "vqa")]] * 2
    with torch.no_grad():
        cached = adapter.generate(adapter.encode_images(make_images(2), cache_prefix=True), question)
        assert adapter.generate(adapter.encode_images(make_images(2)), question) == cached
    assert len(cached) == 2 and all(len(texts) == 1 for texts in cached)


def test_tokens_around_the_image_are_added_and_learned(make_adapter):
    connector = {"type": LinearConnector, "begin": "<im_start>", "end": "<im_end>"}
    adapter = make_adapter(connector=connector, new_tokens="learn")
    prefix, image = adapter.prefix((32, 32)), adapter.config.image_token_id
    at = prefix.index(image)
    around = adapter.encoder.tokenizer.convert_ids_to_tokens([prefix[at - 1], prefix[at + 4]])
    assert around == ["<im_start>", "<im_end>"] and prefix.count(image) == 4
    adapter(make_images(1, (32, 32)), [PHRASES]).query.sum().backward()
    learned = {adapter.encoder.tokenizer.convert_ids_to_tokens(number) for number in adapter.new_tokens.ids.tolist()}
    assert {"<im_start>", "<im_end>", "[LOC]"} <= learned
    rows = [adapter.new_tokens.ids.tolist().index(prefix[place]) for place in (at - 1, at + 4)]
    assert bool((adapter.new_tokens.rows.grad[rows].abs().sum(1) > 0).all())
    assert "begin=<im_start>, end=<im_end>" in adapter.describe()["connector"]


@pytest.mark.parametrize("name", ["llava", "llava_siglip", "llava_eva"])
def test_towers_of_the_llava_line(repositories, name):
    adapter = HFAdapter(
        repositories(name), base={"connector": {"type": PoolConnector, "out_hw": (2, 2), "levels": (-1, 1)}}
    )
    with torch.no_grad():
        encoded = adapter.encode_images(make_images(2, (16, 16)))
        query = adapter.ask(encoded, [PHRASES, PHRASES]).query
    assert encoded.states.pooler_output[0].shape == (4, WIDTH)
    assert relative_difference(query[:3], query[3:]) > 1e-4  # the images differ
    tower = adapter.base_model.model.vision_tower
    pixels = adapter.statistics.normalise(make_images(2, (16, 16)))
    levels = tower(pixels, output_hidden_states=True).hidden_states
    last = levels[-1] if name != "llava_eva" else tower(pixels).last_hidden_state
    states = [each[:, -16:] for each in (last, levels[1])]
    wanted = adapter.base_model.model.multi_modal_projector(states, (4, 4))
    torch.testing.assert_close(torch.stack(encoded.states.pooler_output), wanted)


def test_evas_tower_takes_any_size_by_bicubic_positions(repositories):
    adapter = HFAdapter(repositories("llava_eva"), base={"connector": {"type": PoolConnector, "out_hw": (4, 4)}})
    tower = adapter.base_model.model.vision_tower
    with torch.no_grad():
        resized = tower.embeddings.interpolate_pos_encoding(torch.zeros(1, 65, WIDTH), 32, 32)[:, 1:]
        square = tower.embeddings.position_embedding[:, 1:].transpose(1, 2).unflatten(2, (4, 4))
        wanted = functional.interpolate(square, (8, 8), mode="bicubic").flatten(2).transpose(1, 2)
        torch.testing.assert_close(resized, wanted)
        features = adapter(make_images(1, (32, 32)), [PHRASES])
    assert features.grid.shape == (1, WIDTH, 8, 8)
    assert adapter.prefix((32, 32)).count(adapter.config.image_token_id) == 16
    with pytest.raises(ConfigError, match=r"got \(6, 6\)"):
        adapter.encode_images(make_images(1, (24, 24)))


@pytest.mark.parametrize("name", ["vipllava", "llava_next", "qwen3_vl", "pixtral", "idefics2"])
def test_other_families_keep_their_own_connector(repositories, name):
    with pytest.raises(ConfigError, match=r"base.connector replaces the projector of a LLaVA"):
        HFAdapter(repositories(name), base={"connector": POOL})


def test_the_only_size_of_a_tower_is_checked_before_the_weights_load(repositories, monkeypatch):
    monkeypatch.setattr("lumen.lmm.loading.load_base", None)
    with pytest.raises(ConfigError, match=r"got \(4, 4\)"):
        HFAdapter(repositories("llava"), base={"connector": {"type": PoolConnector, "out_hw": (3, 3)}})


def test_wrong_connectors_are_refused(make_adapter):
    with pytest.raises(ConfigError, match="must be a Connector, got DenseAligner"):
        make_adapter(connector={"type": lambda vision_dim, dim: DenseAligner.__new__(DenseAligner)})
    with pytest.raises(ConfigError, match=r"the tower gives 1 hidden states; connector.levels names -2"):
        make_adapter(connector={"type": LinearConnector, "levels": (-2,)}).encode_images(make_images(1))
    with pytest.raises(TypeError, match="abstract"):
        Connector(3, 4)


def make_model(make_adapter, connector):
    torch.manual_seed(1)
    aligner = {"type": DenseAligner, "channels": 32, "num_heads": 4, "mlp_channels": 64}
    return Lumen(make_adapter(connector=connector), aligner, [{"type": DetectionDecoder}])


def test_a_checkpoint_holds_the_connector_and_names_it(make_adapter):
    model = make_model(make_adapter, QUERY)
    sample = make_sample(["cat"], [[8, 8, 60, 50]], [0])
    freeze_parameters(model, ["lmm.*"], ["lmm.*multi_modal_projector.*"])
    sum(model(make_images(1), [sample], mode="loss").values()).backward()
    trained = [name for name, value in model.lmm.named_parameters() if value.requires_grad]
    assert trained and all(name.startswith(PLACE) for name in trained)
    assert [name for name, value in model.lmm.named_parameters() if value.grad is not None] == trained
    state = trained_state(model)
    state = {name: value + 1 if name.startswith(f"lmm.{PLACE}") else value for name, value in state.items()}
    checkpoint = {"state_dict": state, "meta": {"absent": absent_names(model, state), "model": describe(model)}}
    fresh = make_model(make_adapter, QUERY)
    load_trained_state(fresh, checkpoint)
    name = f"lmm.{PLACE}queries"
    assert torch.equal(fresh.state_dict()[name], model.state_dict()[name] + 1)
    assert describe(model)["connector"] == (
        "QueryConnector(num_queries=5, width=16, num_layers=3, num_heads=2, cross_every=2)"
    )
    with pytest.raises(CheckpointError, match=r"multi_modal_projector.*QueryConnector"):
        load_trained_state(make_model(make_adapter, POOL), checkpoint)


def test_a_connector_starts_alike_at_every_build_and_counts_as_untrained(make_adapter):
    first = make_adapter(connector=QUERY)
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    second = build_connector(family_of(first.config), first.config, QUERY, torch.device("cpu"))
    assert torch.equal(torch.random.get_rng_state(), before)
    pairs = zip(first.base_model.model.multi_modal_projector.parameters(), second.parameters(), strict=True)
    assert all(torch.equal(one, other) for one, other in pairs)
    assert pretrained_names(first) == []  # the tiny base is from scratch as a whole
    first.base_model.config.untrained_parts = first.base_model.config.untrained_parts[1:]
    assert not any(name.startswith(PLACE) for name in pretrained_names(first))


def test_options_of_a_config_that_was_written_and_read_describe_the_same(make_adapter):
    first = make_adapter(connector={"type": PoolConnector, "out_hw": (2, 3), "levels": (-1,)})
    second = make_adapter(connector={"type": "PoolConnector", "out_hw": [2, 3], "levels": [-1]})
    assert first.describe() == second.describe()
    assert first.describe()["connector"] == "PoolConnector(out_hw=(2, 3), mode=exact, levels=(-1,))"
    assert "connector" not in make_adapter().describe()


def test_an_exported_model_comes_back_with_its_connector(tiny_nano, make_adapter, tmp_path):
    model = make_model(make_adapter, QUERY)
    views = Views(ResizeToInput(input_hw=(64, 96)), CropInstance(input_hw=(64, 96)), AskKeypoints())
    config = {
        "type": Lumen,
        "lmm": {"type": HFAdapter, "name_or_path": str(tiny_nano), "base": {"attention": "eager", "connector": QUERY}},
        "aligner": {"type": DenseAligner, "channels": 32, "num_heads": 4, "mlp_channels": 64},
        "decoders": [{"type": DetectionDecoder}],
    }
    with torch.no_grad():
        for parameter in model.lmm.base_model.model.multi_modal_projector.parameters():
            parameter += 0.1
    loaded = from_pretrained(save_pretrained(model, tmp_path / "model", config=config, views=views)).model
    assert loaded.describe() == model.describe()
    with torch.no_grad():
        query, again = (each.eval().lmm(make_images(1), [PHRASES]).query for each in (model, loaded))
    assert torch.equal(query, again)


@pytest.mark.parametrize("name", ALL)
def test_an_outline_has_the_connector_and_its_tokens(tiny_nano, make_adapter, name):
    settings = {"name_or_path": str(tiny_nano), "base": {"connector": ALL[name]}}
    laid_out = outline(settings, outline_config(str(tiny_nano)), dtype=torch.float32)
    real = make_adapter(connector=ALL[name])
    assert sum(parameter.numel() for parameter in laid_out.parts()["connector"]) == count(
        real.base_model.model.multi_modal_projector
    )
    assert laid_out.count_tokens((64, 96), "detection").prefix == len(real.prefix((64, 96)))
    assert laid_out.see(1, (64, 96)).is_meta
    assert laid_out.features(1, (64, 96), [PHRASES]).grid.shape == real(make_images(1), [PHRASES]).grid.shape


def test_an_outline_lies_on_the_grid_of_a_pool(tiny_nano):
    settings = {"name_or_path": str(tiny_nano), "base": {"connector": POOL}, "readout": {"features": "llm"}}
    laid_out = outline(settings, outline_config(str(tiny_nano)), dtype=torch.float32)
    features = laid_out.features(1, (64, 96), [PHRASES])
    assert (features.grid.shape[2:], features.stride) == ((2, 3), 32)


def test_a_narrow_base_keeps_a_connector_in_float32(make_adapter):
    adapter = make_adapter(connector=POOL, dtype="bfloat16")
    assert {value.dtype for value in adapter.base_model.model.multi_modal_projector.parameters()} == {torch.float32}
    assert adapter(make_images(1), [PHRASES]).query.dtype == torch.float32


def test_a_pool_that_starts_from_the_projector_changes_nothing_where_it_pools_nothing(make_adapter):
    own, pooled = (
        make_adapter(),
        make_adapter(connector={"type": PoolConnector, "out_hw": (4, 6), "start": "projector"}),
    )
    images = make_images(1, (64, 96))
    with torch.no_grad():
        query, again = (each(images, [PHRASES]).query for each in (own, pooled))
    torch.testing.assert_close(query, again)
    assert not any(part.endswith("multi_modal_projector") for part in pooled.base_model.config.untrained_parts)
    assert pooled.describe()["connector"] == "PoolConnector(out_hw=(4, 6), mode=exact)"


@pytest.mark.parametrize("settings", [QUERY, {"type": LinearConnector}, {**POOL, "levels": (-1, -1)}])
def test_a_connector_with_other_weights_than_the_projector_cannot_start_from_it(make_adapter, settings):
    with pytest.raises(ConfigError, match="linear layers of the LMM's own projector"):
        make_adapter(connector={**settings, "start": "projector"})


def test_positions_are_interpolated_on_request_alone(make_adapter):
    adapters = [
        make_adapter(connector={"type": PoolConnector, "out_hw": (5, 5), "interpolate": asked})
        for asked in (False, True)
    ]
    for size_hw, is_equal in (((160, 160), True), ((320, 320), False)):
        images = make_images(1, size_hw)
        with torch.no_grad():
            counted, spread = (each.encode_images(images).states.last_hidden_state for each in adapters)
        assert torch.equal(counted, spread) == is_equal
    assert adapters[1].describe()["connector"].endswith("interpolate=True)")


def test_an_unknown_start_is_refused():
    with pytest.raises(ConfigError, match=r"Connector\.start must be one of"):
        PoolConnector(3, 4, out_hw=(1, 1), start="zero")

import json
import shutil

import numpy as np
import pytest
import torch
from helpers import adapter_options, make_images, relative_difference
from zoo import WIDTH, ZOO

from lumen.data.image import render_image
from lumen.errors import ConfigError, PromptError
from lumen.lmm.adapter import HFAdapter
from lumen.lmm.generation import end_tokens
from lumen.lmm.packing.selfcheck import INSTEAD
from lumen.lmm.split import num_bytes, split_images
from lumen.lmm.tokens.shared_start import encode
from lumen.ops.geometry import InputTransform
from lumen.structures import Prompt

PHRASES = ("red circle", "cat", "a large striped star left of the blue cross")
CORNERS = ("top left", "top right", "bottom left", "bottom right")


def ask(adapter, images, phrases=PHRASES):
    with torch.no_grad():
        return adapter(images, [[Prompt(phrase) for phrase in phrases]] * len(images))


def plain_inputs(adapter, name, image, phrase):
    """Return the inputs of transformers' own call for one image and prompt."""
    tiny, suffix = ZOO[name], adapter.encoder.suffix(phrase, "detection")
    prefix = adapter.prefix(image.shape[-2:])
    if tiny.num_tokens:
        at, image_id = prefix.index(adapter.config.image_token_id), adapter.config.image_token_id
        rest = [token for token in prefix[at:] if token != image_id]
        prefix = [*prefix[:at], *[image_id] * tiny.num_tokens, *rest]
    ids = torch.tensor([[*prefix, *suffix.ids]])
    pixels = adapter.statistics.normalise(image[None])
    extra = tiny.plain(pixels, ids, adapter.config.image_token_id)
    if adapter.config.model_type == "paligemma":  # it tells prefix from suffix
        extra["token_type_ids"] = (torch.arange(ids.shape[1]) >= len(prefix)).int()[None]
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), **extra}, suffix


@pytest.mark.parametrize("name", ZOO)
def test_packed_prompts_equal_separate_ones(name, load):
    images = make_images(2, ZOO[name].size_hw)
    packed = load(name)
    assert packed.packing.mode == ("packed" if ZOO[name].packs else "expanded")
    separate = load(name, mode="separate")
    assert relative_difference(ask(packed, images).query, ask(separate, images).query) <= 1e-5


OWN_FORWARD = [(name, -1) for name in ZOO if ZOO[name].num_tokens is None]


@pytest.mark.parametrize(("name", "layer"), [*OWN_FORWARD, ("llava", 1), ("qwen3_vl", 1), ("gemma3", 1)])
def test_a_query_equals_that_of_transformers_own_forward(name, layer, load):
    image = make_images(1, ZOO[name].size_hw)
    adapter = load(name, query_layer=layer)
    query = ask(adapter, image).query
    for number, phrase in enumerate(PHRASES):
        inputs, suffix = plain_inputs(adapter, name, image[0], phrase)
        with torch.no_grad():
            states = adapter.base_model(**inputs, output_hidden_states=True).hidden_states[layer][0]
        wanted = states[len(states) - len(suffix.ids) + suffix.slots[0]]
        assert relative_difference(query[number], wanted) <= 1e-5


@pytest.mark.parametrize("name", ZOO)
def test_the_model_still_generates_with_its_own_inputs(name, load):
    adapter = load(name)
    inputs, _ = plain_inputs(adapter, name, make_images(1, ZOO[name].size_hw)[0], "cat")
    with torch.no_grad():
        made = adapter.base_model.generate(**inputs, max_new_tokens=3, min_new_tokens=3, do_sample=False)
    assert made.shape[1] == inputs["input_ids"].shape[1] + 3


GRIDS = [name for name in ZOO if ZOO[name].has_grid]


@pytest.mark.parametrize(
    ("features", "name"), [*(("vision", name) for name in ZOO), *(("llm", name) for name in GRIDS)]
)
def test_a_mark_in_each_corner_changes_that_corner_of_the_grid_most(name, features, load):
    adapter = load(name, features=features, feature_layer=0)  # where each token is what the connector gave
    height, width = ZOO[name].size_hw
    dark = torch.full((1, 3, height, width), 40, dtype=torch.uint8)
    marked = dark.repeat(4, 1, 1, 1)
    for number, corner in enumerate(CORNERS):
        rows = slice(0, 4) if "top" in corner else slice(height - 4, None)
        cols = slice(0, 4) if "left" in corner else slice(width - 4, None)
        marked[number, :, rows, cols] = 255
    before, after = ask(adapter, dark, ["cat"]), ask(adapter, marked, ["cat"])
    change = (after.grid - before.grid).abs().sum(1)
    rows, cols = change.shape[1:]
    assert (after.stride * rows, after.stride * cols) == (height, width)
    assert after.grid.shape[1] == adapter.vision_dim
    if features == "vision":
        assert (rows, cols) == ZOO[name].grid_hw
    found = [divmod(int(one.argmax()), cols) for one in change]
    assert found == [(0, 0), (0, cols - 1), (rows - 1, 0), (rows - 1, cols - 1)]


@pytest.mark.parametrize("name", GRIDS)
def test_both_kinds_of_features_lie_on_one_grid(name, load):
    images = make_images(2, ZOO[name].size_hw)
    both = ask(load(name, features="both", feature_layer=1), images, [])
    assert both.query.shape == (0, WIDTH)
    alone = ask(load(name, features="llm", feature_layer=1), images, [])
    assert both.grid.shape[2:] == ZOO[name].grid_hw
    asked = ask(load(name, features="both", feature_layer=1), images)
    assert relative_difference(asked.grid, both.grid) <= 1e-5  # no suffix changes the prefix
    assert relative_difference(both.grid[:, -WIDTH:, 0, 0], alone.grid[:, :, 0, 0]) <= 1e-5


@pytest.mark.parametrize("name", ZOO)
def test_images_of_a_batch_equal_single_ones(name, load):
    images = make_images(2, ZOO[name].size_hw)
    adapter = load(name, features="both", feature_layer=1) if ZOO[name].has_grid else load(name)
    batch = ask(adapter, images)
    singles = [ask(adapter, image[None]) for image in images]
    assert relative_difference(batch.query, torch.cat([one.query for one in singles])) <= 1e-5
    assert relative_difference(batch.grid, torch.cat([one.grid for one in singles])) <= 1e-5


SQUARE_ONLY = [name for name in ZOO if ZOO[name].size_hw == (16, 16) and name != "llava_eva"]  # it takes any size


@pytest.mark.parametrize("make_frame", [InputTransform.letterbox, InputTransform.stretch])
@pytest.mark.parametrize("name", SQUARE_ONLY)
def test_a_corner_of_a_wide_image_lies_where_its_frame_says(name, make_frame, load):
    adapter = load(name)
    frame = make_frame((32, 64), adapter.input_spec.fixed_hw)
    marks = {(0, 0): (slice(0, 8), slice(0, 8)), (32, 64): (slice(24, 32), slice(56, 64))}
    dark = np.full((32, 64, 3), 40, dtype=np.uint8)
    drawn = [dark]
    for rows, cols in marks.values():
        drawn.append(dark.copy())
        drawn[-1][rows, cols] = 255
    images = torch.stack([torch.from_numpy(render_image(image, frame)).permute(2, 0, 1) for image in drawn])
    features = ask(adapter, images, [])
    change = (features.grid[1:] - features.grid[:1]).abs().sum(1)
    middles = torch.tensor([[4.0, 4.0], [60.0, 28.0]])  # (x, y) of the marks
    wanted = (frame.points_to_input(middles) / features.stride).floor().long()
    found = [divmod(int(one.argmax()), change.shape[2]) for one in change]
    assert found == [(row, col) for col, row in wanted.tolist()]


@pytest.mark.parametrize(("name", "mode"), [("gemma3", "separate"), ("cohere2_vision", "expanded")])
def test_a_short_sliding_window_falls_back_to_one_row_per_prompt(name, mode, tmp_path, caplog, repositories):
    shutil.copytree(repositories(name), tmp_path, dirs_exist_ok=True)
    config = json.loads((tmp_path / "config.json").read_text())
    config["text_config"]["sliding_window"] = 24
    (tmp_path / "config.json").write_text(json.dumps(config))
    images = make_images(2, (16, 16))
    adapter = HFAdapter(str(tmp_path)).eval()
    found = ask(adapter, images).query
    assert f"do not fit its window): {INSTEAD[mode]}" in caplog.text
    assert adapter.packing.mode == "packed"  # for prompts that are shorter
    inputs, suffix = plain_inputs(adapter, name, images[1], PHRASES[2])
    with torch.no_grad():
        states = adapter.base_model.model(**inputs).last_hidden_state[0]
    assert relative_difference(found[-1], states[len(states) - len(suffix.ids) + suffix.slots[0]]) <= 1e-5


MIXING = [name for name in ZOO if not ZOO[name].packs]


@pytest.mark.parametrize("name", MIXING)
def test_an_llm_that_mixes_neighbours_runs_its_images_once_and_says_so(name, caplog, repositories):
    adapter = HFAdapter(repositories(name)).eval()
    assert "each prompt goes behind a copy of the cache of its image" in caplog.text
    ask(adapter, make_images(2, ZOO[name].size_hw))
    suffixes = [adapter.encoder.suffix(phrase, "detection") for phrase in PHRASES]
    prefix = adapter.prefix(ZOO[name].size_hw)
    assert adapter.usage.tokens == 2 * (len(prefix) + sum(len(suffix.ids) for suffix in suffixes))


@pytest.mark.parametrize("name", MIXING)
def test_expanded_prompts_learn_what_separate_ones_do(name, load):
    images, prompts = make_images(2, ZOO[name].size_hw), [[Prompt(phrase) for phrase in PHRASES], [Prompt("cat")]]
    found = []
    for mode in ("expanded", "separate"):
        adapter = load(name, mode=mode)
        query = adapter(images, prompts).query
        weights = torch.sin(torch.arange(query.numel())).view_as(query)
        gradients = torch.autograd.grad((query * weights).sum(), list(adapter.parameters()), allow_unused=True)
        found.append([query.detach(), *(each for each in gradients if each is not None)])
    largest = max(float(each.abs().max()) for each in found[1])
    assert len(found[0]) == len(found[1])
    for ours, wanted in zip(*found, strict=True):
        torch.testing.assert_close(ours, wanted, rtol=1e-4, atol=1e-5 * largest)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in ZOO if ZOO[name].template])
@torch.no_grad()
def test_answers_behind_a_kept_prefix_are_those_of_whole_rows(name, load):
    adapter, images = load(name), make_images(2, ZOO[name].size_hw)
    questions = [[Prompt("what is it?", "vqa"), Prompt("is the cat red?", "vqa"), Prompt("and it?", "vqa")]] * 2
    wanted = adapter.generate(adapter.encode_images(images), questions, 6)
    encoded = adapter.encode_images(images, cache_prefix=True)
    adapter.usage.clear()
    for _ in range(2):
        assert adapter.generate(encoded, questions, 6) == wanted
    keeps = adapter.splits or adapter.packing.mode == "expanded"  # a masked square computes the prefix anew
    assert [shown for _, shown in encoded.prefix_cache.kept] == ([(0,), (1,)] if keeps else [])


@pytest.mark.slow
@pytest.mark.parametrize("name", ZOO)
@torch.no_grad()
def test_an_image_out_of_several_is_the_same_as_the_image_alone(name, load):
    adapter, images, prompts = load(name), make_images(2, ZOO[name].size_hw), [Prompt("cat"), Prompt("red cup")]
    together = adapter.encode_images(images, cache_prefix=True)
    adapter.ask(together, [prompts] * 2)
    parts = split_images(together)
    adapter.usage.clear()
    for part, image in zip(parts, images, strict=True):
        alone = adapter.encode_images(image[None], cache_prefix=True)
        found, wanted = adapter.ask(part, [prompts]), adapter.ask(alone, [prompts])
        for ours, theirs in (
            (found.query, wanted.query),
            (found.grid, wanted.grid),
            *zip(found.laterals, wanted.laterals, strict=True),
        ):
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4 * float(theirs.abs().max()))
        assert part.prefix_cache.kept.keys() == alone.prefix_cache.kept.keys()
        assert num_bytes(part) == num_bytes(alone)


@pytest.mark.parametrize("name", ["llava", "llava_siglip", "llava_next", "paligemma", "gemma3"])
def test_a_second_dense_pass_gives_a_finer_grid(name, load):
    adapter = load(name, dense_hw=(32, 48))
    assert adapter.input_spec.fixed_hw == (32, 48)
    dark = torch.full((1, 3, 32, 48), 40, dtype=torch.uint8)
    marked = dark.clone()
    marked[:, :, 8:12, 44:] = 255
    before, after = ask(adapter, dark), ask(adapter, marked)
    assert after.grid.shape == (1, WIDTH, 8, 12)
    assert after.stride == 4
    assert divmod(int((after.grid - before.grid)[0].abs().sum(0).argmax()), 12) == (2, 11)
    shrunk = torch.nn.functional.interpolate(marked.float(), (16, 16), mode="bilinear", antialias=True)
    plain = ask(load(name), shrunk.round().byte())
    assert torch.equal(plain.query, after.query)
    both = ask(load(name, dense_hw=(32, 48), features="both"), marked)
    assert both.grid.shape == (1, 2 * WIDTH, 8, 12)


def test_a_dense_pass_at_the_own_size_changes_nothing(load):
    images = make_images(2, (16, 16))
    plain, dense = (ask(load("llava", dense_hw=hw), images) for hw in (None, (16, 16)))
    assert torch.equal(plain.query, dense.query)
    assert relative_difference(dense.grid, plain.grid) <= 1e-5


@pytest.mark.parametrize("name", ["llava_next", "llava_onevision"])
def test_one_tile_is_what_the_model_itself_makes_of_a_base_tile(name, load):
    adapter = load(name)
    images = make_images(2, (16, 16))
    pixels = torch.stack([adapter.statistics.normalise(images)] * 2, 1)  # base tile and one more
    with torch.no_grad():
        own = adapter.encode_images(images).states.pooler_output
        wanted = adapter.base_model.model.get_image_features(
            pixels, image_sizes=torch.tensor([[16, 16]] * 2)
        ).pooler_output
    for tokens, others in zip(own, wanted, strict=True):
        assert len(tokens) == 17
        assert relative_difference(tokens[:16], others[:16]) <= 1e-6
        assert torch.equal(tokens[16], adapter.base_model.model.image_newline)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("llava", "<image>" * 6),
        ("llava_next", "<image>" * 7),
        ("internvl", "<img>" + "<IMG_CONTEXT>" * 6 + "</img>"),
        ("smolvlm", "<fake_token_around_image><global-img>" + "<image>" * 6 + "<fake_token_around_image>"),
        ("mistral3", "[IMG][IMG][IMG][IMG_BREAK][IMG][IMG][IMG][IMG_END]"),
        ("gemma3", "\n\n<start_of_image>" + "<image_soft_token>" * 6 + "<end_of_image>\n\n"),
        ("aya_vision", "<|START_OF_IMG|>TILE_GLOBAL" + "<|IMG_PATCH|>" * 6 + "<|END_OF_IMG|>"),
        ("cohere2_vision", "<|START_OF_IMG|>" + "<|IMG_PATCH|>" * 6 + "<|IMG_LINE_BREAK|><|END_OF_IMG|>"),
        ("qwen3_vl", "<|image_pad|>" * 6),
        ("lfm2_vl", "<|image_start|>" + "<image>" * 6 + "<|image_end|>"),
    ],
)
def test_an_image_is_spelt_as_its_processor_does(name, text, load):
    adapter = load(name)
    assert adapter.image_text((2, 3)) == text


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("llava", {"features": "text"}, "features must be one of"),
        ("llava", {"query_layer": 3}, r"2 layers; query_layer and feature_layer lie between 0.* got \(3, -1\)"),
        ("llava", {"feature_layer": -4}, "2 layers"),
        ("llava", {"dense_hw": (32, 32), "features": "llm"}, "dense_hw needs features='vision' or 'both'"),
        ("qwen2_vl", {"dense_hw": (32, 32)}, "dense_hw needs .* got features='vision' and 'qwen2_vl'"),
    ],
)
def test_options_that_do_not_fit_are_refused(name, options, message, repositories):
    with pytest.raises(ConfigError, match=message):
        HFAdapter(repositories(name), **adapter_options(**options))


def test_a_checkpoint_must_agree_on_layers_and_features(repositories):
    plain = HFAdapter(repositories("llava")).describe()
    assert plain["position"] == "loc"
    assert "features" not in plain
    readout = {"query_layer": 1, "features": "both", "feature_layer": 0, "dense_hw": (32, 32)}
    other = HFAdapter(repositories("llava"), readout=readout).describe()
    assert (other["position"], other["features"], other["dense_hw"]) == ("loc@1", "both@0", "(32, 32)")


def test_features_of_the_llm_reach_images_without_prompts(load):
    adapter = load("llava", features="llm")
    images = make_images(3, (16, 16))
    with torch.no_grad():
        some = adapter(images, [[], [Prompt("cat"), Prompt("dog")], []])
    assert some.image_index.tolist() == [1, 1]
    assert relative_difference(some.grid, ask(adapter, images).grid) <= 1e-5


@pytest.mark.parametrize("name", ZOO)
def test_a_prefix_begins_once(name, load):
    adapter = load(name)
    size_hw = ZOO[name].size_hw
    assert adapter.prefix(size_hw).count(adapter.encoder.tokenizer.bos_token_id) <= 1


def test_tokens_of_the_model_itself_are_refused_in_a_phrase(repositories):
    with pytest.raises(PromptError, match="special tokens"):
        ask(HFAdapter(repositories("qwen3_vl")), make_images(1, (16, 32)), ["a <|image_pad|>"])


def test_settings_without_a_mean_are_refused(tmp_path, repositories):
    shutil.copytree(repositories("llava"), tmp_path, dirs_exist_ok=True)
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({"image_std": [1, 1, 1]}))
    with pytest.raises(ConfigError, match=r"lacks \['image_mean'\]"):
        HFAdapter(str(tmp_path))


@pytest.mark.parametrize("name", ["qwen3_vl", "paligemma", "gemma3", "mistral3"])
def test_eager_attention_reads_the_packed_mask_alike(name, load):
    images = make_images(2, ZOO[name].size_hw)
    eager = load(name, attention="eager")
    assert eager.packing.mode == "packed"
    assert relative_difference(ask(eager, images).query, ask(load(name, mode="separate"), images).query) <= 1e-5


@pytest.mark.parametrize("name", ZOO)
def test_no_prompts_while_training_still_touch_the_llm(name, load):
    adapter = load(name)
    features = adapter(make_images(1, ZOO[name].size_hw), [[]])
    assert features.query.shape == (0, WIDTH)
    (features.query.sum() + features.grid.sum()).backward()
    assert adapter.base_model.get_input_embeddings().weight.grad is not None
    adapter.zero_grad()


@pytest.mark.parametrize("name", ZOO)
def test_a_family_writes_what_its_own_generate_writes(name, load):
    adapter = load(name)
    images = make_images(2, ZOO[name].size_hw)
    short, long = Prompt("what is this?", "vqa"), Prompt("what is this to the left of the large red ring?", "vqa")
    with torch.no_grad():
        encoded = adapter.encode_images(images)
        written = adapter.generate(encoded, [[short, long], [short]], 6)
        assert any(text for own in written for text in own)
        if ZOO[name].num_tokens:  # its processor spells an image otherwise
            return
        for image, questions, own in zip(images, [[short, long], [short]], written, strict=True):
            for question, text in zip(questions, own, strict=True):
                assert text == own_answer(adapter, name, image, question)


def own_answer(adapter, name, image, question):
    """Return what transformers' generate writes, given pixels and the tokens of the whole text."""
    tokenizer, token_hw = adapter.encoder.tokenizer, adapter.features.token_hw(image.shape[-2:])
    content = [{"type": "image"}, {"type": "text", "text": question.text}]
    text = tokenizer.apply_chat_template(
        [{"role": "user", "content": content}], add_generation_prompt=True, tokenize=False
    )
    shown = adapter.image_text(token_hw)
    ids = torch.tensor([encode(tokenizer, text.replace(adapter.encoder.placeholder, shown, 1))])
    plain = ZOO[name].plain(adapter.statistics.normalise(image[None]), ids, adapter.config.image_token_id)
    if adapter.config.model_type == "paligemma":  # the question is read as it is while learning, token by token
        start = len(adapter.text.prefix(shown))
        plain["token_type_ids"] = (torch.arange(ids.shape[1]) >= start).int()[None]
    made = adapter.base_model.generate(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        **plain,
        max_new_tokens=6,
        do_sample=False,
        eos_token_id=end_tokens(adapter.base_model, adapter.encoder),
    )
    return adapter.encoder.tokenizer.decode(made[0, ids.shape[1] :], skip_special_tokens=True).strip()

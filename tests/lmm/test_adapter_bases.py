"""Adapters of different base models: nano, a LLaVA with a tower of CLIP, and one that is built already."""

import pytest
import torch
from adapter_cases import PHRASES, ask, plain_forward
from helpers import make_images, relative_difference
from transformers import (
    CLIPImageProcessorPil,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
)

from lumen.errors import ConfigError
from lumen.lmm.adapter import HFAdapter
from lumen.lmm.families import family_of
from lumen.lmm.loading import LoadedBase
from lumen.lmm.nano.tokenizer import CHAT_TEMPLATE, IMAGE_TOKEN, build_tokenizer
from lumen.lmm.pixels import load_statistics
from lumen.lmm.tokens.phrases import load_tokenizer


@pytest.mark.parametrize("corner", ["top left", "top right", "bottom left", "bottom right"])
def test_a_mark_in_a_corner_lies_in_that_corner_of_every_map(make_adapter, corner):
    adapter = make_adapter()
    dark = torch.zeros(1, 3, 64, 128, dtype=torch.uint8)
    marked = dark.clone()
    rows = slice(0, 8) if "top" in corner else slice(-8, None)
    cols = slice(0, 8) if "left" in corner else slice(-8, None)
    marked[:, :, rows, cols] = 255
    with torch.no_grad():
        plain, seen = ask(adapter, ["cat"], dark), ask(adapter, ["cat"], marked)
    for before, after in zip([plain.grid, *plain.laterals], [seen.grid, *seen.laterals], strict=True):
        change = (after - before)[0].abs().sum(0)
        height, width = change.shape
        row, col = divmod(int(change.argmax()), width)
        assert ("top" if row < height / 4 else "bottom" if row >= 3 * height / 4 else "?") in corner
        assert ("left" if col < width / 8 else "right" if col >= 7 * width / 8 else "?") in corner


@pytest.fixture(scope="module")
def tiny_clip_llava(tmp_path_factory):
    """Save a LLaVA with a CLIP tower, as the 7B model is built, at toy size."""
    tokenizer = build_tokenizer(512)
    vision = CLIPVisionConfig(
        hidden_size=32, intermediate_size=64, num_hidden_layers=3, num_attention_heads=4, image_size=56, patch_size=14
    )
    text = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4
    )
    config = LlavaConfig(
        vision_config=vision, text_config=text, image_token_index=tokenizer.convert_tokens_to_ids(IMAGE_TOKEN)
    )
    torch.manual_seed(0)
    model = LlavaForConditionalGeneration(config)
    size = {"height": 56, "width": 56}
    images = CLIPImageProcessorPil(size=size, crop_size=size)
    folder = tmp_path_factory.mktemp("clip_llava")
    model.save_pretrained(folder)
    LlavaProcessor(images, tokenizer, patch_size=14, vision_feature_select_strategy="default",
                   chat_template=CHAT_TEMPLATE).save_pretrained(folder)  # fmt: skip
    return folder


def test_a_clip_llava_takes_its_own_size_only(tiny_clip_llava):
    adapter = HFAdapter(str(tiny_clip_llava)).eval()
    assert adapter.input_spec.fixed_hw == (56, 56)
    with torch.no_grad():
        features = ask(adapter, images=make_images(2, (56, 56)))
    assert features.query.shape == (8, 32)
    assert features.grid.shape == (2, 32, 4, 4)
    assert (features.laterals, features.stride) == ((), 14)
    with pytest.raises(ConfigError, match=r"images of \(56, 56\) pixels, got \(112, 56\)"):
        ask(adapter, images=make_images(1, (112, 56)))


def test_a_clip_llava_packs_like_a_plain_forward(tiny_clip_llava):
    adapter = HFAdapter(str(tiny_clip_llava), base={"attention": "eager"}).eval()
    images = make_images(1, (56, 56))
    with torch.no_grad():
        query = ask(adapter, images=images).query
        for number, phrase in enumerate(PHRASES):
            states, _, suffix, _ = plain_forward(adapter, images[0], phrase)
            assert relative_difference(query[number], states[suffix.slots[0]]) <= 1e-5


def test_a_clip_grid_is_row_major(tiny_clip_llava):
    adapter = HFAdapter(str(tiny_clip_llava)).eval()
    dark = torch.zeros(1, 3, 56, 56, dtype=torch.uint8)
    marked = dark.clone()
    marked[:, :, 14:28, 42:56] = 255  # row 1, column 3
    with torch.no_grad():
        change = (ask(adapter, ["cat"], marked).grid - ask(adapter, ["cat"], dark).grid)[0].abs().sum(0)
    assert divmod(int(change.argmax()), 4) == (1, 3)


def built_base(folder):
    path = str(folder)
    model = LlavaForConditionalGeneration.from_pretrained(path, attn_implementation="eager")
    tokenizer = load_tokenizer(path, config=model.config, family=family_of(model.config))
    return LoadedBase(model, tokenizer, load_statistics(path))


def test_a_built_base_model_answers_as_a_loaded_one(make_adapter, tiny_nano):
    loaded, built = make_adapter(), HFAdapter(base_model=built_base(tiny_nano)).eval()
    assert built.describe() == loaded.describe()
    with torch.no_grad():
        assert torch.equal(ask(built).query, ask(loaded).query)


def test_features_of_a_narrow_built_base_are_float32(tiny_nano):
    base = built_base(tiny_nano)
    base.model.to(torch.bfloat16)
    with torch.no_grad():
        assert ask(HFAdapter(base_model=base).eval()).query.dtype == torch.float32


def test_a_base_model_is_either_named_or_built(tiny_nano):
    base = built_base(tiny_nano)
    with pytest.raises(ConfigError, match="give either name_or_path or base_model"):
        HFAdapter()
    with pytest.raises(ConfigError, match="give either name_or_path or base_model"):
        HFAdapter(str(tiny_nano), base_model=base)
    with pytest.raises(ConfigError, match=r"base_model is built already, but base gives \['attention'\]"):
        HFAdapter(base_model=base, base={"attention": "eager"})

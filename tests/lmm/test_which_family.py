"""Which family a model is of, and which models are of none."""

from dataclasses import replace

import pytest
from transformers import CONFIG_MAPPING, LlamaConfig, LlavaConfig
from zoo import ZOO, build

from lumen.errors import ConfigError
from lumen.lmm.adapter import HFAdapter
from lumen.lmm.families import FAMILIES, family_of, register_family


def test_a_family_can_be_named(spoiled):
    adapter = HFAdapter(spoiled("llava_next"), base={"family": "llava_next"})
    assert adapter.family is FAMILIES["llava_next"]
    with pytest.raises(ConfigError, match=r"no LMM family for 'my_family'; known are .*register_family\("):
        HFAdapter(adapter.name_or_path, base={"family": "my_family"})


def test_a_registered_family_is_found_and_stays(repositories, monkeypatch):
    monkeypatch.setattr("lumen.lmm.families.FAMILIES", dict(FAMILIES))
    family = replace(FAMILIES["llava"], splits=False)
    register_family("llava/clip_vision_model", family)
    register_family("llava/clip_vision_model", family)
    adapter = HFAdapter(repositories("llava"))
    assert adapter.family is family
    assert not adapter.splits
    with pytest.raises(ConfigError, match="the family 'llava' is known already"):
        register_family("llava", family)


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("mllama", "reads the image by cross-attention"),
        ("florence2", "an encoder and a decoder"),
        ("blip", "reads the image by cross-attention"),
        ("kosmos-2", "an image that is encoded already"),
        ("fuyu", "no vision tower"),
    ],
)
def test_a_model_of_another_kind_is_refused_with_the_reason(kind, reason):
    with pytest.raises(ConfigError, match=f"model type '{kind}' does not fit: .*{reason}"):
        family_of(CONFIG_MAPPING[kind]())


def test_an_unknown_family_is_refused(monkeypatch):
    monkeypatch.setattr(LlavaConfig, "model_type", "looks_like_llava")
    with pytest.raises(ConfigError, match="no LMM family for 'looks_like_llava/clip_vision_model'; known are"):
        family_of(LlavaConfig())


def test_a_model_without_images_is_refused():
    with pytest.raises(ConfigError, match=r"model type 'llama' has no \['vision_config'"):
        family_of(LlamaConfig())


def test_a_config_without_an_image_token_is_refused():
    config = LlavaConfig()
    config.image_token_id = None
    with pytest.raises(ConfigError, match="names no image_token_id"):
        family_of(config)


def test_an_image_token_that_the_tokenizer_lacks_is_refused(spoiled):
    with pytest.raises(ConfigError, match="the tokenizer has no token 99999"):
        HFAdapter(spoiled("llava", image_token_index=99999))


def test_every_family_has_a_tiny_model():
    tested = {key_of(build(name)[0]) for name in ZOO}
    # Nano is the model of most other tests, EfficientNet-Lite0 that of tests/lmm/nano.
    assert set(FAMILIES) - tested == {"llava/lumen_nano_vision", "llava/lumen_efficientnet_lite0"}


def key_of(config):
    key = f"{config.model_type}/{config.vision_config.model_type}"
    return key if key in FAMILIES else config.model_type

"""Large bases: LoRA, new tokens beside a base that stays as it is, recomputed layers, narrow weights."""

import importlib.metadata
import importlib.util

import pytest
import torch
from helpers import make_images, relative_difference

from lumen.aligners.dense import DenseAligner
from lumen.decoders.detection import DetectionDecoder
from lumen.engine.hooks import eval_frozen_modules, freeze_parameters
from lumen.errors import ConfigError
from lumen.lmm import repository
from lumen.lmm.adapter import HFAdapter
from lumen.lmm.tokens.special import new_rows
from lumen.model import Lumen
from lumen.serialization.checkpoint import absent_names, load_trained_state, trained_state
from lumen.structures import Prompt

LORA = {"r": 2, "alpha": 4, "dropout": 0.0, "targets": ["q_proj", "v_proj"]}


def ask(adapter):
    return adapter(make_images(2), [[Prompt("red circle"), Prompt("cat")], [Prompt("zebra")]])


def gradients(adapter):
    features = ask(adapter)
    (features.query.square().sum() + features.grid.square().sum() + sum(features.text_losses.values())).backward()
    return {name: parameter.grad for name, parameter in adapter.named_parameters() if parameter.grad is not None}


# --- new tokens -------------------------------------------------------------------------------------------------------


def test_new_rows_have_the_mean_and_spread_of_the_known_ones_and_leave_the_generator_alone():
    known = torch.randn(500, 3) * torch.tensor([1.0, 0.1, 0.0]) + torch.tensor([5.0, 0.0, 2.0])
    before = torch.get_rng_state()
    rows = new_rows(known, 4000)
    assert torch.equal(before, torch.get_rng_state())
    assert torch.equal(rows, new_rows(known, 4000))
    torch.testing.assert_close(rows.mean(0), known.mean(0), rtol=0, atol=0.1)
    torch.testing.assert_close(rows.std(0), known.std(0), rtol=0.1, atol=1e-6)
    assert new_rows(known, 0).shape == (0, 3)


@pytest.mark.parametrize("mode", ["resize", "learn"])
def test_new_tokens_start_alike_at_every_build(tiny_nano, mode):
    built = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        built.append(HFAdapter(str(tiny_nano), base={"new_tokens": mode}, template="paper").eval())
    first, second = (dict(adapter.named_parameters()) for adapter in built)
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_learned_tokens_answer_as_resized_ones_and_leave_the_base_as_it_is(make_adapter):
    resized = make_adapter(template="paper", phrase_reconstruction=True)
    learned = make_adapter(template="paper", phrase_reconstruction=True, new_tokens="learn")
    wanted, found = ask(resized), ask(learned)
    assert relative_difference(found.query.detach(), wanted.query.detach()) <= 1e-5
    for name, total in wanted.text_losses.items():
        torch.testing.assert_close(found.text_losses[name], total)
    assert len(learned.base_model.get_input_embeddings().weight) < len(learned.encoder.tokenizer)
    assert learned.describe()["new_tokens"] == "learn"


def test_a_base_that_cannot_say_the_new_tokens_recalls_phrases_all_the_same(make_adapter):
    resized, learned = (make_adapter(phrase_reconstruction=True, new_tokens=mode) for mode in ("resize", "learn"))
    wanted, found = (ask(adapter).text_losses["loss_phrase_reconstruction"] for adapter in (resized, learned))
    # its output layer has fewer words to choose from
    torch.testing.assert_close(found, wanted, rtol=0.05, atol=0.0)
    assert found < wanted


def test_a_frozen_base_learns_its_tokens_alone(make_adapter):
    adapter = make_adapter(new_tokens="learn")
    freeze_parameters(adapter, ["base_model.*"])
    assert set(gradients(adapter)) == {"new_tokens.rows"}
    assert gradients(adapter)["new_tokens.rows"].abs().sum() > 0


def test_a_base_that_learns_tokens_can_write_them(make_adapter):
    adapter = make_adapter(template="paper", new_tokens="learn", answer_mode="generated")
    adapter(make_images(1), [[Prompt("cat")]], predicting=True)
    assert adapter.answer_report.asked == 1


def test_an_unknown_way_of_new_tokens_is_refused(make_adapter):
    with pytest.raises(ConfigError, match="new_tokens must be one of"):
        make_adapter(new_tokens="guess")


# --- loading ----------------------------------------------------------------------------------------------------------


def test_recomputed_layers_give_equal_gradients_frozen_or_not(make_adapter):
    plain = gradients(make_adapter())
    again = make_adapter(gradient_checkpointing=True)
    calls = []
    again.base_model.model.language_model.layers[0].mlp.register_forward_pre_hook(lambda *_: calls.append(1))
    eval_frozen_modules(again.requires_grad_(False))
    again.requires_grad_(True)
    found = gradients(again)
    assert len(calls) == 2  # once forward, once again for the backward pass
    assert found.keys() == plain.keys()
    for name in plain:
        torch.testing.assert_close(found[name], plain[name])


def test_a_base_in_bfloat16_gives_float32_features(make_adapter):
    wanted = ask(make_adapter())
    adapter = make_adapter(dtype="bfloat16")
    features = ask(adapter)
    assert {parameter.dtype for parameter in adapter.base_model.parameters()} == {torch.bfloat16}
    assert features.query.dtype == features.grid.dtype == torch.float32
    assert relative_difference(features.query, wanted.query) < 0.1


@pytest.mark.parametrize("device_map", ["cpu", {"": "cpu"}])
def test_a_device_map_places_the_base(make_adapter, device_map):
    pytest.importorskip("accelerate")
    assert torch.equal(ask(make_adapter(device_map=device_map)).query, ask(make_adapter()).query)


def test_wrong_loading_options_are_named(make_adapter, monkeypatch):
    with pytest.raises(ConfigError, match=r"base\.dtype must be one of"):
        make_adapter(dtype="int8")
    with pytest.raises(ConfigError, match=r"got \['bits'\]"):
        repository.quantization_config({"bits": 4})
    with pytest.raises(ConfigError, match="load_in_4bit=True or load_in_8bit=True"):
        repository.quantization_config({"bnb_4bit_quant_type": "nf4"})
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="quantization needs bitsandbytes"):
        repository.quantization_config({"load_in_8bit": True})
    with pytest.raises(ConfigError, match="lora needs peft"):
        make_adapter(lora=LORA)


def test_a_quantised_base_is_asked_for_by_fields(monkeypatch):
    monkeypatch.setattr(repository, "require", lambda *_: None)
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "1.0")  # transformers asks whose version it is
    config = repository.quantization_config({"load_in_4bit": True, "bnb_4bit_quant_type": "nf4"})
    assert config.load_in_4bit and config.bnb_4bit_quant_type == "nf4"


# --- padding ----------------------------------------------------------------------------------------------------------


def test_padding_is_counted(make_adapter):
    adapter = make_adapter()
    ask(adapter)
    rows = adapter.usage.tokens + adapter.usage.padding
    assert rows % 2 == 0 and adapter.usage.padding > 0
    assert adapter.usage.padding_share == adapter.usage.padding / rows
    adapter.usage.clear()
    assert adapter.usage.padding_share == 0


# --- LoRA -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def make_lora(make_adapter):
    pytest.importorskip("peft", reason="peft is not installed")

    def make(**options):
        adapter = make_adapter(lora=LORA, **options)
        torch.manual_seed(1)
        for name, parameter in adapter.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter, std=0.1)
        return adapter

    return make


def test_lora_trains_the_llm_only_through_its_adapters(make_lora):
    adapter = make_lora(dtype="bfloat16")
    trained = {name for name, parameter in adapter.named_parameters() if parameter.requires_grad}
    in_llm = {name for name in trained if "language_model" in name}
    assert in_llm and all("lora_" in name for name in in_llm)
    assert any("vision_tower" in name for name in trained)
    parameters = dict(adapter.named_parameters())
    assert {parameters[name].dtype for name in in_llm} == {torch.float32}
    assert in_llm <= set(gradients(adapter))


def test_merged_lora_answers_alike_and_is_a_plain_base(make_lora, make_adapter, tmp_path):
    adapter = make_lora()
    wanted = ask(adapter).query
    assert relative_difference(ask(make_adapter()).query, wanted) > 1e-3
    merged = adapter.merge_lora()
    assert relative_difference(ask(adapter).query, wanted) <= 1e-5
    assert not any("lora" in name for name in merged.state_dict())
    merged.save_pretrained(tmp_path)
    adapter.encoder.tokenizer.save_pretrained(tmp_path)
    settings = "preprocessor_config.json"
    (tmp_path / settings).write_text('{"image_mean": [0.5, 0.5, 0.5], "image_std": [0.25, 0.25, 0.25]}')
    again = HFAdapter(str(tmp_path), base={"attention": "eager"}).eval()
    assert relative_difference(ask(again).query, wanted) <= 1e-5
    with pytest.raises(ConfigError, match="there is no LoRA to merge"):
        adapter.merge_lora()


def test_a_checkpoint_of_lora_holds_what_was_trained_and_loads_again(make_lora, make_adapter):
    def model(adapter):
        torch.manual_seed(2)
        aligner = {"type": DenseAligner, "channels": 32, "num_heads": 4, "mlp_channels": 64}
        built = Lumen(lmm=adapter, aligner=aligner, decoders=[{"type": DetectionDecoder}]).eval()
        freeze_parameters(built, ["lmm.base_model.*"], ["*lora_*"])
        return built

    trained = model(make_lora(new_tokens="learn"))
    state = trained_state(trained)
    parameters = dict(trained.named_parameters())  # and running statistics, which the state holds too
    own = {name for name in state if name.startswith("lmm.") and name in parameters}
    assert all("lora_" in name or name == "lmm.new_tokens.rows" for name in own) and len(own) == 9
    fresh = model(make_adapter(lora=LORA, new_tokens="learn"))
    load_trained_state(fresh, {"state_dict": state, "meta": {"absent": absent_names(trained, state)}})
    assert torch.equal(ask(fresh.lmm).query, ask(trained.lmm).query)


@pytest.mark.parametrize(
    ("fields", "match"), [({"rank": 2}, r"got \['rank'\]"), ({"targets": ["wq"]}, r"\['wq'\] match no layer")]
)
def test_wrong_lora_options_are_named(make_adapter, fields, match):
    pytest.importorskip("peft", reason="peft is not installed")
    with pytest.raises(ConfigError, match=match):
        make_adapter(lora=fields)

"""A repository loads as it was saved, or it is refused with the reason."""

import ast
import importlib.util
import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import lumen
from lumen.errors import CheckpointError, ConfigError
from lumen.lmm.adapter import HFAdapter
from lumen.lmm.assemble import load_language_model, load_tower
from lumen.lmm.options import BaseOptions
from lumen.lmm.repository import load_model, read_config
from lumen.lmm.sam import SamMasks
from lumen.model import Lumen


@pytest.fixture
def folder(repositories, tmp_path):
    """Return a copy of a tiny LLaVA that a test may spoil."""
    return Path(shutil.copytree(repositories("llava"), tmp_path / "copy"))


def load(folder, attention=None, **options):
    return load_model(str(folder), read_config(str(folder), attention), BaseOptions(**options))


def change_weights(folder, change):
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors", {"format": "pt"})


def change_config(folder, **fields):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | fields))


def llm_names(weights):
    return [
        name for name in weights if "language_model" in name and ".layers." in name and name.endswith("proj.weight")
    ]


def test_weights_come_as_they_were_saved(folder):
    load(folder).save_pretrained(folder / "again")
    wanted, found = load_file(folder / "model.safetensors"), load_file(folder / "again" / "model.safetensors")
    assert found.keys() == wanted.keys()
    assert [name for name in wanted if not torch.equal(found[name], wanted[name])] == []


def test_a_missing_weight_is_an_error(folder):
    change_weights(folder, lambda weights: weights.pop(llm_names(weights)[0]))
    with pytest.raises(CheckpointError, match=r"1 missing, such as .*proj.weight"):
        load(folder)


def test_a_weight_left_over_is_an_error_unless_it_is_named(folder):
    change_weights(folder, lambda weights: weights.update({"mtp.extra": torch.zeros(2)}))
    with pytest.raises(CheckpointError, match=r"1 left over, such as \['mtp.extra'\].*unused_weights"):
        load(folder)
    assert load(folder, unused_weights=[r"^mtp\."]).config.model_type == "llava"


def test_a_weight_of_another_shape_is_an_error(folder):
    def shrink(weights):
        name = llm_names(weights)[0]
        weights[name] = weights[name][:-1].clone()

    change_weights(folder, shrink)
    with pytest.raises(CheckpointError, match=r"1 of another shape, such as .*proj.weight"):
        load(folder)


def test_weights_that_are_not_finite_are_an_error(folder):
    change_weights(folder, lambda weights: weights[llm_names(weights)[0]].fill_(float("nan")))
    with pytest.raises(CheckpointError, match=r"1 weights of .* not finite, such as .*proj\.weight"):
        load(folder)


def test_answers_are_searched_greedily_whatever_a_repository_asks_for(folder):
    path = folder / "generation_config.json"
    fields = json.loads(path.read_text()) if path.exists() else {}
    # transformers has this search as code in a repository, which it would fetch.
    fields |= {"penalty_alpha": 0.6, "top_k": 4, "num_beams": 3, "eos_token_id": 7}
    path.write_text(json.dumps(fields))
    found = load(folder).generation_config
    assert (found.get_generation_mode(), found.num_beams, found.eos_token_id) == ("greedy_search", None, 7)


def test_tied_weights_are_not_missing(folder):
    config = json.loads((folder / "config.json").read_text())
    config["text_config"]["tie_word_embeddings"] = True
    change_config(folder, tie_word_embeddings=True, text_config=config["text_config"])
    change_weights(folder, lambda weights: weights.pop(next(name for name in weights if "lm_head" in name)))
    model = load(folder)
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight


def to_fp8(weights):
    """Store the LLM's linear layers as fp8 repositories do: 8 bits, and one scale per block."""
    for name in llm_names(weights):
        scale = weights[name].abs().max() / 448
        weights[name] = (weights[name] / scale).to(torch.float8_e4m3fn)
        weights[f"{name}_scale_inv"] = scale.reshape(1, 1)


def test_fp8_weights_are_scaled_back(folder):
    pytest.importorskip("accelerate")
    plain = load(folder)
    others = ["model.vision_tower", "model.multi_modal_projector", "lm_head"]
    fp8 = {"quant_method": "fp8", "weight_block_size": [128, 128], "modules_to_not_convert": others}
    change_weights(folder, to_fp8)
    change_config(folder, quantization_config=fp8)
    loaded = load(folder)
    for ours, wanted in zip(
        loaded.get_decoder().layers[0].parameters(), plain.get_decoder().layers[0].parameters(), strict=True
    ):
        torch.testing.assert_close(ours.float(), wanted, rtol=0.1, atol=1e-3)


@pytest.mark.parametrize("method", ["awq", "gptq", "compressed-tensors"])
def test_a_quantized_repository_without_its_library_is_refused(method, folder):
    library = {"awq": "gptqmodel", "gptq": "optimum", "compressed-tensors": "compressed_tensors"}[method]
    if importlib.util.find_spec(library):
        pytest.skip(f"{library} is installed")
    change_config(folder, quantization_config={"quant_method": method, "bits": 4, "group_size": 16})
    with pytest.raises(ConfigError, match=f"quantized by '{method}'.*pip install"):
        load(folder)


def test_an_unknown_quantization_is_refused(folder):
    change_config(folder, quantization_config={"quant_method": "own_way"})
    with pytest.raises(ConfigError, match="quantized by 'own_way', which transformers does not know"):
        load(folder)


def test_a_quantized_repository_is_not_quantized_again(folder):
    change_config(folder, quantization_config={"quant_method": "fp8"})
    with pytest.raises(ConfigError, match="quantized by 'fp8' already"):
        load(folder, quantization={"load_in_4bit": True})


def test_a_model_without_sdpa_is_read_with_eager_attention(repositories, caplog):
    path = repositories("paligemma2")
    assert load(path).get_decoder().config._attn_implementation == "eager"
    assert "eager" not in caplog.text
    model = load(path, "sdpa")
    assert model.get_decoder().config._attn_implementation == "eager"
    assert "does not support" in caplog.text and "attention='eager' is used" in caplog.text


def test_an_unknown_attention_is_refused(repositories):
    with pytest.raises(ConfigError, match=r"attention must be one of .* got 'fast'"):
        read_config(repositories("llava"), "fast")


def test_flash_attention_needs_its_library_or_narrow_weights(repositories):
    with pytest.raises(ConfigError, match="flash_attention_2"):
        load(repositories("llava"), "flash_attention_2")


def test_no_folder_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match="cannot be read"):
        read_config(str(tmp_path / "nowhere"), None)


def test_code_of_a_repository_is_never_run(folder):
    (folder / "code.py").write_text("raise SystemExit('ran')")
    change_config(folder, model_type="own_kind", auto_map={"AutoConfig": "code.OwnConfig"})
    with pytest.raises(ConfigError, match="Code from a model repository is never run"):
        read_config(str(folder), None)


def test_code_that_a_part_of_a_model_names_is_not_asked_for(folder, monkeypatch):
    monkeypatch.setattr("builtins.input", lambda question="": pytest.fail(f"asked: {question}"))
    (folder / "own.py").write_text("raise SystemExit('ran')")
    code = {"AutoModel": f"{folder}--own.Tower"}
    change_config(folder, vision_config={"model_type": "align_vision_model", "auto_map": code})
    config = read_config(str(folder), None)
    assert not hasattr(config.vision_config, "auto_map")
    with pytest.raises(CheckpointError, match="cannot be built"):
        Lumen({"type": HFAdapter, "name_or_path": str(folder)}, {}, [])


def test_an_adapter_beside_the_weights_is_refused_and_its_model_not_fetched(folder):
    pytest.importorskip("peft")
    adapter = {"peft_type": "LORA", "base_model_name_or_path": "somebody/model", "target_modules": ["q_proj"]}
    (folder / "adapter_config.json").write_text(json.dumps(adapter))
    for load_part in (
        lambda: read_config(str(folder), None),
        lambda: load_tower(folder),
        lambda: SamMasks(str(folder)),
    ):
        with pytest.raises(ConfigError, match=r"holds an adapter of peft.*merge_and_unload"):
            load_part()
    (folder / "config.json").unlink()
    with pytest.raises(ConfigError, match="holds an adapter of peft"):
        load_language_model(folder)


def test_an_attention_that_would_be_fetched_is_refused(folder):
    with pytest.raises(ConfigError, match="no code is fetched"):
        read_config(str(folder), "somebody/kernel")
    vision = json.loads((folder / "config.json").read_text())["vision_config"]
    change_config(folder, vision_config={**vision, "_attn_implementation": "somebody/kernel"})
    assert read_config(str(folder), None).vision_config._attn_implementation != "somebody/kernel"


def test_an_unknown_model_type_is_refused(folder):
    change_config(folder, model_type="own_kind")
    with pytest.raises(ConfigError, match="transformers has no model class"):
        read_config(str(folder), None)


def test_every_call_of_an_auto_class_refuses_remote_code():
    calls = 0
    for file in Path(lumen.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if not isinstance(node, ast.Call) or not ast.unparse(node.func).startswith("Auto"):
                continue
            if node.func.attr in ("from_pretrained", "from_config"):
                calls += 1
                given = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
                assert given.get("trust_remote_code") == "False", f"{file}:{node.lineno}"
    assert calls >= 10

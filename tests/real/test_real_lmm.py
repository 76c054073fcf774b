"""Packing, generation, training and export with the weights of a real language model and a real tower."""

import pytest
import torch
from helpers import make_images, relative_difference

from lumen.lmm.adapter import HFAdapter
from lumen.lmm.check_packing import check_packing
from lumen.lmm.packing import selfcheck
from lumen.structures import Prompt

pytestmark = pytest.mark.real

PHRASES = ("dog", "the red ring left of the square", "traffic light", "a person", "star")
PROMPTS = [[Prompt(phrase) for phrase in PHRASES], [Prompt(phrase) for phrase in PHRASES[:2]]]
IMAGES = make_images(2, (96, 128))


@pytest.fixture(scope="module", params=["float32", "bfloat16"])
def adapter(request, real_lmm):
    return HFAdapter(str(real_lmm), base={"dtype": request.param}, template="paper").eval()


def test_grouped_queries_pass_the_self_check(adapter):
    heads = adapter.config.text_config
    assert (heads.num_attention_heads, heads.num_key_value_heads) == (9, 3)
    assert selfcheck.packing_works(adapter.config) and selfcheck.split_works(adapter.config)
    assert adapter.packing.is_packed and adapter.splits


def test_packed_prompts_equal_separate_ones(adapter):
    bound = {torch.float32: 1e-5, torch.bfloat16: 3e-2}[adapter.base_model.dtype]
    difference = check_packing(adapter, IMAGES, PROMPTS)
    print("packed against separate", adapter.base_model.dtype, difference)
    assert difference <= bound


@torch.no_grad()
def say(adapter, text):
    chat = [{"role": "user", "content": text}]
    tokenizer = adapter.encoder.tokenizer
    ids = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    out = adapter.base_model.generate(**ids, max_new_tokens=16, do_sample=False)
    return tokenizer.decode(out[0, ids["input_ids"].shape[1] :], skip_special_tokens=True)


def test_text_alone_is_answered_as_the_language_model_does(adapter):
    answer = say(adapter, "What is the capital of France?")
    print(answer)
    assert "Paris" in answer


def test_an_answer_about_an_image_ends_or_reaches_its_bound(adapter):
    with torch.no_grad():
        (answers,) = adapter.generate(adapter.encode_images(IMAGES[:1]), [[Prompt("what is this?", "vqa")]], 8)
    print(answers)
    assert len(answers) == 1 and answers[0].strip() and "<|im_end|>" not in answers[0]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_lora_learns_and_is_exported(real_lmm, dtype, tmp_path):
    torch.manual_seed(0)
    base = {"dtype": dtype, "new_tokens": "learn"}
    lora = {"r": 8, "alpha": 16, "dropout": 0.0}
    adapter = HFAdapter(str(real_lmm), template="paper", base={**base, "lora": lora}).train()
    adapter.base_model.model.vision_tower.requires_grad_(False).eval()
    trained = [parameter for parameter in adapter.parameters() if parameter.requires_grad]
    assert all(
        parameter.dtype == torch.float32 for parameter in trained if parameter.ndim == 2 and parameter.shape[0] == 8
    )
    optimizer = torch.optim.AdamW(trained, lr=2e-3)
    losses = []
    for _ in range(6):
        answered = adapter(IMAGES, PROMPTS).text_losses["loss_answer"]
        loss = answered / adapter.count_tokens(PROMPTS)["answer_tokens"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    print(dtype, losses)
    assert losses[-1] < 0.5 * losses[0]
    adapter.eval()
    with torch.no_grad():
        before = adapter(IMAGES, PROMPTS).query
    rows = {name: value for name, value in adapter.state_dict().items() if name.startswith("new_tokens")}
    adapter.merge_lora().save_pretrained(tmp_path)
    adapter.encoder.tokenizer.save_pretrained(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text((real_lmm / "preprocessor_config.json").read_text())
    again = HFAdapter(str(tmp_path), template="paper", base=base).eval()
    again.load_state_dict(rows, strict=False)
    with torch.no_grad():
        difference = relative_difference(again(IMAGES, PROMPTS).query, before)
    print("merged and reloaded", dtype, difference)
    assert difference <= {"float32": 1e-5, "bfloat16": 5e-2}[dtype]

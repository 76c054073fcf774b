"""Tokens that a base model lacks, tokens that end an answer, prompts that are too long to be packed."""

import json
import shutil

import pytest
import torch
from helpers import make_images
from zoo import WIDTH, build

from lumen.lmm.adapter import HFAdapter
from lumen.lmm.generation import end_tokens
from lumen.structures import Prompt


def ask(adapter, images, phrases):
    with torch.no_grad():
        return adapter(images, [[Prompt(phrase) for phrase in phrases]] * len(images))


@pytest.mark.parametrize("new_tokens", ["resize", "learn"])
@pytest.mark.parametrize("name", ["qwen2_vl", "llava"])
def test_new_tokens_start_apart_even_in_a_table_with_spare_rows(name, new_tokens, repositories):
    adapter = HFAdapter(repositories(name), base={"new_tokens": new_tokens}, template="paper")
    encoder, base = adapter.encoder, adapter.base_model
    ids = torch.tensor(encoder.added_ids)
    assert int(ids.max()) < build(name)[0].text_config.vocab_size  # the table was long enough before
    with torch.no_grad():
        rows = base.get_input_embeddings()(ids)
        logits = base.get_output_embeddings()(torch.eye(WIDTH))[:, ids].T
    for found in (rows, logits):
        assert torch.cdist(found, found).fill_diagonal_(1).min() > 0.01
    assert 0.3 < float(rows.std() / base.get_input_embeddings().weight.data[: encoder.num_known].std()) < 3


def test_tokens_that_the_model_had_before_stay_as_they_are(repositories, tmp_path):
    trained = HFAdapter(repositories("qwen2_vl"))
    loc = trained.encoder.slot_ids[0]
    with torch.no_grad():
        trained.base_model.get_input_embeddings().weight[loc] = 7
    trained.base_model.save_pretrained(tmp_path)
    trained.encoder.tokenizer.save_pretrained(tmp_path)
    shutil.copy(f"{repositories('qwen2_vl')}/preprocessor_config.json", tmp_path)
    again = HFAdapter(str(tmp_path))
    assert again.encoder.added_ids == []
    assert bool((again.base_model.get_input_embeddings().weight[loc] == 7).all())


def test_every_end_token_of_the_model_ends_an_answer(spoiled):
    path = spoiled("gemma3")
    adapter = HFAdapter(path)
    tokenizer = adapter.encoder.tokenizer
    eos, turn = tokenizer.eos_token_id, tokenizer.convert_tokens_to_ids("<end_of_turn>")
    assert adapter.encoder.end_id == turn
    adapter.base_model.generation_config.eos_token_id = [5, 7]
    assert end_tokens(adapter.base_model, adapter.encoder) == sorted({5, 7, eos, turn})
    images = make_images(1, (16, 16))
    question = [[Prompt("what is this?", "vqa")]]
    with torch.no_grad():
        encoded = adapter.encode_images(images)
        long = adapter.generate(encoded, question, 6)[0][0]
        last = tokenizer(" " + long.split()[-1], add_special_tokens=False)["input_ids"][-1]
        adapter.base_model.generation_config.eos_token_id = [last]
        short = adapter.generate(encoded, question, 6)[0][0]
    assert long.startswith(short) and len(short) < len(long)


def test_a_long_prompt_does_not_end_packing(repositories, tmp_path):
    shutil.copytree(repositories("gemma3"), tmp_path, dirs_exist_ok=True)
    config = json.loads((tmp_path / "config.json").read_text())
    config["text_config"]["sliding_window"] = 48
    (tmp_path / "config.json").write_text(json.dumps(config))
    adapter = HFAdapter(str(tmp_path)).eval()
    images = make_images(1, (16, 16))
    ask(adapter, images, ["cat", "dog"])
    assert adapter.usage.passes == 1
    ask(adapter, images, ["cat", "a very long text about nothing much at all " * 2])
    assert adapter.usage.passes == 1 + 2
    ask(adapter, images, ["cat", "dog"])
    assert adapter.usage.passes == 1 + 2 + 1

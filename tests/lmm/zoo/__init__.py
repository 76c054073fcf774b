"""Tiny random models of real families, saved to disk in the layout in which the real ones are downloaded."""

import json
import re

import torch
from transformers import AutoConfig, AutoModelForImageTextToText, PretrainedConfig, PreTrainedTokenizerBase

from zoo import gemma_like, llava_like, merged_like, other_like, qwen_like
from zoo.base import GEMMA, IM, INST, TEXT, USER, WIDTH, Tiny, chat, sentencepiece_like

__all__ = ["GEMMA", "IM", "INST", "USER", "WIDTH", "ZOO", "Tiny", "build", "chat", "save", "sentencepiece_like"]

ZOO: dict[str, Tiny] = {**llava_like.ZOO, **merged_like.ZOO, **qwen_like.ZOO, **gemma_like.ZOO, **other_like.ZOO}


def build(name: str) -> tuple[PretrainedConfig, PreTrainedTokenizerBase]:
    """Return the config of a family's tiny model, and its tokenizer."""
    tiny = ZOO[name]
    tokenizer = tiny.tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": list(tiny.tokens)})
    ids = {token: tokenizer.convert_tokens_to_ids(token) for token in (*tiny.tokens, "<image>")}
    fields = tiny.config(ids)
    fields["text_config"] = {"vocab_size": len(tokenizer) + 8, **TEXT, **fields["text_config"]}
    if "vocab_size" in fields:  # some models keep it in both places
        fields["vocab_size"] = fields["text_config"]["vocab_size"]
    return AutoConfig.for_model(tie_word_embeddings=False, **fields), tokenizer


def save(name: str, folder) -> str:
    """Write the tiny model of a family to a folder and return it."""
    config, tokenizer = build(name)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = AutoModelForImageTextToText.from_config(config)
        for parameter in model.parameters():  # larger than at the start of a training, so that every path counts
            if parameter.ndim > 1:
                torch.nn.init.normal_(parameter, std=0.1)
        for weight, parameter in model.named_parameters():
            if ZOO[name].faint and re.search(ZOO[name].faint, weight):
                parameter.data *= 0.1
        for part in model.modules():  # a random kernel may answer most beside the place that it sees
            if isinstance(part, torch.nn.Conv2d) and part.kernel_size == (3, 3):
                part.weight.data[:, :, 1, 1] *= 4
    model.save_pretrained(folder)
    tokenizer.chat_template = ZOO[name].template
    tokenizer.save_pretrained(folder)
    settings = {"image_mean": [0.5] * 3, "image_std": [0.25] * 3, "rescale_factor": 1 / 255}
    (folder / "preprocessor_config.json").write_text(json.dumps(settings))
    return str(folder)

"""Does a model pack? Asked of a small float32 copy of its config, once per process, before any weights load."""

import functools
import json

import torch
from transformers import CONFIG_MAPPING, AutoModelForImageTextToText, PretrainedConfig

from lumen.lmm.packing import Suffix, additive_mask, block_mask, pack_rows

_TOLERANCE = 1e-5
_SMALL = {
    "hidden_size": 64,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "head_dim": 16,
    "vocab_size": 128,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}


def packing_works(config: PretrainedConfig) -> bool:
    """Return whether packed and separate prompts give equal states: relative difference at most 1e-5.

    Uses text only: the prefix stands for an image, which a causal LMM treats alike. Asked once per kind of text model.
    """
    text = {key: value for key, value in config.text_config.to_dict().items() if not key.startswith("_name")}
    return _check(type(config), config._attn_implementation or "sdpa", json.dumps(text, sort_keys=True, default=str))


@functools.cache
def _check(config_class: type[PretrainedConfig], attention: str, text: str) -> bool:
    config = _small_copy(config_class, json.loads(text))
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        model = AutoModelForImageTextToText.from_config(config, attn_implementation=attention).float().eval().model
        prefix = list(range(5, 15))
        suffixes = [Suffix((20, 21, 22), (0, 1), 2, 3), Suffix((30, 31), (0, 1), 1, 2)]
        rows = pack_rows(prefix, [suffixes], max_suffix_tokens=64, context=64, pad_id=0)
        mask = block_mask(rows.segments)
        mask = additive_mask(mask, torch.float32) if attention == "eager" else mask
        packed = model(
            input_ids=rows.input_ids, attention_mask=mask, position_ids=rows.position_ids, use_cache=False
        ).last_hidden_state[0]
        for start, suffix in zip(rows.pair_start.tolist(), suffixes, strict=True):
            ids = torch.tensor([[*prefix, *suffix.ids]])
            alone = model(input_ids=ids, use_cache=False).last_hidden_state[0, len(prefix) :]
            difference = (packed[start : start + len(suffix.ids)] - alone).abs().max() / alone.abs().max()
            if not difference <= _TOLERANCE:
                return False
    return True


def _small_copy(config_class: type[PretrainedConfig], text: dict) -> PretrainedConfig:
    """Return the same kind of config at toy size; the vision tower is left at its class's smallest use: none."""
    config = config_class()
    small = {key: value for key, value in _SMALL.items() if text.get(key) is not None}
    config.text_config = CONFIG_MAPPING[text["model_type"]].from_dict({**text, **small})
    for key in ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"):
        if key in config.vision_config.to_dict():
            setattr(config.vision_config, key, _SMALL[key])
    config.vision_config.image_size = 2 * config.vision_config.patch_size
    config.image_token_id = 127
    return config

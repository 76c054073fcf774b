"""Does a model pack? Asked of a small float32 copy of its LLM, once per process, before any weights load."""

import functools
import json

import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForImageTextToText, PretrainedConfig, PreTrainedModel

from lumen.lmm.packing.prefix_attention import SPLIT, Split, find_blocks
from lumen.lmm.packing.rows import PackedRows, Suffix, additive_mask, block_mask, pack_rows

_TOLERANCE = 1e-5
_HEADS = 2
_SMALL = {
    "intermediate_size": 64,
    "vocab_size": 128,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "use_bidirectional_attention": False,  # a prefix that sees its future is a matter of the mask
}


def packing_works(config: PretrainedConfig) -> bool:
    """Return whether packed and separate prompts give equal states: relative difference at most 1e-5.

    Uses text only: the prefix stands for an image, which a causal LLM treats alike. Asked once per kind of LLM. A
    sliding window depends on the length of a prompt, not on the kind: see ``fits_window``.
    """
    text = json.dumps(config.text_config.to_dict(), sort_keys=True, default=str)
    return _check(config.to_json_string(use_diff=False), config._attn_implementation or "sdpa", text)


def split_works(config: PretrainedConfig) -> bool:
    """Return whether prompts packed by ``prefix_attention`` equal separate ones; see ``packing_works``."""
    text = json.dumps(config.text_config.to_dict(), sort_keys=True, default=str)
    return _check(config.to_json_string(use_diff=False), SPLIT, text)


def fits_window(config: PretrainedConfig, length: int) -> bool:
    """Return whether a prefix and one suffix, ``length`` tokens, fit the LLM's sliding window, if it has one.

    A packed row carries its own mask, which knows no window; as long as nothing would leave it, that is the same.
    """
    window = config.text_config.to_dict().get("sliding_window")
    return window is None or length <= window


@functools.cache
def _check(config: str, attention: str, text: str) -> bool:
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        model = _small_llm(json.loads(config), attention)
        prefix = list(range(5, 15))
        suffixes = [Suffix((20, 21, 22), (0, 1), 2, 3), Suffix((30, 31), (0, 1), 1, 2)]
        rows = pack_rows(prefix, [suffixes], max_suffix_tokens=64, context=64, pad_id=0)
        inputs = _packed_inputs(rows, attention, len(prefix))
        packed = _states(model, rows.input_ids, position_ids=rows.position_ids, **inputs)
        for start, suffix in zip(rows.pair_start.tolist(), suffixes, strict=True):
            alone = _states(model, torch.tensor([[*prefix, *suffix.ids]]))[len(prefix) :]
            difference = (packed[start : start + len(suffix.ids)] - alone).abs().max() / alone.abs().max()
            if not difference <= _TOLERANCE:
                return False
    return True


def _packed_inputs(rows: PackedRows, attention: str, start: int) -> dict[str, Tensor | Split]:
    if attention == SPLIT:
        split = Split(start, find_blocks(rows.segments[:, start:]))
        return {"attention_mask": torch.ones(1, 1, 1, 1, dtype=torch.bool), "split": split}
    mask = block_mask(rows.segments)
    return {"attention_mask": additive_mask(mask, torch.float32) if attention == "eager" else mask}


def _states(model: PreTrainedModel, ids: Tensor, **inputs: Tensor | Split) -> Tensor:
    return model(inputs_embeds=model.get_input_embeddings()(ids), use_cache=False, **inputs).last_hidden_state[0]


def _small_llm(fields: dict, attention: str) -> PreTrainedModel:
    """Return the LLM at toy size: every kind of layer once or twice, the heads as wide as they are.

    The whole model is laid out without memory first: only it knows which class its LLM is of.
    """
    config = AutoConfig.for_model(**fields)
    text = config.text_config.to_dict()
    head_dim = text.get("head_dim") or text["hidden_size"] // text["num_attention_heads"]
    small = _SMALL | {
        "hidden_size": _HEADS * head_dim,
        "num_attention_heads": _HEADS,
        "num_key_value_heads": _HEADS,
        "head_dim": head_dim,
    }
    small = {key: value for key, value in small.items() if text.get(key) is not None}
    kinds = list(dict.fromkeys(text.get("layer_types") or ()))
    small |= {"num_hidden_layers": max(2, len(kinds))}
    small |= {"layer_types": (kinds * 2)[: max(2, len(kinds))]} if kinds else {}
    config.text_config = type(config.text_config).from_dict({**text, **small})
    with torch.device("meta"):
        kind = type(AutoModelForImageTextToText.from_config(config).get_decoder())
    return kind._from_config(config.text_config, attn_implementation=attention).float().eval()

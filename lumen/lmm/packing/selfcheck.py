"""Does a model pack, or go on behind a copied cache? Asked of a small float32 copy of its LLM, before weights load."""

import functools
import json
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForImageTextToText, PretrainedConfig, PreTrainedModel
from transformers.utils import ModelOutput

from lumen.errors import CheckpointError, named_faults
from lumen.lmm.families import Family
from lumen.lmm.families.family import sees_no_future
from lumen.lmm.options import PackingOptions
from lumen.lmm.packing.passes import expanded
from lumen.lmm.packing.plain_attention import ADDS_MASK
from lumen.lmm.packing.prefix_attention import SPLIT, Split, split_of
from lumen.lmm.packing.rows import PackedRows, Suffix, additive_mask, block_mask, pack_rows

_LOGGER = logging.getLogger(__name__)

INSTEAD = {
    "expanded": "each prompt goes behind a copy of the cache of its image",
    "separate": "each prompt gets a pass of its own",
}
"""What happens to prompts that do not pack, by mode."""

_TOLERANCE = 1e-5
_KEY_HEADS = 2
_MAX_WIDTH = 2048
_PREFIX = list(range(5, 15))
_SUFFIXES = [Suffix((20, 21, 22), (0, 1), (2,), 3), Suffix((30, 31), (0, 1), (1,), 2)]
_SMALL = {
    "intermediate_size": 64,
    "vocab_size": 128,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "use_bidirectional_attention": False,  # a prefix that sees its future is a matter of the mask
}


def mode_that_works(config: PretrainedConfig, family: Family, wanted: str) -> str:
    """Return the mode asked for, or the next one that gives states equal to those of separate prompts.

    Args:
        config: Config of the LMM.
        family: Its family.
        wanted: ``packed``, ``expanded`` or ``separate``.
    """
    if wanted == "packed" and packing_works(config):
        return wanted
    if wanted != "separate" and family.sees_future is sees_no_future and expanding_works(config):
        return "expanded"
    return "separate"


def mode_that_fits(config: PretrainedConfig, family: Family, mode: str, length: int) -> str:
    """Return a mode that works, or the next one where prompts of ``length`` tokens leave the LLM's window."""
    if mode != "packed" or fits_window(config, length):
        return mode
    return mode_that_works(config, family, "expanded")


def packing_in(mode: str, packing: PackingOptions, name: str, reason: str) -> PackingOptions:
    """Return the options in a mode; a warning names the model and the reason where it is another one."""
    if mode != packing.mode:
        _LOGGER.warning("%s cannot pack prompts (%s): %s", name, reason, INSTEAD[mode])
    return replace(packing, mode=mode)


def packing_works(config: PretrainedConfig) -> bool:
    """Return whether packed and separate prompts give equal states: relative difference at most 1e-5.

    Uses text only: the prefix stands for an image, which a causal LLM treats alike. Asked once per kind of LLM. A
    sliding window depends on the length of a prompt, not on the kind: see ``fits_window``.
    """
    text = json.dumps(config.text_config.to_dict(), sort_keys=True, default=str)
    attention = SPLIT if _is_flash(config._attn_implementation) else config._attn_implementation
    return _check(config.to_json_string(use_diff=False), attention, text)


def split_works(config: PretrainedConfig) -> bool:
    """Return whether prompts packed by ``prefix_attention`` equal separate ones; see ``packing_works``."""
    text = json.dumps(config.text_config.to_dict(), sort_keys=True, default=str)
    return _check(config.to_json_string(use_diff=False), SPLIT, text)


def expanding_works(config: PretrainedConfig) -> bool:
    """Return whether prompts behind copies of one cache equal separate ones; see ``packing_works``."""
    text = json.dumps(config.text_config.to_dict(), sort_keys=True, default=str)
    attention = None if _is_flash(config._attn_implementation) else config._attn_implementation
    return _check_expanded(config.to_json_string(use_diff=False), attention, text)


def takes_masks(base_model: PreTrainedModel) -> bool:
    """Return whether the LLM's own attention takes a mask of blocks; the kernels of flash attention do not."""
    return not _is_flash(base_model.get_decoder().config._attn_implementation)


def use_split(base_model: PreTrainedModel, family: Family) -> bool:
    """Let the LLM attend by ``prefix_attention`` where it can, and return whether it does.

    In its place it must do all that the LLM's own attention does: ``eager`` is kept, because an LLM takes it for what
    no kernel has, such as attention sinks.
    """
    replaceable = not takes_masks(base_model) or base_model.get_decoder().config._attn_implementation == "sdpa"
    if not (family.splits and replaceable and split_works(base_model.config)):
        return False
    base_model.set_attn_implementation({"text_config": SPLIT})
    return True


def _is_flash(attention: str | None) -> bool:
    return attention is not None and attention.startswith("flash")


def fits_window(config: PretrainedConfig, length: int) -> bool:
    """Return whether a prefix and one suffix, ``length`` tokens, fit the LLM's sliding window, if it has one.

    A packed row carries its own mask, which has no window; as long as nothing would leave it, that is the same.
    """
    text = config.text_config.to_dict()
    windows = [text.get(name) for name in ("sliding_window", "attention_chunk_size")]
    return all(window is None or length <= window for window in windows)


@functools.cache
def _check(config: str, attention: str | None, text: str) -> bool:
    with _small_llm(json.loads(config), attention) as model:
        rows = pack_rows(_PREFIX, [_SUFFIXES], max_suffix_tokens=64, context=64, pad_id=0)
        inputs = _packed_inputs(rows, model.config._attn_implementation, len(_PREFIX))
        packed = _states(model, rows.input_ids, position_ids=rows.position_ids, **inputs)[0]
        return _equal_separate(model, [packed[start:] for start in rows.pair_start.tolist()])


@functools.cache
def _check_expanded(config: str, attention: str | None, text: str) -> bool:
    with _small_llm(json.loads(config), attention) as model:
        embed = model.get_input_embeddings()
        cache = model(inputs_embeds=embed(torch.tensor([_PREFIX])), use_cache=True).past_key_values
        if cache is None:
            return False
        rows = pack_rows(_PREFIX, [_SUFFIXES], max_suffix_tokens=0, context=64, pad_id=0)
        # What stands behind the prefix, one suffix a row; its positions go on after it.
        ids, positions = (each[:, len(_PREFIX) :] for each in (rows.input_ids, rows.position_ids))
        cache = expanded(cache, torch.zeros(len(ids), dtype=torch.long))
        inputs = {"inputs_embeds": embed(ids), "position_ids": positions, "past_key_values": cache, "use_cache": True}
        return _equal_separate(model, list(_last(model(**inputs, output_hidden_states=True))))


def _equal_separate(model: PreTrainedModel, found: Sequence[Tensor]) -> bool:
    """Return whether the states of each suffix, found in some way, are those of a pass of its own."""
    model.set_attn_implementation("eager")  # every LLM has it, with all that its own attention does
    for states, suffix in zip(found, _SUFFIXES, strict=True):
        alone = _states(model, torch.tensor([[*_PREFIX, *suffix.ids]]))[0, len(_PREFIX) :]
        difference = (states[: len(suffix.ids)] - alone).abs().max() / alone.abs().max()
        if not difference <= _TOLERANCE:  # not a number is no equality either
            return False
    return True


def _packed_inputs(rows: PackedRows, attention: str, start: int) -> dict[str, Tensor | Split]:
    if attention == SPLIT:
        split = split_of(start, rows.segments[:, start:], rows.segments.device)
        return {"attention_mask": torch.ones(1, 1, 1, 1, dtype=torch.bool), "split": split}
    mask = block_mask(rows.segments)
    return {"attention_mask": additive_mask(mask, torch.float32) if attention in ADDS_MASK else mask}


def _states(model: PreTrainedModel, ids: Tensor, **inputs: Tensor | Split) -> Tensor:
    return _last(
        model(inputs_embeds=model.get_input_embeddings()(ids), use_cache=False, output_hidden_states=True, **inputs)
    )


def _last(output: ModelOutput) -> Tensor:
    """Return the last states; some models name their LLM with its output layer as the decoder, which gives them so."""
    return output.hidden_states[-1]


@contextmanager
def _small_llm(fields: dict, attention: str | None) -> Iterator[PreTrainedModel]:
    """Give the LLM at toy size: each kind of layer once or twice, the heads as wide and grouped as they are.

    It runs without gradients. The whole model is laid out without memory first: only it has the class of its LLM.
    """
    config = AutoConfig.for_model(**fields)
    text = config.text_config.to_dict()
    small = _SMALL | _small_heads(text)
    small = {key: value for key, value in small.items() if text.get(key) is not None}
    # One layer of each kind suffices: linear, sliding and full attention fail each in its own way.
    kinds = list(dict.fromkeys(text.get("layer_types") or ()))
    small |= {"num_hidden_layers": max(2, len(kinds))}
    small |= {"layer_types": (kinds * 2)[: max(2, len(kinds))]} if kinds else {}
    config.text_config = type(config.text_config).from_dict({**text, **small})
    # The class of the LLM alone is asked for; no weight takes memory.
    fault = f"the model of {config.name_or_path!r} cannot be built"
    with named_faults(fault, CheckpointError, remedy="install what it needs, or name another"), torch.device("meta"):
        kind = type(AutoModelForImageTextToText.from_config(config, trust_remote_code=False).get_decoder())
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        yield kind._from_config(config.text_config, attn_implementation=attention).float().eval()


def _small_heads(text: dict) -> dict[str, int]:
    """Return few heads of the same width, with as many query heads per key head; two key heads unless that is large."""
    heads = text["num_attention_heads"]
    head_dim = text.get("head_dim") or text["hidden_size"] // heads
    # Grouped queries are kept: a wrong order of heads shows only where several share a key.
    group = heads // (text.get("num_key_value_heads") or heads)
    key_heads = _KEY_HEADS if _KEY_HEADS * group * head_dim <= _MAX_WIDTH else 1
    width = {"hidden_size": key_heads * group * head_dim, "head_dim": head_dim}
    return width | {"num_attention_heads": key_heads * group, "num_key_value_heads": key_heads}

"""An LMM without its weights, laid out on the meta device: how many parameters, which shapes. Nothing is downloaded."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only
from transformers import AttentionInterface, AutoConfig, AutoModelForImageTextToText, PretrainedConfig

from lumen.errors import ConfigError
from lumen.lmm.adapter import HFAdapter
from lumen.lmm.encoded import EncodedImages
from lumen.lmm.families import InputSpec, family_of
from lumen.lmm.features import FeatureSource
from lumen.lmm.loading import LoadedBase
from lumen.lmm.nano.tokenizer import CHAT_TEMPLATE, IMAGE_TOKEN, build_tokenizer
from lumen.lmm.options import BaseOptions, ReadoutOptions
from lumen.lmm.packing.plain_attention import ADDS_MASK
from lumen.lmm.pixels import ImageStatistics
from lumen.lmm.readout import forced_pairs
from lumen.lmm.repository import read_config
from lumen.lmm.tokens.phrases import load_tokenizer
from lumen.options import read_options
from lumen.paths import find_path
from lumen.structures import LocFeatures, Prompt

_LLAMA_7B = {
    "model_type": "llama",
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 32,
    "vocab_size": 32064,
    "max_position_embeddings": 4096,
}
_CLIP_L = {
    "model_type": "clip_vision_model",
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "image_size": 336,
    "patch_size": 14,
    "projection_dim": 768,
}
KNOWN: dict[str, dict[str, Any]] = {
    "llava-hf/llava-1.5-7b-hf": {
        "model_type": "llava",
        "text_config": _LLAMA_7B,
        "vision_config": _CLIP_L,
        "image_token_index": 32000,
    },
    "Qwen/Qwen3-VL-4B-Instruct": {
        "model_type": "qwen3_vl",
        "text_config": {
            "model_type": "qwen3_vl_text",
            "hidden_size": 2560,
            "intermediate_size": 9728,
            "num_hidden_layers": 36,
            "num_attention_heads": 32,
            "num_key_value_heads": 8,
            "head_dim": 128,
            "vocab_size": 151936,
        },
        "vision_config": {
            "model_type": "qwen3_vl",
            "hidden_size": 1024,
            "intermediate_size": 4096,
            "depth": 24,
            "num_heads": 16,
            "patch_size": 16,
            "out_hidden_size": 2560,
            "deepstack_visual_indexes": [5, 11, 17],
        },
        "tie_word_embeddings": True,
    },
    "HuggingFaceTB/SmolVLM-Instruct": {
        "model_type": "idefics3",
        "text_config": {
            "model_type": "llama",
            "hidden_size": 2048,
            "intermediate_size": 8192,
            "num_hidden_layers": 24,
            "num_attention_heads": 32,
            "num_key_value_heads": 32,
            "vocab_size": 49155,
            "max_position_embeddings": 16384,
        },
        "vision_config": {
            "model_type": "idefics3_vision",
            "hidden_size": 1152,
            "intermediate_size": 4304,
            "num_hidden_layers": 27,
            "num_attention_heads": 16,
            "image_size": 384,
            "patch_size": 14,
        },
        "scale_factor": 3,
        "tie_word_embeddings": False,
    },
}
"""Sizes of some models, written down from what is known of them, not read from their files; ``--model-config`` wins."""

# Tokens around the image, of one suffix, and of the answer in it, where no tokenizer is at hand: a class name of one or
# two tokens in LLaVA's template.
_TOKENS = {"paper": (14, 26, 14), "compact": (10, 3, 0)}
_PHRASE = "dog"
_FUSED = "lumen_outline"
_STAND_IN_TOKENS = 512
_STATISTICS = ImageStatistics(1 / 255, (0.5,) * 3, (0.5,) * 3)  # pixels have no values here


@dataclass(frozen=True, slots=True)
class TokenCounts:
    """Tokens of a prompt: the prefix with the image, one suffix, and how many of the suffix are a learned answer."""

    prefix: int
    suffix: int
    answer: int


def outline_config(name_or_path: str, model_config: Path | None = None) -> PretrainedConfig:
    """Return the config of an LMM from a file, a local folder, or the table of known ones; the network is not asked.

    Raises:
        ConfigError: None of them has it.
    """
    place = Path(model_config or find_path(name_or_path))
    place = place / "config.json" if place.is_dir() else place
    if place.is_file():
        fields = json.loads(place.read_text(encoding="utf-8"))
    elif model_config is None and name_or_path in KNOWN:
        fields = KNOWN[name_or_path]
    else:
        raise ConfigError(
            f"{place} is not a folder with a config.json, and {name_or_path!r} is not among the known sizes "
            f"{sorted(KNOWN)}: give --model-config the folder or the config.json of the model"
        )
    return AutoConfig.for_model(**fields)


def input_spec_of(settings: Mapping[str, Any]) -> InputSpec:
    """Return which image sizes the adapter of a config takes, from the LMM's config alone; weights are not read.

    Args:
        settings: Config of an ``HFAdapter``, or of a ``CachedAdapter`` with the adapter that made the cache.

    Raises:
        CheckpointError: There is no LMM of that name.
        ConfigError: Its family is unknown.
    """
    if "name_or_path" not in settings and settings.get("lmm"):
        return input_spec_of(settings["lmm"])
    name = settings["name_or_path"]
    config = outline_config(name) if name in KNOWN else read_config(find_path(name), None)
    readout = read_options(ReadoutOptions, settings.get("readout"), "readout")
    base = read_options(BaseOptions, settings.get("base"), "base")
    return FeatureSource(family_of(config, base.family), config, dense_hw=readout.dense_size_hw).input_spec


class MetaWins(TorchDispatchMode):
    """Let operations on the meta device take CPU tensors too: some towers compute sizes and indices, with values."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operation; where one tensor has no values, none counts."""
        inputs = (args, kwargs or {})
        if any(isinstance(leaf, Tensor) and leaf.is_meta for leaf in tree_leaves(inputs)):
            inputs = tree_map_only(Tensor, lambda tensor: tensor.to("meta"), inputs)
        return func(*inputs[0], **inputs[1])


@dataclass(frozen=True, slots=True)
class Outline:
    """The adapter of a config without the weights of its LMM, to be planned with.

    Args:
        adapter: Its LMM lies on the meta device: parameters under their names, without values.
        base: How the config would load and train the base model.
        has_tokenizer: Whether the tokenizer is the model's own; else nano's stands in, whose counts mean nothing.
    """

    adapter: HFAdapter
    base: BaseOptions
    has_tokenizer: bool

    @property
    def decoder(self) -> nn.Module:
        """The LLM without its output layer."""
        return self.adapter.base_model.get_decoder()

    def count_tokens(self, input_hw: Sequence[int], task: str) -> TokenCounts:
        """Count the tokens of a prompt: with the model's tokenizer where it lies on disk, else by a table.

        A template of a config is not in the table and counted with the small stand-in, so with more tokens.
        """
        encoder, token_hw = self.adapter.encoder, self.adapter.features.token_hw(input_hw)
        if not self.has_tokenizer and encoder.template.name in _TOKENS:
            around, suffix, answer = _TOKENS[encoder.template.name]
            return TokenCounts(token_hw[0] * token_hw[1] + around, suffix, answer)
        prefix = len(self.adapter.prefix(input_hw))
        if self.adapter.is_text(task):
            return TokenCounts(prefix, 0, 0)
        suffix = encoder.suffix(_PHRASE, task)
        return TokenCounts(prefix, len(suffix.ids), suffix.num_answer_tokens)

    def encode(self, num_images: int, input_hw: Sequence[int]) -> EncodedImages:
        """Run the vision tower and the connector on the meta device."""
        return self.adapter.encode_images(torch.empty(num_images, 3, *input_hw, dtype=torch.uint8, device="meta"))

    def see(self, num_images: int, input_hw: Sequence[int]) -> Float[Tensor, ""]:
        """Run the vision tower and the connector on the meta device; the result depends on all their outputs."""
        states = self.encode(num_images, input_hw).states
        given = [*(states.pooler_output if states.pooler_output is not None else ())]
        given += [states.last_hidden_state] if states.last_hidden_state is not None else []
        return sum(part.float().sum() for part in (*given, *self.adapter.family.laterals(states)))

    def read(self, num_rows: int, length: int, *, from_image: bool) -> Float[Tensor, ""]:
        """Run the LLM over rows of tokens on the meta device.

        Args:
            num_rows: Number of rows.
            length: Tokens of a row.
            from_image: Whether something before the LLM learns through it.
        """
        place = {"dtype": self.adapter.base_model.dtype, "device": "meta"}
        embedded = torch.empty(num_rows, length, self.adapter.dim, requires_grad=from_image, **place)
        mask = torch.empty(num_rows, 1, length, length, **place)
        return self.decoder(inputs_embeds=embedded, attention_mask=mask, use_cache=False).last_hidden_state.sum()

    def predict(self, num_tokens: int) -> Float[Tensor, ""]:
        """Run the output layer and the cross entropy over some states on the meta device."""
        model = self.adapter.base_model
        states = torch.empty(num_tokens, self.adapter.dim, dtype=model.dtype, device="meta", requires_grad=True)
        logits = model.get_output_embeddings()(states).float()
        return functional.cross_entropy(logits, torch.empty(num_tokens, dtype=torch.long, device="meta"))

    def features(self, num_images: int, input_hw: Sequence[int], prompts: Sequence[Sequence[Prompt]]) -> LocFeatures:
        """Return features of the right shapes on the CPU, all 0, which learn where the LMM does."""
        adapter, pairs = self.adapter, forced_pairs(self.adapter.encoder, prompts)
        with torch.no_grad(), MetaWins():
            laterals = adapter.family.laterals(self.encode(num_images, input_hw).states)
        stride = adapter.family.vision_stride(adapter.config)
        if adapter.features.kind == "llm":
            stride = input_hw[0] // adapter.features.token_hw(input_hw)[0]
        sees, reads = self.learns("vision"), self.learns("llm")
        grid_hw = tuple(side // stride for side in input_hw)
        return LocFeatures(
            query=torch.zeros(len(pairs.flat), adapter.dim, requires_grad=reads),
            grid=torch.zeros(num_images, adapter.vision_dim, *grid_hw, requires_grad=sees),
            laterals=tuple(torch.zeros(lateral.shape, requires_grad=sees) for lateral in laterals),
            stride=stride,
            image_index=pairs.image_index,
            prompt_index=pairs.prompt_index,
            slots={token: torch.zeros(len(pairs.flat), adapter.dim, requires_grad=reads) for token in adapter.slots},
        )

    def parts(self) -> dict[str, list[nn.Parameter]]:
        """Return the parameters of the adapter by part: vision, connector, llm, embeddings with new tokens."""
        model = self.adapter.base_model
        llm = {id(p) for p in self.decoder.parameters()}
        tables = (model.get_input_embeddings(), model.get_output_embeddings(), self.adapter.new_tokens)
        words = {id(p) for module in tables if module is not None for p in module.parameters()}
        found: dict[str, list[nn.Parameter]] = {"vision": [], "connector": [], "llm": [], "embeddings": []}
        for name, parameter in self.adapter.named_parameters():
            is_connector = any(word in name for word in ("projector", "connector", "merger"))
            part = "embeddings" if id(parameter) in words else "llm" if id(parameter) in llm else "vision"
            found["connector" if part == "vision" and is_connector else part].append(parameter)
        return found

    def learns(self, part: str) -> bool:
        """Return whether a gradient reaches this part: ``vision``, with the connector, or ``llm``, with all before."""
        parts = self.parts()
        named = ("vision", "connector") if part == "vision" else tuple(parts)
        return any(parameter.requires_grad for name in named for parameter in parts[name])


def outline(settings: Mapping[str, Any], config: PretrainedConfig, *, dtype: torch.dtype) -> Outline:
    """Lay the adapter of a config out without weights. It is an ``HFAdapter`` like any other, on the meta device.

    Recomputed layers are left to the caller, since what they save depends on when they run.

    Args:
        settings: The config of the adapter.
        config: Of the LMM.
        dtype: Of the activations; bytes are counted by it.

    Raises:
        ConfigError: As ``HFAdapter`` does.
    """
    base = read_options(BaseOptions, settings.get("base"), "base")
    family = family_of(config, base.family)
    folder = Path(find_path(settings["name_or_path"]))
    has_tokenizer = (folder / "tokenizer_config.json").is_file()
    if has_tokenizer:
        tokenizer = load_tokenizer(str(folder), config=config, family=family, chat_template=base.chat_template)
    else:
        tokenizer = build_tokenizer(_STAND_IN_TOKENS)
        tokenizer.chat_template = CHAT_TEMPLATE.replace(IMAGE_TOKEN, family.placeholder or IMAGE_TOKEN)
        config.image_token_id = tokenizer.convert_tokens_to_ids(IMAGE_TOKEN)
    attention = {} if base.attention is None else {"attn_implementation": base.attention}
    with torch.device("meta"):
        model = AutoModelForImageTextToText.from_config(config, **attention, trust_remote_code=False).to(dtype)
    options = {key: value for key, value in settings.items() if key not in ("type", "name_or_path")}
    kept = ("new_tokens", "lora", "connector", "family")
    options["base"] = {name: getattr(base, name) for name in kept}
    adapter = HFAdapter(base_model=LoadedBase(model, tokenizer, _STATISTICS), **options)
    if base.attention not in ADDS_MASK:  # kernels that keep no scores are counted by a stand-in that the device knows
        model.set_attn_implementation(_FUSED)
    return Outline(adapter, base, has_tokenizer)


def _attend(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **_: object
) -> tuple[Tensor, None]:
    """Attend as fused kernels do, which keep no map of scores; on the meta device there is nothing to compute."""
    groups = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
    mixed = torch.ops.aten._scaled_dot_product_efficient_attention(query, key, value, None, True)[0]
    return mixed.transpose(1, 2).contiguous(), None


AttentionInterface.register(_FUSED, _attend)

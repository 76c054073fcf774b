"""An LMM without its weights, laid out on the meta device: how many parameters, which shapes. Nothing is downloaded."""

import json
from collections.abc import Mapping, Sequence, Set
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
from transformers.modeling_outputs import BaseModelOutputWithPooling

from lumen.errors import ConfigError
from lumen.lmm.families import family_of
from lumen.lmm.features import FeatureSource
from lumen.lmm.nano import vision as _registers_the_nano_tower  # noqa: F401
from lumen.lmm.tokens.phrases import PromptEncoder, load_tokenizer
from lumen.paths import find_path
from lumen.prompts import KNOWN_TASKS, TaskWording, Wordings, template_named
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
            f"{place} is no folder with a config.json, and {name_or_path!r} is not among the known sizes "
            f"{sorted(KNOWN)}: give --model-config the folder or the config.json of the model"
        )
    return AutoConfig.for_model(**fields)


class MetaWins(TorchDispatchMode):
    """Let operations on the meta device take CPU tensors too: some towers compute sizes and indices, with values."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operation; where one tensor has no values, none counts."""
        inputs = (args, kwargs or {})
        if any(isinstance(leaf, Tensor) and leaf.is_meta for leaf in tree_leaves(inputs)):
            inputs = tree_map_only(Tensor, lambda tensor: tensor.to("meta"), inputs)
        return func(*inputs[0], **inputs[1])


class OutlineAdapter(nn.Module):
    """In place of ``HFAdapter``: the same parameters under the same names, on the meta device, and empty features.

    LoRA, where the settings ask for it, is laid out too, as plain modules.

    Args:
        settings: The config of the adapter, without ``type``.
        config: Of the LMM.
        dtype: Of the activations; bytes are counted by it.
    """

    def __init__(self, settings: Mapping[str, Any], config: PretrainedConfig, *, dtype: torch.dtype) -> None:
        super().__init__()
        self.settings = dict(settings)
        self.config = config
        self.family = family_of(config)
        dense_hw = settings.get("dense_hw")
        kind = settings.get("features", "vision")
        self.features = FeatureSource(self.family, config, kind, None if dense_hw is None else tuple(dense_hw))
        attention = "eager" if settings.get("attention") == "eager" else "lumen_outline"
        with torch.device("meta"):
            self.base_model = AutoModelForImageTextToText.from_config(config, attn_implementation=attention).to(dtype)
        self.lateral_hw: list[tuple[int, int]] = []
        if settings.get("lora"):
            self.decoder.requires_grad_(False)
            _add_lora(self.decoder, settings["lora"])

    @property
    def decoder(self) -> nn.Module:
        """The LLM without its output layer."""
        return self.base_model.get_decoder()

    @property
    def dim(self) -> int:
        """Width of ``LocFeatures.query``."""
        return self.config.text_config.hidden_size

    @property
    def vision_dim(self) -> int:
        """Channels of ``LocFeatures.grid``."""
        return self.features.dim

    @property
    def lateral_channels(self) -> tuple[int, ...]:
        """Channels of each lateral map."""
        return self.family.lateral_channels(self.config)

    def is_text(self, task: str) -> bool:
        """Return whether a task is answered in words."""
        return self._wordings()[task].is_text

    def count_tokens(self, input_hw: Sequence[int], task: str) -> TokenCounts:
        """Count the tokens of a prompt: with the tokenizer where it lies on disk, else by a table."""
        template, token_hw = self.settings.get("template", "compact"), self.features.token_hw(input_hw)
        folder = Path(find_path(self.settings["name_or_path"]))
        if not (folder / "tokenizer_config.json").is_file():
            around, suffix, answer = _TOKENS[template]
            return TokenCounts(token_hw[0] * token_hw[1] + around, suffix, answer)
        tokenizer = load_tokenizer(str(folder), chat_template=self.family.chat_template)
        image = tokenizer.convert_ids_to_tokens(self.config.image_token_id)
        wordings = {"template": template_named(template), "wordings": self._wordings()}
        encoder = PromptEncoder(tokenizer, **wordings, placeholder=self.family.placeholder or image)
        prefix = len(encoder.prefix(self.family.image_text(self.config, image, token_hw)))
        if self.is_text(task):
            return TokenCounts(prefix, 0, 0)
        suffix = encoder.suffix(_PHRASE, task)
        return TokenCounts(prefix, len(suffix.ids), suffix.num_answer_tokens)

    def see(self, num_images: int, input_hw: Sequence[int]) -> Float[Tensor, ""]:
        """Run the vision tower and the connector on the meta device; the result hangs on all that they give."""
        model, hw = self.base_model.model, self.features.lmm_hw(input_hw)
        encoded = self.family.encode(model, self._pixels(num_images, hw))
        outputs = [encoded]
        if self.features.dense_hw:
            outputs.append(self.family.encode_dense(model, self._pixels(num_images, input_hw)))
        laterals = self.family.laterals(encoded)
        self.lateral_hw = [tuple(lateral.shape[-2:]) for lateral in laterals]
        return sum(_sum_of(output) for output in outputs) + sum(lateral.float().sum() for lateral in laterals)

    def read(self, num_rows: int, length: int, *, from_image: bool) -> Float[Tensor, ""]:
        """Run the LLM over rows of tokens on the meta device.

        Args:
            num_rows: Number of rows.
            length: Tokens of a row.
            from_image: Whether something before the LLM learns through it.
        """
        dtype = self.base_model.dtype
        embedded = torch.empty(num_rows, length, self.dim, dtype=dtype, device="meta", requires_grad=from_image)
        mask = torch.empty(num_rows, 1, length, length, dtype=dtype, device="meta")
        states = self.decoder(inputs_embeds=embedded, attention_mask=mask, use_cache=False).last_hidden_state
        return states.sum()

    def say(self, num_tokens: int) -> Float[Tensor, ""]:
        """Run the output layer and the cross entropy over some states on the meta device."""
        states = torch.empty(num_tokens, self.dim, dtype=self.base_model.dtype, device="meta", requires_grad=True)
        logits = self.base_model.get_output_embeddings()(states).float()
        return functional.cross_entropy(logits, torch.empty(num_tokens, dtype=torch.long, device="meta"))

    def forward(
        self,
        images: Tensor,
        prompts: Sequence[Sequence[Prompt]],
        *,
        extras: Set[str] = frozenset(),
        predicting: bool = False,
    ) -> LocFeatures:
        """Return features of the right shapes, all 0, which learn where the LMM does."""
        located = [[at for at, p in enumerate(own) if not self.is_text(p.task)] for own in prompts]
        stride = self.features.input_spec.multiple
        if self.features.kind != "llm":
            stride = self.family.vision_stride(self.config)
        sees, reads = self.learns("vision"), self.learns("llm")
        grid_hw = tuple(side // stride for side in images.shape[-2:])
        return LocFeatures(
            query=torch.zeros(sum(map(len, located)), self.dim, requires_grad=reads),
            grid=torch.zeros(len(images), self.vision_dim, *grid_hw, requires_grad=sees),
            laterals=tuple(
                torch.zeros(len(images), channels, *size_hw, requires_grad=sees)
                for channels, size_hw in zip(self.lateral_channels, self.lateral_hw, strict=True)
            ),
            stride=stride,
            image_index=torch.arange(len(images)).repeat_interleave(torch.tensor([len(own) for own in located])),
            prompt_index=torch.tensor([at for own in located for at in own], dtype=torch.long),
            text_losses={},
        )

    def parts(self) -> dict[str, list[nn.Parameter]]:
        """Return the parameters of the LMM by part: vision, connector, llm, embeddings."""
        llm = {id(p) for p in self.decoder.parameters()}
        embeddings = (self.base_model.get_input_embeddings(), self.base_model.get_output_embeddings())
        words = {id(p) for module in embeddings for p in module.parameters()}
        found: dict[str, list[nn.Parameter]] = {"vision": [], "connector": [], "llm": [], "embeddings": []}
        for name, parameter in self.base_model.named_parameters():
            is_connector = any(word in name for word in ("projector", "connector", "merger"))
            part = "embeddings" if id(parameter) in words else "llm" if id(parameter) in llm else "vision"
            found["connector" if part == "vision" and is_connector else part].append(parameter)
        return found

    def learns(self, part: str) -> bool:
        """Return whether a gradient reaches this part: ``vision``, with the connector, or ``llm``, with all before."""
        parts = self.parts()
        named = ("vision", "connector") if part == "vision" else tuple(parts)
        return any(parameter.requires_grad for name in named for parameter in parts[name])

    def _pixels(self, num_images: int, size_hw: Sequence[int]) -> Tensor:
        return torch.empty(num_images, 3, *size_hw, dtype=self.base_model.dtype, device="meta")

    def _wordings(self) -> Wordings:
        own = [
            task if isinstance(task, TaskWording) else TaskWording(**task) for task in self.settings.get("tasks", ())
        ]
        return Wordings((*KNOWN_TASKS, *own))


class _LoraLinear(nn.Module):
    """A linear layer with a low-rank one beside it."""

    def __init__(self, base: nn.Linear, rank: int) -> None:
        super().__init__()
        self.base = base
        place = {"device": "meta", "dtype": base.weight.dtype, "bias": False}
        self.down = nn.Linear(base.in_features, rank, **place)
        self.up = nn.Linear(rank, base.out_features, **place)

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x) + self.up(self.down(functional.dropout(x, 0.05)))


def _add_lora(decoder: nn.Module, lora: Mapping[str, Any]) -> None:
    targets = [
        (parent, name, child)
        for parent in decoder.modules()
        for name, child in parent.named_children()
        if isinstance(child, nn.Linear) and name in lora["targets"]
    ]
    if not targets:
        raise ConfigError(f"lora.targets {list(lora['targets'])} name no linear layer of the LLM")
    for parent, name, child in targets:
        setattr(parent, name, _LoraLinear(child, lora["r"]))


def _sum_of(output: BaseModelOutputWithPooling) -> Tensor:
    """Add up what a tower gives to others: its image tokens where it has a connector, and its states."""
    given = [*(output.pooler_output if output.pooler_output is not None else ())]
    given += [states for states in (output.last_hidden_state,) if states is not None]
    return sum(own.float().sum() for own in given)


def _attend(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **_: object
) -> tuple[Tensor, None]:
    """Attend as fused kernels do, which keep no map of scores; on the meta device there is nothing to compute."""
    groups = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
    mixed = torch.ops.aten._scaled_dot_product_efficient_attention(query, key, value, None, True)[0]
    return mixed.transpose(1, 2).contiguous(), None


AttentionInterface.register("lumen_outline", _attend)

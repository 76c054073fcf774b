"""PaliGemma and Gemma 3: part of the prefix attends both ways."""

import math

import torch
from torch import Tensor, nn
from transformers import PretrainedConfig

from lumen.lmm.families.family import Family, InputSpec, Size, fixed_square, patch_stride, repeat_token
from lumen.lmm.families.llava import encode_dense

_PALIGEMMA_CHAT = (
    "{% for message in messages %}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<image>{{ bos_token }}{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{% endfor %}{{ '\n' }}"
)


def _count_from_one(model: nn.Module, prefix: Tensor, token_hw: Size) -> Tensor:
    return torch.arange(1, len(prefix) + 1, device=prefix.device)[None]


def _all_of_it(config: PretrainedConfig, prefix: Tensor) -> Tensor:
    return torch.ones_like(prefix, dtype=torch.bool)


def _image_tokens(config: PretrainedConfig, prefix: Tensor) -> Tensor:
    return prefix == config.image_token_id


def _mark_suffix(config: PretrainedConfig, rows: Tensor, start: int | Tensor) -> dict[str, Tensor]:
    is_suffix = torch.arange(rows.shape[1], device=rows.device) >= start
    return {"token_type_ids": is_suffix.long().expand_as(rows)}


def _mark_image(config: PretrainedConfig, rows: Tensor, start: int | Tensor) -> dict[str, Tensor]:
    return {"token_type_ids": (rows == config.image_token_id).long()}


def _gemma3_spec(config: PretrainedConfig) -> InputSpec:
    patches = config.vision_config.image_size // patch_stride(config)
    return fixed_square(config, patch_stride(config) * (patches // math.isqrt(config.mm_tokens_per_image)))


PALIGEMMA = Family(
    positions=_count_from_one,
    sees_future=_all_of_it,
    plain_inputs=_mark_suffix,
    encode_dense=encode_dense,
    chat_template=_PALIGEMMA_CHAT,
)
GEMMA3 = Family(
    input_spec=_gemma3_spec,
    placeholder="<start_of_image>",
    image_text=lambda config, token, token_hw: (
        f"\n\n<start_of_image>{repeat_token(config, token, token_hw)}<end_of_image>\n\n"
    ),
    sees_future=_image_tokens,
    plain_inputs=_mark_image,
    encode_dense=encode_dense,
)

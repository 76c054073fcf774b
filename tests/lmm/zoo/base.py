"""What the tiny models are made of: sizes, chat templates, tokenizers, and what a family's own processor gives."""

import json
from collections.abc import Callable
from dataclasses import dataclass

import torch
from tokenizers import Tokenizer, decoders, models, normalizers, processors, trainers
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast, Qwen2VLImageProcessorPil

from lumen.lmm.nano.tokenizer import WORDS, build_tokenizer

WIDTH = 32
TEXT = {
    "hidden_size": WIDTH,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
TOWER = {"hidden_size": WIDTH, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}

USER = (
    "{% for message in messages %}{{ message['role'].upper() }}: {{ parts }}"
    "{% if not loop.last %} {% endif %}{% endfor %}{% if add_generation_prompt %} ASSISTANT:{% endif %}"
)
INST = (
    "{{ bos_token }}{% for message in messages %}{% if message['role'] == 'user' %}[INST] {{ parts }} [/INST]"
    "{% else %} {{ parts }}{{ eos_token }}{% endif %}{% endfor %}"
)
IM = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ parts }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
GEMMA = (
    "{{ bos_token }}{% for message in messages %}<start_of_turn>"
    "{{ 'model' if message['role'] == 'assistant' else 'user' }}\n{{ parts }}<end_of_turn>\n{% endfor %}"
    "{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)
SMOL = (
    "<|im_start|>{% for message in messages %}{{ message['role'] | capitalize }}: {{ parts }}<end_of_utterance>\n"
    "{% endfor %}{% if add_generation_prompt %}Assistant:{% endif %}"
)
PARTS = (
    "{% for part in message['content'] %}{% if part['type'] == 'image' %}IMAGE"
    "{% else %}{{ part['text'] }}{% endif %}{% endfor %}"
)


@dataclass(frozen=True)
class Tiny:
    """One family: its config given ids by token, its own tokens, its template, and a plain call's inputs.

    ``plain`` gives what the family's processor would give beside ``input_ids``; ``num_tokens`` the image tokens of that
    call, where the processor asks for other ones than we do; ``faint`` names weights that are kept small.
    """

    config: Callable[[dict[str, int]], dict]
    tokens: tuple[str, ...]
    image: str
    template: str | None
    size_hw: tuple[int, int]
    grid_hw: tuple[int, int]
    plain: Callable[[torch.Tensor, torch.Tensor, int], dict] = lambda pixels, ids, image_id: {"pixel_values": pixels}
    num_tokens: int | None = None
    packs: bool = True
    has_grid: bool = True
    faint: str | None = None
    tokenizer: Callable[[], PreTrainedTokenizerBase] = lambda: build_tokenizer(512)


def chat(frame: str, image: str) -> str:
    """Return a chat template: the frame around the parts of a message, the image as ``image``."""
    return frame.replace("{{ parts }}", PARTS.replace("IMAGE", image))


def sentencepiece_like() -> PreTrainedTokenizerFast:
    """Return a tokenizer of Llama's kind: words begin with a boundary sign, unknown characters fall back to bytes."""
    special = ["<unk>", "<s>", "</s>", "<pad>", "<image>"]
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    bytes_ = [f"<0x{value:02X}>" for value in range(256)]
    trainer = trainers.BpeTrainer(vocab_size=700, special_tokens=special + bytes_, show_progress=False)
    tokenizer.train_from_iterator([*WORDS, *(word.title() for word in WORDS)], trainer)
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    fields = json.loads(tokenizer.to_str())
    fields["added_tokens"] = [token for token in fields["added_tokens"] if not token["content"].startswith("<0x")]
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(fields)),
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        pad_token="<pad>",
        extra_special_tokens={"image_token": "<image>"},
    )


def thw(pixels, ids, image_id):
    """Return what the Qwen-VL line wants: flat patches, the grid, the kind of each token."""
    processor = Qwen2VLImageProcessorPil(patch_size=4, merge_size=2, temporal_patch_size=2)
    off = {"do_resize": False, "do_rescale": False, "do_normalize": False, "do_convert_rgb": False}
    inputs = processor(list(pixels), **off, return_tensors="pt")
    return {**inputs, "mm_token_type_ids": (ids == image_id).int()}


def grid(pixels, ids, image_id):
    """Return the same without the kinds of tokens."""
    return {name: value for name, value in thw(pixels, ids, image_id).items() if name != "mm_token_type_ids"}


def one_tile(pixels, ids, image_id):
    """Return what models that take tiles want, with one tile."""
    return {"pixel_values": pixels[:, None], "pixel_attention_mask": torch.ones(1, 1, dtype=torch.bool)}


def placed(pixels, ids, image_id):
    """Return what Gemma 4 wants: flat patches row by row, their columns and rows."""
    rows, cols = pixels.shape[-2] // 4, pixels.shape[-1] // 4
    patches = pixels.reshape(3, rows, 4, cols, 4).permute(1, 3, 2, 4, 0).reshape(1, rows * cols, 48)
    places = [[col, row] for row in range(rows) for col in range(cols)]
    kinds = {"mm_token_type_ids": (ids == image_id).int()}
    return {"pixel_values": patches, "image_position_ids": torch.tensor([places]), **kinds}


def tiled(pixels, ids, image_id):
    """Return what LLaVA-NeXT wants: the base tile and one more, and the size of the image."""
    return {"pixel_values": torch.stack([pixels, pixels], 1), "image_sizes": torch.tensor([pixels.shape[-2:]])}


def sized(pixels, ids, image_id):
    return {"pixel_values": pixels, "image_sizes": torch.tensor([pixels.shape[-2:]])}


def typed(pixels, ids, image_id):
    return {"pixel_values": pixels, "token_type_ids": (ids == image_id).int()}


def flat(pixels, ids, image_id):
    """Return what Siglip2 wants: patches one after the other, and the size of their grid."""
    _, _, height, width = pixels.shape
    patches = pixels[0].permute(1, 2, 0).reshape(height // 4, 4, width // 4, 4, 3).transpose(1, 2).reshape(1, -1, 48)
    return {
        "pixel_values": patches,
        "spatial_shapes": torch.tensor([[height // 4, width // 4]]),
        "pixel_attention_mask": torch.ones(patches.shape[:2], dtype=torch.long),
    }


def still(pixels, ids, image_id):
    """Return what Cosmos wants: patches of one frame, their channels last, in blocks of two by two."""
    rows, cols = pixels.shape[-2] // 8, pixels.shape[-1] // 8
    blocks = pixels.reshape(1, 3, rows, 2, 4, cols, 2, 4).permute(0, 2, 5, 3, 6, 4, 7, 1)
    return {
        "pixel_values": blocks.reshape(rows * cols * 4, 48),
        "image_grid_thw": torch.tensor([[1, 2 * rows, 2 * cols]]),
        "mm_token_type_ids": (ids == image_id).int(),
    }


def small_images(pixels, ids, image_id):
    """Return what PaddleOCR wants: patches as small images, row by row."""
    rows, cols = pixels.shape[-2] // 4, pixels.shape[-1] // 4
    patches = pixels.reshape(3, rows, 4, cols, 4).permute(1, 3, 0, 2, 4).reshape(rows * cols, 3, 4, 4)
    kinds = {"mm_token_type_ids": (ids == image_id).int()}
    return {"pixel_values": patches, "image_grid_thw": torch.tensor([[1, rows, cols]]), **kinds}


def unmerged(pixels, ids, image_id):
    """Return what VideoLLaMA 3 wants: flat patches row by row, none of them merged."""
    inputs = small_images(pixels, ids, image_id)
    merges = {"image_merge_sizes": torch.tensor([1])}
    return {"pixel_values": inputs["pixel_values"].flatten(1), "image_grid_thw": inputs["image_grid_thw"], **merges}


def mrope(model_type, **fields):
    rope = {"rope_type": "default", "mrope_section": [2, 1, 1], "rope_theta": 10000.0}
    return {**({"model_type": model_type} if model_type else {}), "rope_parameters": rope, **fields}


def clip(image_size=16, **fields):
    return {"model_type": "clip_vision_model", **TOWER, "image_size": image_size, "patch_size": 4, **fields}


def eva(**fields):
    return {**clip(), "model_type": "blip_2_vision_model", "initializer_range": 0.02, **fields}


def siglip(image_size=16, **fields):
    return {**clip(image_size), "model_type": "siglip_vision_model", **fields}


def llava(kind, tower, image="<image>", **fields):
    return lambda ids: {
        "model_type": kind,
        "image_token_index": ids[image],
        "vision_config": tower,
        "text_config": {"model_type": "llama"},
        **fields,
    }


def qwen(kind, tower, text, **more):
    return lambda ids: {
        "model_type": kind,
        "image_token_id": ids["<|image_pad|>"],
        "video_token_id": ids["<|video_pad|>"],
        "vision_start_token_id": ids["<|vision_start|>"],
        "vision_end_token_id": ids["<|vision_end|>"],
        "vision_config": {"patch_size": 4, "spatial_merge_size": 2, "temporal_patch_size": 2, **tower},
        "text_config": text,
        **more,
    }


QWEN_TOKENS = ("<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>")
QWEN_CHAT = chat(IM, "<|vision_start|><|image_pad|><|vision_end|>")
SQUARE = {"image": "<image>", "size_hw": (16, 16), "grid_hw": (4, 4)}
WIDE = {"size_hw": (16, 32), "grid_hw": (4, 8)}

"""Tiny random models of real families, saved to disk in the layout in which the real ones are downloaded."""

import json
from collections.abc import Callable
from dataclasses import dataclass

import torch
from transformers import AutoConfig, AutoModelForImageTextToText, Qwen2VLImageProcessorPil

from lumen.lmm.nano.tokenizer import build_tokenizer

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

USER = "{% for message in messages %}USER: {{ parts }}{% if add_generation_prompt %} ASSISTANT:{% endif %}{% endfor %}"
INST = "{{ bos_token }}{% for message in messages %}[INST] {{ parts }} [/INST]{% endfor %}"
IM = (
    "{% for message in messages %}<|im_start|>user\n{{ parts }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
GEMMA = (
    "{{ bos_token }}{% for message in messages %}<start_of_turn>user\n{{ parts }}<end_of_turn>\n{% endfor %}"
    "{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)
SMOL = (
    "<|im_start|>{% for message in messages %}User:{{ parts }}<end_of_utterance>\n{% endfor %}"
    "{% if add_generation_prompt %}Assistant:{% endif %}"
)


@dataclass(frozen=True)
class Tiny:
    """One family: its config given ids by token, its own tokens, its template, and a plain call's inputs.

    ``plain`` gives what the family's processor would give beside ``input_ids``; ``num_tokens`` the image tokens of that
    call, where the processor asks for other ones than we do.
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


def chat(frame: str, image: str) -> str:
    """Return a chat template: the frame around the parts of a message, the image as ``image``."""
    parts = (
        "{% for part in message['content'] %}{% if part['type'] == 'image' %}"
        + image
        + "{% else %}{{ part['text'] }}{% endif %}{% endfor %}"
    )
    return frame.replace("{{ parts }}", parts)


def save(name: str, folder) -> str:
    """Write the tiny model of a family to a folder and return it."""
    tiny = ZOO[name]
    tokenizer = build_tokenizer(512)
    tokenizer.add_special_tokens({"additional_special_tokens": list(tiny.tokens)})
    ids = {token: tokenizer.convert_tokens_to_ids(token) for token in (*tiny.tokens, "<image>")}
    fields = tiny.config(ids)
    fields["text_config"] = {"vocab_size": len(tokenizer) + 8, **TEXT, **fields["text_config"]}
    config = AutoConfig.for_model(tie_word_embeddings=False, **fields)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = AutoModelForImageTextToText.from_config(config)
        for parameter in model.parameters():  # larger than at the start of a training, so that every path counts
            if parameter.ndim > 1:
                torch.nn.init.normal_(parameter, std=0.1)
    model.save_pretrained(folder)
    tokenizer.chat_template = tiny.template
    tokenizer.save_pretrained(folder)
    settings = {"image_mean": [0.5] * 3, "image_std": [0.25] * 3, "rescale_factor": 1 / 255}
    (folder / "preprocessor_config.json").write_text(json.dumps(settings))
    return str(folder)


def thw(pixels, ids, image_id):
    """Return what the Qwen-VL line wants: flat patches, the grid, the kind of each token."""
    processor = Qwen2VLImageProcessorPil(patch_size=4, merge_size=2, temporal_patch_size=2)
    off = {"do_resize": False, "do_rescale": False, "do_normalize": False, "do_convert_rgb": False}
    inputs = processor(list(pixels), **off, return_tensors="pt")
    return {**inputs, "mm_token_type_ids": (ids == image_id).int()}


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


def mrope(model_type, **fields):
    rope = {"rope_type": "default", "mrope_section": [2, 1, 1], "rope_theta": 10000.0}
    return {"rope_parameters": rope, **fields}


def clip(image_size=16, **fields):
    return {"model_type": "clip_vision_model", **TOWER, "image_size": image_size, "patch_size": 4, **fields}


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


def qwen(kind, tower, text):
    return lambda ids: {
        "model_type": kind,
        "image_token_id": ids["<|image_pad|>"],
        "video_token_id": ids["<|video_pad|>"],
        "vision_start_token_id": ids["<|vision_start|>"],
        "vision_end_token_id": ids["<|vision_end|>"],
        "vision_config": {"patch_size": 4, "spatial_merge_size": 2, "temporal_patch_size": 2, **tower},
        "text_config": text,
    }


QWEN_TOKENS = ("<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>")
QWEN_CHAT = chat(IM, "<|vision_start|><|image_pad|><|vision_end|>")
SQUARE = {"image": "<image>", "size_hw": (16, 16), "grid_hw": (4, 4)}
WIDE = {"size_hw": (16, 32), "grid_hw": (4, 8)}

ZOO: dict[str, Tiny] = {
    "llava": Tiny(llava("llava", clip()), (), template=chat(USER, "<image>\n"), **SQUARE),
    "llava_siglip": Tiny(
        llava("llava", siglip(18), vision_feature_select_strategy="full", vision_feature_layer=-1),
        (),
        template=chat(USER, "<image>\n"),
        **SQUARE,
    ),
    "vipllava": Tiny(
        llava("vipllava", clip(num_hidden_layers=3), vision_feature_layer=[-2, 1]),
        (),
        template=chat(USER, "<image>\n"),
        **SQUARE,
    ),
    "llava_next": Tiny(
        llava("llava_next", clip(), image_grid_pinpoints=[[16, 16]]),
        (),
        template=chat(INST, "<image>\n"),
        plain=tiled,
        num_tokens=16 + 4 * 5,
        **SQUARE,
    ),
    "llava_onevision": Tiny(
        llava(
            "llava_onevision",
            siglip(),
            image_grid_pinpoints=[[16, 16]],
            text_config={"model_type": "qwen2"},
            vision_feature_select_strategy="full",
            vision_feature_layer=-1,
        ),
        ("<|im_start|>", "<|im_end|>"),
        template=chat(IM, "<image>\n"),
        plain=tiled,
        num_tokens=16 + 4 * 5,
        **SQUARE,
    ),
    "internvl": Tiny(
        lambda ids: {
            "model_type": "internvl",
            "image_token_id": ids["<IMG_CONTEXT>"],
            "vision_config": {"model_type": "internvl_vision", **TOWER, "image_size": [16, 16], "patch_size": [4, 4]},
            "text_config": {"model_type": "qwen2"},
            "vision_feature_layer": -1,
        },
        ("<|im_start|>", "<|im_end|>", "<IMG_CONTEXT>", "<img>", "</img>"),
        "<IMG_CONTEXT>",
        chat(IM, "<IMG_CONTEXT>\n"),
        (16, 16),
        (4, 4),
    ),
    **{
        kind: Tiny(
            lambda ids, kind=kind, tower=tower: {
                "model_type": kind,
                "image_token_id": ids["<image>"],
                "scale_factor": 2,
                "vision_config": {**TOWER, "model_type": tower, "image_size": 16, "patch_size": 4},
                "text_config": {"model_type": "llama"},
            },
            ("<|im_start|>", "<end_of_utterance>", "<fake_token_around_image>", "<global-img>"),
            "<image>",
            chat(SMOL, "<image>"),
            (16, 16),
            (4, 4),
            plain=lambda pixels, ids, image_id: {"pixel_values": pixels[:, None]},
        )
        for kind, tower in (("idefics3", "idefics3_vision"), ("smolvlm", "smolvlm_vision"))
    },
    "mistral3": Tiny(
        lambda ids: {
            "model_type": "mistral3",
            "image_token_index": ids["[IMG]"],
            "spatial_merge_size": 2,
            "vision_config": {"model_type": "pixtral", **TOWER, "image_size": 64, "patch_size": 4},
            "text_config": {"model_type": "mistral", "head_dim": 8, "sliding_window": None},
        },
        ("[INST]", "[/INST]", "[IMG]", "[IMG_BREAK]", "[IMG_END]"),
        "[IMG]",
        chat(INST, "[IMG]"),
        plain=sized,
        **WIDE,
    ),
    "pixtral": Tiny(
        lambda ids: {
            "model_type": "llava",
            "image_token_index": ids["[IMG]"],
            "vision_feature_select_strategy": "full",
            "vision_feature_layer": -1,
            "vision_config": {"model_type": "pixtral", **TOWER, "image_size": 64, "patch_size": 4},
            "text_config": {"model_type": "mistral", "head_dim": 8, "sliding_window": None},
        },
        ("[INST]", "[/INST]", "[IMG]", "[IMG_BREAK]", "[IMG_END]"),
        "[IMG]",
        chat(INST, "[IMG]"),
        plain=sized,
        **WIDE,
    ),
    "qwen2_vl": Tiny(
        qwen(
            "qwen2_vl",
            {"embed_dim": WIDTH, "hidden_size": WIDTH, "depth": 2, "num_heads": 4, "mlp_ratio": 2},
            mrope("qwen2_vl_text"),
        ),
        QWEN_TOKENS,
        "<|image_pad|>",
        QWEN_CHAT,
        plain=thw,
        **WIDE,
    ),
    "qwen2_5_vl": Tiny(
        qwen(
            "qwen2_5_vl",
            {
                "hidden_size": WIDTH,
                "out_hidden_size": WIDTH,
                "intermediate_size": 64,
                "depth": 2,
                "num_heads": 4,
                "window_size": 16,
                "fullatt_block_indexes": [1],
            },
            mrope("qwen2_5_vl_text"),
        ),
        QWEN_TOKENS,
        "<|image_pad|>",
        QWEN_CHAT,
        plain=thw,
        **WIDE,
    ),
    "qwen3_vl": Tiny(
        qwen(
            "qwen3_vl",
            {
                "hidden_size": WIDTH,
                "out_hidden_size": WIDTH,
                "intermediate_size": 64,
                "depth": 2,
                "num_heads": 4,
                "num_position_embeddings": 16,
                "deepstack_visual_indexes": [0, 1],
            },
            mrope("qwen3_vl_text", head_dim=8),
        ),
        QWEN_TOKENS,
        "<|image_pad|>",
        QWEN_CHAT,
        plain=thw,
        **WIDE,
    ),
    "paligemma": Tiny(
        lambda ids: {
            "model_type": "paligemma",
            "image_token_index": ids["<image>"],
            "vision_config": {**siglip(), "projection_dim": WIDTH, "vision_use_head": False},
            "text_config": {"model_type": "gemma", "head_dim": 8},
            "projection_dim": WIDTH,
        },
        (),
        template=None,
        plain=lambda pixels, ids, image_id: {"pixel_values": pixels},
        **SQUARE,
    ),
    "gemma3": Tiny(
        lambda ids: {
            "model_type": "gemma3",
            "image_token_index": ids["<image_soft_token>"],
            "boi_token_index": ids["<start_of_image>"],
            "eoi_token_index": ids["<end_of_image>"],
            "mm_tokens_per_image": 4,
            "vision_config": {**siglip(), "vision_use_head": False},
            "text_config": {
                "model_type": "gemma3_text",
                "head_dim": 8,
                "sliding_window": 512,
                "layer_types": ["sliding_attention", "full_attention"],
            },
        },
        ("<start_of_turn>", "<end_of_turn>", "<start_of_image>", "<end_of_image>", "<image_soft_token>"),
        "<image_soft_token>",
        chat(GEMMA, "<start_of_image>"),
        (16, 16),
        (4, 4),
        plain=typed,
    ),
    "aya_vision": Tiny(
        llava(
            "aya_vision",
            siglip(),
            "<|IMG_PATCH|>",
            downsample_factor=2,
            vision_feature_select_strategy="full",
            vision_feature_layer=-1,
            text_config={
                "model_type": "cohere2",
                "head_dim": 8,
                "sliding_window": 512,
                "layer_types": ["sliding_attention", "full_attention"],
            },
        ),
        ("<|START_OF_IMG|>", "<|END_OF_IMG|>", "TILE_GLOBAL", "<|IMG_PATCH|>"),
        "<|IMG_PATCH|>",
        chat(INST, "<image>"),
        (16, 16),
        (4, 4),
    ),
    "cohere2_vision": Tiny(
        lambda ids: {
            "model_type": "cohere2_vision",
            "image_token_id": ids["<|IMG_PATCH|>"],
            "downsample_factor": 2,
            "alignment_intermediate_size": 64,
            "vision_config": siglip(),
            "text_config": {
                "model_type": "cohere2",
                "head_dim": 8,
                "sliding_window": 512,
                "layer_types": ["sliding_attention", "full_attention"],
            },
        },
        ("<|START_OF_IMG|>", "<|END_OF_IMG|>", "<|IMG_LINE_BREAK|>", "<|IMG_PATCH|>"),
        "<|IMG_PATCH|>",
        chat(INST, "<|IMG_PATCH|>"),
        (16, 16),
        (4, 4),
    ),
    "glm4v": Tiny(
        qwen(
            "glm4v",
            {
                "hidden_size": WIDTH,
                "out_hidden_size": WIDTH,
                "intermediate_size": 64,
                "depth": 2,
                "num_heads": 4,
                "image_size": 32,
            },
            {
                "model_type": "glm4v_text",
                "rope_parameters": {
                    "rope_type": "default",
                    "mrope_section": [2, 1, 1],
                    "rope_theta": 10000.0,
                    "partial_rotary_factor": 1.0,
                },
            },
        ),
        QWEN_TOKENS,
        "<|image_pad|>",
        QWEN_CHAT,
        (16, 32),
        (2, 4),
        plain=thw,
    ),
    "qwen3_5": Tiny(
        qwen(
            "qwen3_5",
            {
                "hidden_size": WIDTH,
                "out_hidden_size": WIDTH,
                "intermediate_size": 64,
                "depth": 2,
                "num_heads": 4,
                "num_position_embeddings": 16,
            },
            {
                "model_type": "qwen3_5_text",
                "head_dim": 8,
                "layer_types": ["linear_attention", "full_attention"],
                "linear_num_value_heads": 2,
                "linear_num_key_heads": 2,
                "linear_key_head_dim": 8,
                "linear_value_head_dim": 8,
                "rope_parameters": {
                    "rope_type": "default",
                    "mrope_section": [2, 1, 1],
                    "mrope_interleaved": True,
                    "rope_theta": 10000.0,
                    "partial_rotary_factor": 1.0,
                },
            },
        ),
        QWEN_TOKENS,
        "<|image_pad|>",
        QWEN_CHAT,
        plain=thw,
        packs=False,
        **WIDE,
    ),
    "lfm2_vl": Tiny(
        lambda ids: {
            "model_type": "lfm2_vl",
            "image_token_id": ids["<image>"],
            "downsample_factor": 2,
            "projector_hidden_size": 64,
            "vision_config": {
                "model_type": "siglip2_vision_model",
                **TOWER,
                "patch_size": 4,
                "num_patches": 16,
                "vision_use_head": False,
            },
            "text_config": {"model_type": "lfm2", "layer_types": ["conv", "full_attention"], "block_ff_dim": 64},
        },
        ("<|im_start|>", "<|im_end|>", "<|image_start|>", "<|image_end|>"),
        "<image>",
        chat(IM, "<image>"),
        plain=flat,
        packs=False,
        **WIDE,
    ),
    "deepseek_vl": Tiny(
        lambda ids: {
            "model_type": "deepseek_vl",
            "image_token_id": ids["<image_placeholder>"],
            "vision_config": {**siglip(), "vision_use_head": False},
            "text_config": {"model_type": "llama"},
        },
        ("<image_placeholder>",),
        "<image_placeholder>",
        chat(USER, "<image_placeholder>\n"),
        (16, 16),
        (4, 4),
    ),
}

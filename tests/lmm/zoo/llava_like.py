"""LLaVA and its relatives: a square tower, one token per patch."""

from zoo.base import IM, INST, SQUARE, TOWER, USER, WIDTH, Tiny, chat, clip, llava, sentencepiece_like, siglip, tiled

ZOO: dict[str, Tiny] = {
    "llava": Tiny(llava("llava", clip()), (), template=chat(USER, "<image>\n"), **SQUARE),
    "llava_sentencepiece": Tiny(
        llava("llava", clip()), (), template=chat(USER, "<image>\n"), tokenizer=sentencepiece_like, **SQUARE
    ),
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
    "llava_next_video": Tiny(
        llava("llava_next_video", clip(), image_grid_pinpoints=[[16, 16]]),
        (),
        template=chat(INST, "<image>\n"),
        plain=tiled,
        num_tokens=16 + 4 * 5,
        **SQUARE,
    ),
    "janus": Tiny(
        lambda ids: {
            "model_type": "janus",
            "image_token_id": ids["<image_placeholder>"],
            "vision_config": {
                **TOWER,
                "model_type": "janus_vision_model",
                "image_size": 16,
                "patch_size": 4,
                "mlp_ratio": 2.0,
                "projection_dim": WIDTH,
                "num_image_tokens": 16,
            },
            "vq_config": {
                "embed_dim": 4,
                "num_embeddings": 8,
                "latent_channels": 32,
                "base_channels": 32,
                "channel_multiplier": [1, 1],
                "num_res_blocks": 1,
                "num_patches": 4,
                "projection_dim": WIDTH,
                "image_token_embed_dim": WIDTH,
            },
            "text_config": {"model_type": "llama"},
        },
        ("<image_placeholder>", "<begin_of_image>", "<end_of_image>"),
        "<image_placeholder>",
        chat(USER, "<image_placeholder>\n"),
        (16, 16),
        (4, 4),
    ),
}

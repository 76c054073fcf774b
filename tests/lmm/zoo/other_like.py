"""Models that are unlike the others: learned queries, tiles, a tower of their own."""

from zoo.base import GEMMA, SQUARE, TOWER, USER, WIDTH, Tiny, chat, one_tile, placed

ZOO: dict[str, Tiny] = {
    "idefics2": Tiny(
        lambda ids: {
            "model_type": "idefics2",
            "image_token_id": ids["<image>"],
            "vision_config": {**TOWER, "model_type": "idefics2_vision", "image_size": 16, "patch_size": 4},
            "perceiver_config": {
                "resampler_n_latents": 3,
                "resampler_depth": 1,
                "resampler_n_heads": 4,
                "resampler_head_dim": 8,
                "num_key_value_heads": 2,
                "hidden_size": WIDTH,
            },
            "text_config": {"model_type": "mistral", "head_dim": 8, "sliding_window": None},
        },
        ("<fake_token_around_image>", "<end_of_utterance>"),
        template=chat(USER, "<image>"),
        plain=lambda pixels, ids, image_id: {"pixel_values": pixels[:, None]},
        has_grid=False,
        **SQUARE,
    ),
    "aria": Tiny(
        lambda ids: {
            "model_type": "aria",
            "image_token_index": ids["<image>"],
            "projector_patch_to_query_dict": {16: 3},
            "vision_config": {**TOWER, "model_type": "idefics3_vision", "image_size": 16, "patch_size": 4},
            "text_config": {"model_type": "aria_text", "moe_num_experts": 4},
        },
        (),
        template=chat(USER, "<image>"),
        has_grid=False,
        **SQUARE,
    ),
    "granite_docling": Tiny(
        lambda ids: {
            "model_type": "granite_docling",
            "image_token_id": ids["<image>"],
            "vision_config": {
                **TOWER,
                "image_size": 16,
                "patch_size": 4,
                "out_hidden_size": WIDTH,
                "scale_factor": 2,
                "deepstack_visual_indexes": [0],
            },
            "text_config": {"embedding_multiplier": 1.0},
        },
        ("<fake_token_around_image>", "<row_1_col_1>"),
        template=chat(USER, "<image>"),
        plain=one_tile,
        **SQUARE,
    ),
    "llama4": Tiny(
        lambda ids: {
            "model_type": "llama4",
            "image_token_index": ids["<|patch|>"],
            "vision_config": {
                **TOWER,
                "image_size": 16,
                "patch_size": 4,
                "intermediate_size": 128,
                "vision_output_dim": 24,
                "projector_input_dim": 24,
                "projector_output_dim": 24,
            },
            "text_config": {
                "head_dim": 8,
                "intermediate_size_mlp": 64,
                "num_local_experts": 2,
                "moe_layers": [1],
                "attention_chunk_size": 512,
            },
        },
        ("<|image_start|>", "<|image_end|>", "<|image|>", "<|patch|>", "<|eot|>"),
        "<|patch|>",
        chat(USER, "<|image|>"),
        (16, 16),
        (2, 2),
    ),
    "gemma4": Tiny(
        lambda ids: {
            "model_type": "gemma4",
            "image_token_id": ids["<|image|>"],
            "boi_token_id": ids["<|image>"],
            "eoi_token_id": ids["<image|>"],
            "vision_config": {
                **TOWER,
                "num_key_value_heads": 4,
                "head_dim": 8,
                "patch_size": 4,
                "pooling_kernel_size": 2,
                "position_embedding_size": 64,
            },
            "text_config": {
                "head_dim": 8,
                "global_head_dim": 8,
                "sliding_window": 512,
                "layer_types": ["sliding_attention", "full_attention"],
                "hidden_size_per_layer_input": 8,
                "vocab_size_per_layer_input": 520,
            },
        },
        ("<start_of_turn>", "<end_of_turn>", "<|image>", "<image|>", "<|image|>"),
        "<|image|>",
        chat(GEMMA, "<|image|>"),
        (16, 32),
        (2, 4),
        plain=placed,
        faint="vision_tower.*post_attention_layernorm",  # else its many norms let every place answer to a mark
    ),
}

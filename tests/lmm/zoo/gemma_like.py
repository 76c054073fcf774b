"""Models whose prefix attends both ways."""

from zoo.base import GEMMA, SQUARE, WIDTH, Tiny, chat, siglip, typed

ZOO: dict[str, Tiny] = {
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
        **SQUARE,
    ),
    "paligemma2": Tiny(
        lambda ids: {
            "model_type": "paligemma",
            "image_token_index": ids["<image>"],
            "vision_config": {**siglip(), "projection_dim": WIDTH, "vision_use_head": False},
            "text_config": {"model_type": "gemma2", "head_dim": 8},
            "projection_dim": WIDTH,
        },
        (),
        template=None,
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
}

"""The Qwen-VL line and others that take flat patches."""

from zoo.base import (
    QWEN_CHAT,
    QWEN_TOKENS,
    TOWER,
    WIDE,
    WIDTH,
    Tiny,
    grid,
    mrope,
    qwen,
    small_images,
    still,
    thw,
    unmerged,
)

EXPERTS = {"moe_intermediate_size": 32, "num_experts_per_tok": 2}
DEEPSTACK = {
    "hidden_size": WIDTH,
    "out_hidden_size": WIDTH,
    "intermediate_size": 64,
    "depth": 2,
    "num_heads": 4,
    "num_position_embeddings": 16,
    "deepstack_visual_indexes": [0, 1],
}
WINDOWS = {
    "hidden_size": WIDTH,
    "out_hidden_size": WIDTH,
    "intermediate_size": 64,
    "depth": 2,
    "num_heads": 4,
    "window_size": 16,
    "fullatt_block_indexes": [1],
}
NO_STACK = {key: value for key, value in DEEPSTACK.items() if key != "deepstack_visual_indexes"}
STILL = {**TOWER, "patch_size": 4, "spatial_merge_size": 2}
AUDIO = {"encoder_layers": 1, "encoder_attention_heads": 2, "encoder_ffn_dim": 16, "d_model": 16, "num_mel_bins": 8}
LINEAR = {
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
}
GLM_TOWER = {
    "hidden_size": WIDTH,
    "out_hidden_size": WIDTH,
    "intermediate_size": 64,
    "depth": 2,
    "num_heads": 4,
    "image_size": 32,
}
GLM_TEXT = {
    "rope_parameters": {
        "rope_type": "default",
        "mrope_section": [2, 1, 1],
        "rope_theta": 10000.0,
        "partial_rotary_factor": 1.0,
    },
}

ZOO: dict[str, Tiny] = {
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
            WINDOWS,
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
            DEEPSTACK,
            mrope("qwen3_vl_text", head_dim=8),
        ),
        QWEN_TOKENS,
        "<|image_pad|>",
        QWEN_CHAT,
        plain=thw,
        **WIDE,
    ),
    "glm4v": Tiny(
        qwen(
            "glm4v",
            GLM_TOWER,
            {"model_type": "glm4v_text", **GLM_TEXT},
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
            {"model_type": "qwen3_5_text", **LINEAR},
        ),
        QWEN_TOKENS,
        "<|image_pad|>",
        QWEN_CHAT,
        plain=thw,
        packs=False,
        **WIDE,
    ),
    **{
        kind: Tiny(
            qwen(kind, {**GLM_TOWER, **({"model_type": tower} if tower else {})}, {**GLM_TEXT, **text}),
            QWEN_TOKENS,
            "<|image_pad|>",
            QWEN_CHAT,
            (16, 32),
            (2, 4),
            plain=thw,
        )
        for kind, tower, text in (
            ("glm46v", "glm4v_vision", {"model_type": "glm4v_text"}),
            ("glmga", "glm4v_vision", {"model_type": "glm4v_text"}),
            ("glm_ocr", None, {"head_dim": 8}),
            ("glm4v_moe", None, {**EXPERTS, "head_dim": 8, "n_routed_experts": 4, "first_k_dense_replace": 1}),
        )
    },
    "qwen3_vl_moe": Tiny(
        qwen("qwen3_vl_moe", DEEPSTACK, mrope("qwen3_vl_moe_text", head_dim=8, num_experts=4, **EXPERTS)),
        QWEN_TOKENS,
        "<|image_pad|>",
        QWEN_CHAT,
        plain=thw,
        **WIDE,
    ),
    "qwen3_5_moe": Tiny(
        qwen(
            "qwen3_5_moe",
            NO_STACK,
            {**LINEAR, "num_experts": 4, "shared_expert_intermediate_size": 16, **EXPERTS},
        ),
        QWEN_TOKENS,
        "<|image_pad|>",
        QWEN_CHAT,
        plain=thw,
        packs=False,
        **WIDE,
    ),
    **{
        kind: Tiny(
            qwen(kind, tower, text, **more),
            QWEN_TOKENS,
            "<|image_pad|>",
            QWEN_CHAT,
            plain=plain,
            **{"packs": kind != "lfm3_vl", **WIDE},
        )
        for kind, tower, text, more, plain in (
            (
                "qwen2_5_omni_thinker",
                WINDOWS,
                mrope("qwen2_5_omni_text"),
                {"audio_config": {**AUDIO, "output_dim": WIDTH}},
                grid,
            ),
            (
                "qwen3_omni_moe_thinker",
                DEEPSTACK,
                mrope("qwen3_omni_moe_text", head_dim=8, num_experts=4, **EXPERTS),
                {"audio_config": {**AUDIO, "output_dim": WIDTH, "downsample_hidden_size": 8}},
                grid,
            ),
            ("exaone4_5", {**WINDOWS, "num_key_value_heads": 2}, {"model_type": "exaone4", "head_dim": 8}, {}, grid),
            (
                "hyperclovax_vision_v2",
                {**WINDOWS, "model_type": "qwen2_5_vl_vision"},
                {"model_type": "hyperclovax", "head_dim": 8},
                {},
                grid,
            ),
            (
                "cohere_compass",
                DEEPSTACK,
                {
                    "sliding_window": 512,
                    "layer_types": ["sliding_attention", "full_attention"],
                    "rope_parameters": dict.fromkeys(
                        ("sliding_attention", "full_attention"), mrope(None)["rope_parameters"]
                    ),
                },
                {},
                thw,
            ),
            (
                "cosmos3_edge",
                {**STILL, "num_patches": 16},
                mrope(None, head_dim=8),
                {"projector_hidden_size": 64},
                still,
            ),
            ("paddleocr_vl", {**STILL, "image_size": 32}, mrope(None, head_dim=8), {}, small_images),
            (
                "video_llama_3",
                {**TOWER, "patch_size": 4},
                {"model_type": "qwen2"},
                {},
                unmerged,
            ),
            (
                "lfm3_vl",
                {**STILL, "num_key_value_heads": 2, "temporal_patch_size": 2},
                {"model_type": "lfm3", "layer_types": ["conv", "full_attention"]},
                {"projector_hidden_size": 64},
                grid,
            ),
        )
    },
}

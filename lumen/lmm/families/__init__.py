"""What really differs between LMM families, as small functions. No other module asks which family a model is of."""

from transformers import PretrainedConfig

from lumen.errors import ConfigError
from lumen.lmm.families import eva, gemma, gemma4, llava, merged, queries, qwen
from lumen.lmm.families.family import Family, InputSpec

__all__ = ["FAMILIES", "UNFIT", "Family", "InputSpec", "family_of", "register_family"]

FAMILIES: dict[str, Family] = {
    "llava": llava.CLIP_LLAVA,
    "llava/lumen_nano_vision": llava.NANO,
    "llava/lumen_efficientnet_lite0": llava.EFFICIENTNET,
    "llava/blip_2_vision_model": eva.EVA,
    "llava/pixtral": merged.PIXTRAL,
    "vipllava": llava.VIPLLAVA,
    "llava_next": llava.ONE_TILE,
    "llava_onevision": llava.ONE_TILE,
    "llava_next_video": llava.ONE_TILE,
    "janus": merged.JANUS,
    "ovis2": merged.OVIS2,
    "got_ocr2": merged.GOT_OCR2,
    "internvl": merged.INTERNVL,
    "idefics2": queries.IDEFICS2,
    "aria": queries.ARIA,
    "llama4": merged.LLAMA4,
    "granite_docling": merged.GRANITE_DOCLING,
    "qianfan_ocr": merged.INTERNVL,
    "idefics3": merged.IDEFICS3,
    "smolvlm": merged.IDEFICS3,
    "mistral3": merged.MISTRAL3,
    "aya_vision": merged.AYA,
    "cohere2_vision": merged.COHERE2,
    "deepseek_vl": Family(),
    "lfm2_vl": merged.LFM2,
    "lighton_ocr": merged.LIGHTON_OCR,
    "qwen2_vl": qwen.QWEN2_VL,
    "qwen2_5_vl": qwen.QWEN2_5_VL,
    "qwen3_vl": qwen.QWEN3_VL,
    "qwen3_5": qwen.QWEN3_5,
    "qwen3_vl_moe": qwen.QWEN3_VL,
    "qwen3_5_moe": qwen.QWEN3_5,
    "qwen2_5_omni_thinker": qwen.QWEN2_5_OMNI,
    "qwen3_omni_moe_thinker": qwen.QWEN3_OMNI,
    "cohere_compass": qwen.QWEN3_VL,
    "cosmos3_edge": qwen.COSMOS3,
    "exaone4_5": qwen.EXAONE4_5,
    "hyperclovax_vision_v2": qwen.EXAONE4_5,
    "lfm3_vl": qwen.LFM3,
    "paddleocr_vl": qwen.PADDLE_OCR,
    "video_llama_3": qwen.VIDEO_LLAMA3,
    "glm4v": qwen.GLM4V,
    "glm4v_moe": qwen.GLM4V,
    "glm46v": qwen.GLM4V,
    "glmga": qwen.GLM4V,
    "glm_ocr": qwen.GLM4V,
    "paligemma": gemma.PALIGEMMA,
    "gemma3": gemma.GEMMA3,
    "gemma4": gemma4.GEMMA4,
}
"""By model type of the config, or, before that, by model type and that of the vision tower; see ``register_family``."""

_CROSS_ATTENTION = "its LLM reads the image by cross-attention: there are no image tokens in the text"
_ENCODER = "it is an encoder and a decoder: its image tokens are not in the text that the decoder goes on with"
_QUERIES = "its queries read the image together with the question: no prefix is the same for all prompts"
_NO_STATES = "it cannot be given an image that is encoded already, so the tower would run again for every prompt"
_CODES = "images are codes of a picture tokenizer, without a vision tower"

UNFIT: dict[str, str] = {
    "mllama": _CROSS_ATTENTION,
    "idefics": _CROSS_ATTENTION,
    "blip": _CROSS_ATTENTION,
    "evolla": "it reads proteins, no images",
    "florence2": _ENCODER,
    "t5gemma2": _ENCODER,
    "udop": _ENCODER,
    "pix2struct": _ENCODER,
    "pp_formulanet": _ENCODER,
    "vision-encoder-decoder": _ENCODER,
    "blip-2": "it knows no conversation: its LLM goes on with the image, without a chat template",
    "instructblip": _QUERIES,
    "instructblipvideo": _QUERIES,
    "kosmos-2": _NO_STATES,
    "kosmos-2.5": _NO_STATES,
    "chameleon": _CODES,
    "emu3": _CODES,
    "fuyu": "it has no vision tower: patches enter the LLM as they are",
    "git": "the image stands before a text without image tokens, in an LLM of its own kind",
    "diffusion_gemma": "it writes blocks of text by diffusion, not token after token",
    "pi0": "it gives the movements of a robot, not text",
    "mistral4": "it is a language model without a vision tower",
}
"""Model types of transformers that take an image and a text, but not as Lumen reads them, with the reason."""


def register_family(name: str, family: Family) -> None:
    """Make a family known, for a model type that is not among ``FAMILIES``.

    Call it before the adapter is built. A config does not run what it imports, so the call is in a module beside it,
    which the config names in ``custom_imports = dict(imports=["my_module"])``.

    Args:
        name: Model type of the config, ``my_lmm``; or model type and that of the vision tower, ``llava/my_tower``,
            which comes before the model type alone.
        family: What differs in this family; the defaults of ``Family`` are the most common answers.

    Raises:
        ConfigError: If the name is taken by another family.
    """
    if FAMILIES.get(name, family) != family:
        raise ConfigError(f"the family {name!r} is known already: choose another name and give it as family")
    FAMILIES[name] = family


def family_of(config: PretrainedConfig, name: str | None = None) -> Family:
    """Return the functions for a model.

    Args:
        config: The model's config.
        name: Key of ``FAMILIES``; by the model types in the config when left out.

    Raises:
        ConfigError: If the family is unknown, or the model is not of a kind that Lumen can read; with what to add.
    """
    kind = config.model_type
    if name is None and kind in UNFIT:
        raise ConfigError(f"model type {kind!r} does not fit: {UNFIT[kind]}")
    lacking = [part for part in ("vision_config", "text_config") if getattr(config, part, None) is None]
    if lacking:
        raise ConfigError(f"model type {kind!r} has no {lacking}: it is not a model that takes images and text")
    if getattr(config, "image_token_id", None) is None:
        raise ConfigError(f"config.json of model type {kind!r} names no image_token_id: write it there")
    keys = [f"{kind}/{config.vision_config.model_type}", kind] if name is None else [name]
    found = next((FAMILIES[key] for key in keys if key in FAMILIES), None)
    if found is None:
        raise ConfigError(
            f"no LMM family for {keys[0]!r}; known are {sorted(FAMILIES)}. Where it works like one of them, give that "
            "name as family; else add one by lumen.lmm.families.register_family(name, Family(...)): which sizes it "
            "takes, how its image tokens lie on a grid, and what other inputs it needs"
        )
    return found

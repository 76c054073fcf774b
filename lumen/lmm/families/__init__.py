"""What really differs between LMM families, as small functions. No other module asks which family a model is of."""

from transformers import PretrainedConfig

from lumen.errors import ConfigError
from lumen.lmm.families import gemma, llava, merged, qwen
from lumen.lmm.families.family import Family, InputSpec

__all__ = ["FAMILIES", "Family", "InputSpec", "family_of"]

FAMILIES: dict[str, Family] = {
    "llava": llava.CLIP_LLAVA,
    "llava/lumen_nano_vision": llava.NANO,
    "llava/lumen_efficientnet_lite0": llava.EFFICIENTNET,
    "llava/pixtral": merged.PIXTRAL,
    "vipllava": llava.CLIP_LLAVA,
    "llava_next": llava.ONE_TILE,
    "llava_onevision": llava.ONE_TILE,
    "internvl": merged.INTERNVL,
    "idefics3": merged.IDEFICS3,
    "smolvlm": merged.IDEFICS3,
    "mistral3": merged.MISTRAL3,
    "aya_vision": merged.AYA,
    "cohere2_vision": merged.COHERE2,
    "deepseek_vl": Family(),
    "lfm2_vl": merged.LFM2,
    "qwen2_vl": qwen.QWEN2_VL,
    "qwen2_5_vl": qwen.QWEN2_5_VL,
    "qwen3_vl": qwen.QWEN3_VL,
    "qwen3_5": qwen.QWEN3_5,
    "glm4v": qwen.GLM4V,
    "paligemma": gemma.PALIGEMMA,
    "gemma3": gemma.GEMMA3,
}
"""By model type of the config, or, before that, by model type and that of the vision tower."""


def family_of(config: PretrainedConfig) -> Family:
    """Return the functions for a model, by the model types in its config.

    Raises:
        ConfigError: If the family is unknown; the message names what to add.
    """
    key = f"{config.model_type}/{config.vision_config.model_type}"
    found = FAMILIES.get(key) or FAMILIES.get(config.model_type)
    if found is None:
        raise ConfigError(
            f"no LMM family for model type {key!r}; known are {sorted(FAMILIES)}. Add a Family to "
            "lumen/lmm/families: which sizes it takes, how its image tokens lie on a grid, and what else it wants"
        )
    return found

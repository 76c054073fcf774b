"""How bare LMMs are asked for places and write them, one file per format. Wording of a model's own stands here alone.

A dialect is chosen by the model type, or by the option ``generation.dialect``, as a name or a dict of its fields.
"""

from collections.abc import Mapping
from typing import Any

from lumen.errors import ConfigError
from lumen.lmm.dialects.dialect import SCORES, Dialect, read_dialect
from lumen.lmm.dialects.glm4v import GLM4V
from lumen.lmm.dialects.internvl import INTERNVL
from lumen.lmm.dialects.json_objects import QWEN2_5_VL, QWEN3_VL
from lumen.lmm.dialects.kosmos2 import KOSMOS2
from lumen.lmm.dialects.molmo import MOLMO, MOLMO2
from lumen.lmm.dialects.nano import CORNER_WORDS
from lumen.lmm.dialects.paligemma import PALIGEMMA
from lumen.lmm.dialects.plain import DECIMALS
from lumen.lmm.dialects.qwen2_vl import QWEN2_VL

__all__ = ["DIALECTS", "SCORES", "UNREADABLE", "Dialect", "choose_dialect", "require_dialect"]

DIALECTS: dict[str, Dialect] = {
    dialect.name: dialect
    for dialect in (
        *(QWEN2_VL, QWEN2_5_VL, QWEN3_VL, PALIGEMMA, INTERNVL, GLM4V),
        *(MOLMO, MOLMO2, KOSMOS2, DECIMALS, CORNER_WORDS),
    )
}
"""By name."""

_BY_MODEL_TYPE = {
    "qwen2_vl": QWEN2_VL,
    "qwen2_5_vl": QWEN2_5_VL,
    "qwen3_vl": QWEN3_VL,
    "qwen3_vl_moe": QWEN3_VL,
    "qwen3_5": QWEN3_VL,
    "qwen3_5_moe": QWEN3_VL,
    "paligemma": PALIGEMMA,
    "internvl": INTERNVL,
    "glm4v": GLM4V,
    "glm4v_moe": GLM4V,
    "glm46v": GLM4V,
    "molmo": MOLMO,
    "molmo2": MOLMO2,
    "kosmos-2": KOSMOS2,
}

UNREADABLE = {
    "florence2": "it is an encoder and a decoder, which Lumen does not run; use it through transformers",
}
"""Model types that write places which Lumen does not read, with the reason."""


def choose_dialect(
    given: str | Mapping[str, Any] | Dialect | None, model_type: str, declared: str | None = None
) -> Dialect | None:
    """Return the dialect of a model.

    Args:
        given: A name of ``DIALECTS``, a dict of the fields of ``Dialect``, a dialect, or None for that of the model.
        model_type: As in the model's config.
        declared: A name of ``DIALECTS`` in the model's config, as ``dialect``; it counts before the model type.

    Returns:
        None where the model has no known one and none is given.

    Raises:
        ConfigError: There is no dialect of that name, or a field of it is not accepted.
    """
    given = declared if given is None else given
    if given is None:
        return _BY_MODEL_TYPE.get(model_type)
    if isinstance(given, Mapping):
        return read_dialect(given)
    if isinstance(given, str) and given not in DIALECTS:
        raise ConfigError(f"there is no dialect {given!r}; known are {sorted(DIALECTS)}")
    return DIALECTS[given] if isinstance(given, str) else given


def require_dialect(dialect: Dialect | None, model_type: str) -> Dialect:
    """Return the dialect of a model that is asked for places.

    Raises:
        ConfigError: It has none; says what to do instead.
    """
    if dialect is not None:
        return dialect
    reason = UNREADABLE.get(model_type, "it is not known to write boxes")
    raise ConfigError(
        f"model type {model_type!r} cannot be asked for boxes as it is: {reason}. Train a decoder on it, which needs "
        "boxes for some pictures (configs/finetune/detection.py), or, if it writes boxes like one of "
        f"{sorted(DIALECTS)}, name that as --dialect, or generation.dialect in a config"
    )

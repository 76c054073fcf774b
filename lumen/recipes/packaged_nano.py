"""The packaged nano in place of a large LMM.

It stands behind a task:

    with read_base():
        from lumen.recipes.detection import *
        from lumen.recipes.packaged_nano import *
    model["lmm"], model["aligner"] = _lmm, _aligner

``[LOC]`` is new to nano: its tower goes on learning, its LLM at a fifth of the rate. With ``custom_hooks = [_freeze,
*custom_hooks]`` behind it, nano stays unchanged but for LoRA. ``model.input_hw`` may be any multiple of 16.
"""

from mmengine.config import read_base

with read_base():
    from lumen.recipes.nano import *
    from lumen.recipes.schedule_nano import *

_lmm["name_or_path"] = "nano"
_lmm["base"]["new_tokens"] = "learn"
_lmm["readout"]["phrase_reconstruction"] = False
_llm = ["lmm.base_model.model.language_model.*", "lmm.base_model.model.multi_modal_projector.*"]
optim_wrapper["paramwise_cfg"]["adamw"] = [*_tokens, *_llm]
optim_wrapper["paramwise_cfg"]["lr_mult"] = {
    "lmm.*": 1.0,
    **dict.fromkeys(_llm, 0.2),
    **dict.fromkeys(_tokens, 0.1),
}

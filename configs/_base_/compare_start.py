"""The comparison's first stage: the seeing nano learns to read the images through another connector.

The connector starts from scratch and is trained with the LLM, on the texts of the seeing nano's last stage: questions,
relations, lists, and boxes of sentences in words. The tower is frozen. All cells with that connector start from here.
"""

from mmengine.config import read_base

from lumen.engine.hooks import FreezeHook

with read_base():
    from .compare_connectors import *
    from .seeing_texts import *

_lmm["name_or_path"] = "nano"
_lmm["base"] = dict(attention="plain", connector=_linear)
model = dict(_model, loss_weights=dict(loss_text=0.05))
_ask_relations["weight"] = 1.5
_ask_more_relations["weight"] = 1.5
_ask_more_relations["num_prompts"] = 3
_ask_places["weight"] = 0.6
optim_wrapper["paramwise_cfg"]["lr_mult"] = {"lmm.*": 0.33, "lmm.base_model.model.multi_modal_projector.*": 1.0}
param_scheduler["decay"] = dict(type=CosineAnnealingLR, eta_min_ratio=0.01)
custom_hooks = [dict(type=FreezeHook, freeze=["heads.*", "word_reader.*", "lmm.base_model.model.vision_tower.*"])]
train_cfg = dict(max_iters=800)  # tools/compare.py sets it by the clock

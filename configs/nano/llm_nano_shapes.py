"""Third stage of the seeing nano: connector and LLM learn to answer, with the tower frozen and few tokens first.

Few tokens first: a word finds its object sooner where there is less to look at.

    python tools/train.py configs/nano/llm_nano_shapes.py
"""

from mmengine.config import read_base

from lumen.engine.hooks import FewTokensHook, FreezeHook

with read_base():
    from .._base_.seeing_texts import *

model = dict(_model, loss_weights=dict(loss_words=0.02, loss_text=0.05))
train_cfg = dict(max_iters=1200)
custom_hooks = [
    dict(type=FreezeHook, freeze=["heads.*", "lmm.base_model.model.vision_tower.*"]),
    dict(type=FewTokensHook, stages=[(0.0, 8), (0.5, 32), (0.7, None)]),
]
load_from = "work_dirs/connector_nano_shapes/iter_300.pth"

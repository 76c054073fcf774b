"""Last stage of the seeing nano: tower, connector and LLM together.

The tower goes on at a third of the rate, since its loss would rise first.

    python tools/train.py configs/nano/joint_nano_shapes.py
"""

from mmengine.config import read_base

from lumen.engine.hooks import FewTokensHook

with read_base():
    from .._base_.seeing_texts import *

_ask_relations["weight"] = 1.5
_ask_more_relations["weight"] = 1.5
_ask_more_relations["num_prompts"] = 3
_ask_places["weight"] = 0.6
model = dict(_model, loss_weights=dict(loss_cells=0.5, loss_objects=0.5, loss_words=0.02, loss_text=0.05))
train_dataloader["dataset"] = dict(
    _joined,
    base=_images,
    pipeline=[_load, _resize, _keep, _cells, *_texts, _pack],
)
optim_wrapper["optimizer"]["lr"] = 2e-3
optim_wrapper["optimizer"]["muon_lr"] = 0.015
_tower = ["lmm.base_model.model.vision_tower.*", "heads.*"]
optim_wrapper["paramwise_cfg"]["lr_mult"] = dict.fromkeys(_tower, 0.33)
train_cfg = dict(max_iters=1600)
custom_hooks = [dict(type=FewTokensHook, stages=[(0.0, 16), (0.35, None)])]
load_from = "work_dirs/llm_nano_shapes/iter_1200.pth"

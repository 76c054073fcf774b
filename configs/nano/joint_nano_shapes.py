"""Last stage of the seeing nano: tower, connector and LLM together.

python tools/train.py configs/nano/joint_nano_shapes.py
"""

from mmengine.config import read_base

with read_base():
    from .._base_.seeing_texts import *

model = dict(_model, loss_weights=dict(loss_cells=0.5, loss_objects=0.5, loss_words=0.02, loss_text=0.05))
train_dataloader["dataset"] = dict(
    _joined,
    base=_images,
    pipeline=[_load, _resize, _keep, _cells, *_texts, _pack],
)
optim_wrapper["optimizer"]["lr"] = 2e-3
optim_wrapper["optimizer"]["muon_lr"] = 0.015
train_cfg = dict(max_iters=600)
load_from = "work_dirs/llm_nano_shapes/iter_1200.pth"

"""First stage of the seeing nano: its vision tower learns what each cell and each object of shapes is.

python tools/make_nano.py --out data/nano_blank --llm-layers 4 --tied --seeing
python tools/train.py configs/nano/tower_nano_shapes.py
"""

from mmengine.config import read_base

from lumen.engine.hooks import FreezeHook

with read_base():
    from .._base_.seeing_nano import *

model = dict(_model, loss_weights=dict(loss_cells=1.0, loss_objects=1.0))
train_dataloader = dict(_loader, dataset=dict(_images, pipeline=[_load, _resize, _keep, _cells, _pack]))
train_cfg = dict(max_iters=1300)
custom_hooks = [
    dict(
        type=FreezeHook,
        freeze=["lmm.*"],
        trainable=["lmm.base_model.model.vision_tower.*"],
    )
]

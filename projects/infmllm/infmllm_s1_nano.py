"""InfMLLM in small, stage 1: the connector alone learns captions of shapes at 160 pixels.

The README has figures.

    python tools/make_shapes.py
    python tools/train.py projects/infmllm/infmllm_s1_nano.py
"""

from mmengine.config import read_base

from lumen.engine.hooks import FreezeHook

with read_base():
    from ._infmllm_nano import *

model = dict(_model, input_hw=(160, 160))
custom_hooks = [dict(type=FreezeHook, freeze=["lmm.*"], trainable=[_connector])]
optim_wrapper["paramwise_cfg"]["lr_mult"] = {_connector: 0.1}
train_dataloader = dict(_loader, dataset=dict(_captions, pipeline=[_load, _resize, _caption, _pack]))
train_cfg = dict(max_iters=100, val_interval=None)

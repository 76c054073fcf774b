"""Second stage of the seeing nano: the connector learns the words of what each image token shows.

It is trained alone, with tower and LLM frozen.

    python tools/train.py configs/nano/connector_nano_shapes.py
"""

from mmengine.config import read_base

from lumen.engine.hooks import FreezeHook

with read_base():
    from .._base_.seeing_nano import *

model = dict(_model, loss_weights=dict(loss_words=1.0))
train_dataloader = dict(_loader, dataset=dict(_images, with_masks=False, pipeline=[_load, _resize, _keep, _pack]))
train_cfg = dict(max_iters=300)
custom_hooks = [
    dict(
        type=FreezeHook,
        freeze=["*"],
        trainable=["lmm.base_model.model.multi_modal_projector.*", "word_reader.*"],
    )
]
load_from = "work_dirs/tower_nano_shapes/iter_1300.pth"

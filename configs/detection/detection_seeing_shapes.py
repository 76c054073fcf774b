"""Detection on the packaged nano, which sees already: aligner and decoder learn, as the paper's do on LLaVA.

The demo of ``make demo``. The vision tower is frozen; the LLM goes on at a small rate, since its ``[LOC]`` is new.

    python tools/make_shapes.py
    python tools/train.py configs/detection/detection_seeing_shapes.py
    python tools/test.py configs/detection/detection_seeing_shapes.py work_dirs/detection_seeing_shapes
"""

from mmengine.config import read_base

from lumen.engine.hooks import EmaHook, FreezeHook

with read_base():
    from .detection_nano_shapes import *

_lmm["name_or_path"] = "nano"
_lmm["readout"]["phrase_reconstruction"] = False
model["loss_weights"] = {"aligner/loss_presence": 0.5, "detection/loss_box": 2.0}
optim_wrapper["paramwise_cfg"]["lr_mult"] = {**dict.fromkeys(_tokens, 0.1), "lmm*": 0.1}
train_cfg = dict(max_iters=1000)
custom_hooks = [
    dict(type=EmaHook, decay=0.998),
    dict(
        type=FreezeHook, freeze=["lmm.base_model.model.vision_tower.*", "lmm.base_model.model.multi_modal_projector.*"]
    ),
]

"""Detection on the packaged nano, which sees already: aligner and decoder learn, as the paper's do on LLaVA.

The training of ``make demo``. ``[LOC]`` is new to the LMM, so all of it goes on learning, at half of the rate.

    python tools/make_shapes.py
    python tools/train.py configs/detection/detection_seeing_shapes.py
    python tools/test.py configs/detection/detection_seeing_shapes.py work_dirs/detection_seeing_shapes
"""

from mmengine.config import read_base

from lumen.decoders.detection import DetectionDecoder
from lumen.engine.hooks import EmaHook

with read_base():
    from .._base_.detection_coco import *
    from .._base_.nano import _lmm, _model
    from .._base_.runtime import *
    from .._base_.schedule_nano import *

_lmm["name_or_path"] = "nano"
_lmm["base"]["new_tokens"] = "learn"
_lmm["readout"]["phrase_reconstruction"] = False
model = dict(
    _model,
    input_hw=(160, 160),
    decoders=[dict(type=DetectionDecoder)],
    loss_weights={"aligner/loss_presence": 0.5, "detection/loss_box": 2.0},
)
optim_wrapper["paramwise_cfg"]["lr_mult"] = {"lmm.*": 0.5, "lmm.*new_tokens*": 1.0, **dict.fromkeys(_tokens, 0.1)}
train_cfg = dict(max_iters=1000)
custom_hooks = [dict(type=EmaHook, decay=0.998)]

"""Nano from nothing on shapes, 8 classes asked at once.

Expected: AP .74, AP50 .92, clock 276 to 305: about ten minutes on one CPU core.

    python tools/make_nano.py --out data/nano
    python tools/make_shapes.py --out data/shapes
    python tools/train.py configs/detection/detection_nano_shapes.py
    python tools/test.py configs/detection/detection_nano_shapes.py work_dirs/detection_nano_shapes/iter_2300.pth
"""

from mmengine.config import read_base
from mmengine.optim import CosineAnnealingLR, LinearLR

from lumen.decoders.detection import DetectionDecoder
from lumen.model import Lumen

with read_base():
    from .._base_.detection_coco import *
    from .._base_.nano import _aligner, _lmm, _loss_weights
    from .._base_.runtime import *
    from .._base_.schedule_nano import *

_num_iters = 2300

model = dict(type=Lumen, lmm=_lmm, aligner=_aligner, decoders=[dict(type=DetectionDecoder)], loss_weights=_loss_weights)
train_cfg = dict(max_iters=_num_iters, val_interval=_num_iters)
param_scheduler = [
    dict(type=LinearLR, start_factor=0.01, by_epoch=False, begin=0, end=200),
    dict(type=CosineAnnealingLR, by_epoch=False, begin=200, end=_num_iters, T_max=_num_iters - 200, eta_min=3e-5),
]

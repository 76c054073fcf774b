"""Nano from scratch on shapes, 8 classes asked at once.

Expected: AP .74, AP50 .92 on val, a little more on test; 552 to 610 CPU seconds.

    python tools/make_nano.py --out data/nano
    python tools/make_shapes.py --out data/shapes
    python tools/train.py configs/detection/detection_nano_shapes.py
    python tools/test.py configs/detection/detection_nano_shapes.py work_dirs/detection_nano_shapes/iter_2300.pth
"""

from mmengine.config import read_base

from lumen.decoders.detection import DetectionDecoder

with read_base():
    from .._base_.detection_coco import *
    from .._base_.nano import _loss_weights, _model
    from .._base_.runtime import *
    from .._base_.schedule_nano import *

model = dict(
    _model,
    input_hw=(160, 160),
    decoders=[dict(type=DetectionDecoder)],
    loss_weights={**_loss_weights, "detection/loss_box": 2.0},
)
train_cfg = dict(max_iters=2300)

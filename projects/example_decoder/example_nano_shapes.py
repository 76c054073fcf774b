"""Pointing on shapes with nano: everything but the task is that of detection.

python tools/train.py projects/example_decoder/example_nano_shapes.py
python tools/test.py projects/example_decoder/example_nano_shapes.py work_dirs/example_nano_shapes/iter_1000.pth
"""

from example_decoder import PointingAccuracy, PointingDecoder
from mmengine.config import read_base

with read_base():
    from ...configs._base_.detection_coco import *
    from ...configs._base_.nano import _lmm, _model
    from ...configs._base_.runtime import *
    from ...configs._base_.schedule_nano import *

# How the task is asked for: the words of its answer and the token that ends it.
_lmm["tasks"] = [dict(name="pointing", answer_format="points", routing_token="[PTG]")]
model = dict(_model, input_hw=(160, 160), decoders=[dict(type=PointingDecoder)])
val_evaluator = dict(type=PointingAccuracy)
test_evaluator = val_evaluator
train_cfg = dict(max_iters=1000)

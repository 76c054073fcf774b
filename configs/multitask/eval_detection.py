"""Boxes of the multi-task nano: 8 names asked on each of the 300 test images.

python tools/test.py configs/multitask/eval_detection.py work_dirs/multitask_nano_shapes
"""

from mmengine.config import read_base

from lumen.data.coco import CocoDataset
from lumen.metrics.calibration import CalibrationMetric
from lumen.metrics.coco.metric import CocoMetric

with read_base():
    from .._base_.multitask_eval import *

test_dataloader["dataset"] = dict(
    _images, type=CocoDataset, ann_file=_instances, pipeline=[_load, _resize, _ask, _pack]
)
test_evaluator = [dict(type=CocoMetric), dict(type=CalibrationMetric)]

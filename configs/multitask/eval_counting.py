"""Counts of the multi-task nano, from the peaks of the heatmap; 8 names asked on each image.

python tools/test.py configs/multitask/eval_counting.py work_dirs/multitask_nano_shapes
"""

from mmengine.config import read_base

from lumen.data.coco import CocoDataset
from lumen.metrics.counting import CountingMetric

with read_base():
    from .._base_.multitask_eval import *

_ask["task"] = "counting"
test_dataloader["dataset"] = dict(
    _images, type=CocoDataset, ann_file=_instances, pipeline=[_load, _resize, _ask, _pack]
)
test_evaluator = dict(type=CountingMetric, baseline=0.49)  # the mean count of a class in the training images

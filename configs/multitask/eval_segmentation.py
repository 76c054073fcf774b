"""Instance masks of the multi-task nano.

python tools/test.py configs/multitask/eval_segmentation.py work_dirs/multitask_nano_shapes
"""

from mmengine.config import read_base

from lumen.data.coco import CocoDataset
from lumen.metrics.coco.metric import CocoMetric

with read_base():
    from .._base_.multitask_eval import *

_ask["task"] = "segmentation"
test_dataloader["dataset"] = dict(
    _images, type=CocoDataset, ann_file=_instances, with_masks=True, pipeline=[_load, _resize, _ask, _pack]
)
test_evaluator = dict(type=CocoMetric, iou_type=("segm", "bbox"))

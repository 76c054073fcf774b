"""Instance masks of the multi-task nano on images of COCO: all 80 names asked on each.

    python tools/test.py configs/multitask/eval_tiny_coco_segmentation.py work_dirs/multitask_nano_tiny_coco

Other images: see ``eval_tiny_coco_detection.py``.
"""

from mmengine.config import read_base

from lumen.data.coco import CocoDataset
from lumen.metrics.coco.metric import CocoMetric

with read_base():
    from .._base_.tiny_coco_eval import *

_ask["task"] = "segmentation"
test_dataloader["dataset"] = dict(
    _images, type=CocoDataset, ann_file=_instances, with_masks=True, pipeline=[_load, _resize, _ask, _pack]
)
test_evaluator = dict(type=CocoMetric, iou_type=("segm", "bbox"))

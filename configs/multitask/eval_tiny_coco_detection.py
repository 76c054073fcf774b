r"""Boxes of the multi-task nano on images of COCO: all 80 names asked on each.

    python tools/test.py configs/multitask/eval_tiny_coco_detection.py work_dirs/multitask_nano_tiny_coco

Images that it was not trained on:

    ... --cfg-options test_dataloader.dataset.data_prefix.img=val2017 \
        test_dataloader.dataset.ann_file=annotations/instances_val2017.json
"""

from mmengine.config import read_base

from lumen.data.coco import CocoDataset
from lumen.metrics.coco.metric import CocoMetric

with read_base():
    from .._base_.tiny_coco_eval import *

test_dataloader["dataset"] = dict(
    _images, type=CocoDataset, ann_file=_instances, pipeline=[_load, _resize, _ask, _pack]
)
test_evaluator = dict(type=CocoMetric)

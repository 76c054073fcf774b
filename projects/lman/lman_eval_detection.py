"""Boxes of persons in scenes. Wanted: AP50 at least .85.

python tools/test.py projects/lman/lman_eval_detection.py work_dirs/lman_s2_nano
"""

from lman_metrics import MissRate
from mmengine.config import read_base

from lumen.data.coco import CocoDataset
from lumen.metrics.coco.metric import CocoMetric

with read_base():
    from ._lman_eval import *

_ask["task"] = "detection"
test_dataloader["dataset"] = dict(
    _test,
    type=CocoDataset,
    ann_file="annotations/scenes_test.json",
    data_prefix=dict(img="scenes/test"),
    pipeline=[_load, _resize, _ask, _pack],
)
test_evaluator = [dict(type=CocoMetric), dict(type=MissRate)]

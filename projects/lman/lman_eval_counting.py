"""Numbers of persons in crowds. Wanted: an error of at most .3 of that of the training mean.

python tools/test.py projects/lman/lman_eval_counting.py work_dirs/lman_s2_nano
"""

from mmengine.config import read_base

from lumen.data.coco import CocoDataset
from lumen.metrics.counting import CountingMetric

with read_base():
    from ._lman_eval import *

_ask["task"] = "counting"
test_dataloader["dataset"] = dict(
    _test,
    type=CocoDataset,
    ann_file="annotations/crowds_test.json",
    data_prefix=dict(img="crowds/test"),
    pipeline=[_load, _resize, _ask, _pack],
)
test_evaluator = dict(type=CountingMetric, baseline=17.9)  # the mean of the training crowds of seed 0

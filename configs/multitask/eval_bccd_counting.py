"""Counts of blood cells by ``multitask_nano_bccd.py`` on the test split of BCCD: the errors of each kind, and of all.

    python tools/test.py configs/multitask/eval_bccd_counting.py work_dirs/multitask_nano_bccd

A peak counts from ``min_score`` on, unless a higher place is within ``min_distance`` cells. Both are chosen on the val
split:

    ... --cfg-options model.decoders.1.min_score=0.4 test_dataloader.dataset.ann_file=annotations/instances_val.json
"""

from mmengine.config import read_base

from lumen.metrics.counting import CountingMetric

with read_base():
    from .multitask_nano_bccd import *

_val_ask["task"] = "counting"
# What a model that does not see the image would answer: the mean counts of the training split.
test_evaluator = dict(type=CountingMetric, baseline=dict(RBC=11.61, WBC=1.04, Platelets=1.02))
optim_wrapper = None
param_scheduler = None
custom_hooks = None
train_dataloader = None
train_cfg = None
val_dataloader = None
val_evaluator = None
val_cfg = None

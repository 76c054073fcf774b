"""What the tower of the seeing nano knows of the objects of shapes, read by its linear heads at their tokens.

A check of the first stage; the heads are no part of the model.

    python tools/test.py configs/nano/eval_tower_nano.py work_dirs/nano/tower
"""

from mmengine.config import read_base
from mmengine.dataset import DefaultSampler

from lumen.metrics.objects import ObjectsMetric

with read_base():
    from .._base_.seeing_nano import *

model = dict(_model, loss_weights=dict(loss_objects=1.0))
optim_wrapper = None
param_scheduler = None
test_dataloader = dict(
    _loader,
    sampler=dict(type=DefaultSampler, shuffle=False),
    dataset=dict(
        _images,
        ann_file="annotations/instances_test.json",
        data_prefix=dict(img="test"),
        with_masks=False,
        test_mode=True,
        pipeline=[dict(type=LoadImage), dict(type=ResizeToInput), _keep, _pack],
    ),
)
test_evaluator = dict(type=ObjectsMetric, attributes=["labels", "colour", "texture", "size"])
test_cfg = dict(dtype="bfloat16")

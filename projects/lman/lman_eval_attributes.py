"""Attributes of persons in portraits. Wanted: mA at least .85; one answer to all has .50.

python tools/test.py projects/lman/lman_eval_attributes.py work_dirs/lman_s2_nano
"""

from lman_metrics import AttributeMetric
from mmengine.config import read_base

from lumen.data.coco import CocoDataset

with read_base():
    from ._lman_eval import *

_ask["task"] = "attributes"
test_dataloader["dataset"] = dict(
    _test,
    type=CocoDataset,
    ann_file="annotations/attributes_test.json",
    data_prefix=dict(img="portraits/test"),
    pipeline=[_load, _resize, _ask, _pack],
)
test_evaluator = dict(type=AttributeMetric)

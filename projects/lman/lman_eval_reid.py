"""Persons found again by another camera: 40 identities that training never saw.

Wanted: rank-1 at least .70, and .20 above the nearest neighbour by colour: ``python projects/lman/lman_blind.py``.

    python tools/test.py projects/lman/lman_eval_reid.py work_dirs/lman_s2_nano
"""

from lman_metrics import ReidMetric
from mmengine.config import read_base

from lumen.data.attributes import AttributesDataset

with read_base():
    from ._lman_eval import *

_ask["task"] = "reid"
test_dataloader["dataset"] = dict(
    _test,
    type=AttributesDataset,
    attributes=dict(identity=list(range(120, 160)), camera=[1, 2]),
    ann_file="annotations/identities_test.json",
    data_prefix=dict(img="identities/test"),
    pipeline=[_load, _resize, _ask, _pack],
)
test_evaluator = dict(type=ReidMetric)

"""Parts of a person in portraits. Wanted: mIoU at least .60, background among the classes.

The most frequent part at each place of the box has at most .30: ``python projects/lman/lman_blind.py``.

    python tools/test.py projects/lman/lman_eval_parsing.py work_dirs/lman_s2_nano
"""

from mmengine.config import read_base

from lumen.data.semantic import SemanticDataset
from lumen.metrics.semantic import SemanticMetric

with read_base():
    from ._lman_eval import *

_ask["task"] = "semantic_segmentation"
test_dataloader["dataset"] = dict(
    _test,
    type=SemanticDataset,
    classes=_parts,
    data_prefix=dict(img="portraits/test", seg="parts/portraits/test"),
    pipeline=[_load, dict(_resize, min_visible=0.0), _ask, _pack],
)
test_evaluator = dict(type=SemanticMetric, classwise=True)

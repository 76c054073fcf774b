"""A choice among 16 boxes, beside 25 image tokens that read the tower by queries. A cell of docs/comparison.md.

python tools/compare.py run --cell objects_query --seed 0
"""

from mmengine.config import read_base

with read_base():
    from .._base_.compare_objects import *

_objects["inner"] = _query
load_from["checkpoint"] = _start.format("query")

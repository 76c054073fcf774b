"""The box from the slot alone, from 25 image tokens that read the tower by queries. A cell of docs/comparison.md.

python tools/compare.py run --cell slot_query --seed 0
"""

from mmengine.config import read_base

with read_base():
    from .._base_.compare_slot import *

_lmm["base"]["connector"] = _query
load_from["checkpoint"] = _start.format("query")

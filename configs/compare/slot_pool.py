"""The box from the slot alone, from 25 image tokens, means of 2 x 2 cells. A cell of docs/comparison.md.

python tools/compare.py run --cell slot_pool --seed 0
"""

from mmengine.config import read_base

with read_base():
    from .._base_.compare_slot import *

_lmm["base"]["connector"] = _pool
load_from["checkpoint"] = _start.format("pool")

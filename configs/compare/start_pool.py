"""The seeing nano learns to read 25 image tokens, means of 2 x 2 cells. See docs/comparison.md.

python tools/compare.py run --cell slot_pool --seed 0
"""

from mmengine.config import read_base

with read_base():
    from .._base_.compare_start import *

_lmm["base"]["connector"] = _pool

"""The seeing nano learns to read 100 image tokens, one for each cell of the tower. See docs/comparison.md.

python tools/compare.py run --cell slot_linear --seed 0
"""

from mmengine.config import read_base

with read_base():
    from .._base_.compare_start import *

_lmm["base"]["connector"] = _linear

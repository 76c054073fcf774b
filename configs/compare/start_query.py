"""The seeing nano learns to read 25 image tokens that read the tower by queries. See docs/comparison.md.

python tools/compare.py run --cell slot_query --seed 0
"""

from mmengine.config import read_base

with read_base():
    from .._base_.compare_start import *

_lmm["base"]["connector"] = _query

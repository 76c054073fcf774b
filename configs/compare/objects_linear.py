"""A choice among 16 boxes, beside 100 image tokens, one for each cell of the tower. A cell of docs/comparison.md.

python tools/compare.py run --cell objects_linear --seed 0
"""

from mmengine.config import read_base

with read_base():
    from .._base_.compare_objects import *

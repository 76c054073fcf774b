"""A heatmap from the slot, from 100 image tokens, one for each cell of the tower. A cell of docs/comparison.md.

python tools/compare.py run --cell heatmap_linear --seed 0
"""

from mmengine.config import read_base

with read_base():
    from .._base_.compare_heatmap import *

"""A heatmap from the slot on the grid of the image tokens alone, as in the paper. A cell of docs/comparison.md.

It tells what the dense features bring from what their finer grid brings: nothing else differs from ``heatmap_linear``.

    python tools/compare.py run --cell heatmap_linear_fine0 --seed 0
"""

from mmengine.config import read_base

with read_base():
    from .._base_.compare_heatmap import *

_aligner["fine_levels"] = 0

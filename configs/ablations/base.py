"""What every ablation departs from: the training of ``make demo``, without names of things that no image shows.

python tools/ablate.py run --cell base
"""

from mmengine.config import read_base

with read_base():
    from ..detection.detection_seeing_shapes import *

_ask["negatives"] = None

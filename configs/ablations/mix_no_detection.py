"""The mix of docs/ablations.md without class names; the other two keep their ratio.

python tools/ablate.py run --cell mix_no_detection
"""

from mmengine.config import read_base

with read_base():
    from .mix import *

train_dataloader["dataset"].update(datasets=[_refs, _points], weights=[_ref_share, _point_share])

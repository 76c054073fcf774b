"""The mix of docs/ablations.md without keypoints; the other two keep their ratio.

python tools/ablate.py run --cell mix_no_pose
"""

from mmengine.config import read_base

with read_base():
    from .mix import *

train_dataloader["dataset"].update(datasets=[_names, _refs], weights=[_name_share, _ref_share])

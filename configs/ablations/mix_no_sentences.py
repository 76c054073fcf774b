"""The mix of docs/ablations.md without sentences; the other two keep their ratio.

python tools/ablate.py run --cell mix_no_sentences
"""

from mmengine.config import read_base

with read_base():
    from .mix import *

train_dataloader["dataset"].update(datasets=[_names, _points], weights=[_name_share, _point_share])

"""Nano from scratch on BCCD's training and val splits, tested on its test split.

Run it with:

    python tools/train.py configs/detection/detection_nano_bccd_final.py
    python tools/test.py configs/detection/detection_nano_bccd_final.py work_dirs/detection_nano_bccd_final

Expected: see README, "Results".
"""

from mmengine.config import read_base
from mmengine.dataset import ConcatDataset

with read_base():
    from .detection_nano_bccd import *

_train = train_dataloader["dataset"]
train_dataloader["dataset"] = dict(
    type=ConcatDataset, datasets=[_train, dict(_train, ann_file="annotations/instances_val.json")]
)
val_dataloader = None
val_evaluator = None
val_cfg = None

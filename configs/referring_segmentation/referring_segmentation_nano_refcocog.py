"""Nano on RefCOCOg (UMD), long sentences: the mask that a sentence means. Tested on test.

Not measured.

    data/refer/refcocog/{refs(umd).p,instances.json}
    python tools/train.py configs/referring_segmentation/referring_segmentation_nano_refcocog.py
"""

from mmengine.config import read_base

with read_base():
    from .referring_segmentation_nano_refcoco import *

for _loader in (train_dataloader, val_dataloader, test_dataloader):
    _loader["dataset"].update(ann_file="refcocog/refs(umd).p", instances_file="refcocog/instances.json")
test_dataloader["dataset"]["split"] = "test"

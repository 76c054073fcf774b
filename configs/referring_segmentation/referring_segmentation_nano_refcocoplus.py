"""Nano on RefCOCO+ (UNC), whose sentences name no places: the mask that a sentence means.

Tested on testA (persons); testB by ``--cfg-options test_dataloader.dataset.split=testB``.

Not measured.

    data/refer/refcoco+/{refs(unc).p,instances.json}
    python tools/train.py configs/referring_segmentation/referring_segmentation_nano_refcocoplus.py
"""

from mmengine.config import read_base

with read_base():
    from .referring_segmentation_nano_refcoco import *

for _loader in (train_dataloader, val_dataloader, test_dataloader):
    _loader["dataset"].update(ann_file="refcoco+/refs(unc).p", instances_file="refcoco+/instances.json")
